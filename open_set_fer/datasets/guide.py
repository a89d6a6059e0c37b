"""What each data set is and needs: where to ask for it, where it must lie, what is checked; and the published counts."""

from __future__ import annotations

import inspect

from open_set_fer import plugins
from open_set_fer.datasets.contrast import CIFAR10
from open_set_fer.datasets.faceset import BASIC, CONTEMPT

GUIDES = {
    "ferplus": """FERPlus labels: github.com/microsoft/FERPlus (fer2013new.csv, MIT licence); images: FER2013 on Kaggle (fer2013.csv).
Lies in data/ferplus (or $OSFER_DATA/ferplus): fer2013new.csv with the folders FER2013Train, FER2013Valid, FER2013Test of PNG
files, or with the original fer2013.csv.
Checked: columns, usages, votes are counts, every named image is there and decodes. Ties, unknown and NF are dropped.""",
    "rafdb": """RAF-DB: ask for it at whdeng.cn/RAF/model1.html (academic use, a signed agreement).
Lies in data/rafdb (or $OSFER_DATA/rafdb): EmoLabel/list_patition_label.txt and Image/aligned/train_00001_aligned.jpg ... of the folder
`basic`.
Checked: form of each label line, class 1..7, no line twice, every image is there and decodes.""",
    "rafdb_compound": """RAF-DB compound: comes with RAF-DB (see `osfer data guide rafdb`).
Lies in data/rafdb_compound: EmoLabel and Image of the folder `compound`; the basic tree in data/rafdb is read with it.
Checked: as for rafdb, class 1..11 in the order of the paper; compare the numbering with the tree's own readme.""",
    "affectnet": """AffectNet: ask for it at mohammadmahoor.com/affectnet (academic use, a signed agreement).
Lies in data/affectnet: train_set and val_set (images, annotations), or training.csv and validation.csv with Manually_Annotated_Images.
Checked: every image has its annotation, expression 0..7 (8 to 10 dropped), boxes lie in their image, no path leads out.""",
    "cifar10": """CIFAR-10: www.cs.toronto.edu/~kriz/cifar.html, the python version.
Lies in data/cifar10: data_batch_1 ... data_batch_5 and test_batch of cifar-10-batches-py.
Checked: the pickles hold arrays only, labels 0..9, 3,072 pixels an image.""",
    "manifest": """Your own faces: needs a manifest or a folder tree, and, where its labels are not the suite's class names, a vocabulary.
Lies where `path` under [datasets.manifest] in a profile says: a CSV or Parquet file with the columns path (below the file's folder),
label, split (train, valid or test) and optionally left, top, right, bottom; or a folder <split>/<class>/<image>.
Vocabulary: a TOML file named by `vocabulary`, with lines such as  anger = ["angry", "ang", 6].
Checked: columns, splits, labels are in the vocabulary, no file twice, every image decodes, boxes (in the picture as a viewer shows
it, turned as its EXIF says) lie in their image, no path leads out of the folder.""",
    "synthetic": """Rendered faces of the seven basic expressions, the eleven compound ones and contempt, drawn by the suite itself: needs nothing.
For demonstration and tests; results on them say nothing about real faces.""",
    "digits": """scikit-learn's bundled handwritten digits, ten classes with a large distance between them, the contrast to faces: needs nothing,
they come with scikit-learn.""",
}

PUBLISHED = {
    "ferplus": {"train": 28709, "valid": 3589, "test": 3589},
    "rafdb": {"train": 12271, "test": 3068},
    "rafdb_compound": {"train": 12271 + 3162, "test": 3068 + 792},
    "cifar10": {"train": 50000, "test": 10000},
    "affectnet": {"train": 287651, "test": 4000},
}
"""Images a split as published; FERPlus' are rows of the votes file, before dropping.

AffectNet's are the manually annotated faces of expressions 0 to 7, in training.csv and validation.csv of the original layout
as in the trees of 2021 (some of which lack one validation face). The suite's paper and others report 286,564 train faces
instead, without counts by class.
"""

_RAFDB = {
    "train": dict(zip(BASIC, (1290, 281, 717, 4772, 1982, 705, 2524), strict=True)),
    "test": dict(zip(BASIC, (329, 74, 160, 1185, 478, 162, 680), strict=True)),
}
PUBLISHED_CLASSES = {
    "rafdb": _RAFDB,
    # Of the compound ones only the totals are well established.
    "rafdb_compound": _RAFDB,
    "cifar10": {"train": dict.fromkeys(CIFAR10, 5000), "test": dict.fromkeys(CIFAR10, 1000)},
    "affectnet": {
        "train": {
            "surprise": 14090, "fear": 6378, "disgust": 3803, "happiness": 134415, "sadness": 25459, "anger": 24882,
            "neutral": 74874, "contempt": 3750,
        },
        "test": dict.fromkeys((*BASIC, CONTEMPT), 500),
    },
}  # fmt: skip
"""Images a split and class as published, for the sets and classes where they are. FERPlus publishes votes, not labels."""


def guide(name: str) -> str:
    """What a user needs to know to get this data set; raises SuiteError for a name that no data set has.

    Of another package's data set its own docstring tells.
    """
    kind = plugins.load(plugins.DATASETS, name)
    told = inspect.cleandoc(kind.__doc__ or "") or "its package does not say more."
    return GUIDES.get(name, f"{name} ({kind.__module__}): {told}")
