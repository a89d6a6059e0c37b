"""The user's faces: a table, a folder tree or Parquet files with the images in them, with a class vocabulary.

Manifest: columns `path` (below the manifest's folder), `label`, `split` (train, valid or test) and, optionally, a
face box `left`, `top`, `right`, `bottom` in pixels of the picture as viewers show it (turned as its EXIF says); several
rows may name one picture if their boxes differ. Folder tree: `<root>/<split>/<class>/<image>`. Vocabulary:
`anger = ["angry", "ang", 6]` maps the data set's words and numbers to the suite's class names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from open_set_fer.datasets.cache import PreparedDataSet
from open_set_fer.datasets.decoding import VERSION, image_listing
from open_set_fer.datasets.embedded import EmbeddedImages, parquet_files, read_embedded
from open_set_fer.datasets.faceset import Channels, Side
from open_set_fer.datasets.folders import read_tree
from open_set_fer.datasets.listing import Listing, Rows, file_key, paths_inside
from open_set_fer.datasets.tables import face_ids, portable, read_boxes, read_manifest
from open_set_fer.datasets.vocabulary import EXPRESSIONS, Vocabulary, class_names, read_vocabulary, split_names
from open_set_fer.errors import SuiteError


@dataclass(frozen=True)
class Manifest(PreparedDataSet):
    """The user's faces, from a manifest, a folder tree, or Parquet files with images."""

    name = "manifest"
    title = "Own faces"
    guide = """Your faces: needs a table, a folder tree or Parquet files with the images in them.
Expected at `path` under [datasets.manifest] in a profile: a CSV or Parquet file with the columns path (below the file's
folder, or `root`), label, split (train, valid or test; also training, val, validation, testing, and FER2013's) and
optionally left, top, right, bottom, with which one picture may have several rows; or a folder <split>/<class>/<image>
(or <class>/<split>/<image>); or a Parquet file, or a folder of them, as the Hugging Face Hub exports: a column of
{bytes, path} and labels, with the split in the file's name.
Vocabulary: a TOML file named by `vocabulary`, with lines such as  anger = ["angry", "ang", 6]  and a table [splits]
with lines such as  test = ["fold1"].  It is needed unless the labels are the suite's class names in any case.
Without a split: osfer data split TABLE_OR_FOLDER.
Checked: columns, splits, labels are in the vocabulary, no face twice, every image decodes, boxes (in the picture as
viewers show it, turned as its EXIF says) lie within the image (clip_boxes = true: are clipped to it), no path leads out
of the folder, no picture is left out."""

    path: str = ""
    """Manifest file, root of the tree, or Parquet file or folder of them with images."""
    vocabulary: str = ""
    """TOML file; '' if labels are class names."""
    image_size: Side = 112
    channels: Channels = 3
    root: str = ""
    """Folder that the paths of a manifest start from; '': the manifest's folder."""
    clip_boxes: bool = False
    """Clip face boxes that reach beyond their picture, at most by half, instead of refusing them."""

    def listing(self, cache: Path) -> Listing:
        """List the faces of the manifest or tree, with the classes of their labels."""
        source = Path(self.path)
        if not self.path or not source.exists():
            raise SuiteError(
                f"manifest: no file or folder {self.path!r}", "set `path` under [datasets.manifest] in a profile"
            )
        vocabulary = read_vocabulary(Path(self.vocabulary)) if self.vocabulary else Vocabulary()
        files = parquet_files(source)
        if files:
            table, column = read_embedded(files, source, vocabulary)
            classes, rows = self._rows(table, vocabulary)
            key = f"{VERSION}/{self!r}/{file_key(self.name, map(str, files))}"
            names = [f"{source}: {name}" for name in rows.ids.tolist()]
            pixels = EmbeddedImages(files, column, names, self.image_size, self.channels)
            return Listing(self.name, classes, rows, pixels, key)
        if source.is_dir():
            root, table = source, read_tree(source, vocabulary)
        else:
            root = Path(self.root) if self.root else source.parent
            table = portable(read_manifest(source, vocabulary), root)
        classes, rows = self._rows(table, vocabulary)
        paths = paths_inside(root, table["path"], self.name)
        return image_listing(self, classes, rows, paths, read_boxes(source, table))

    def _rows(self, table: pd.DataFrame, vocabulary: Vocabulary) -> tuple[tuple[str, ...], Rows]:
        """Classes, expressions first, and the rows of a table with path, label and split."""
        names = class_names(self.name, table["label"], vocabulary)
        splits = split_names(f"manifest: {self.path}", table["split"], vocabulary)
        expressions = [name for name in EXPRESSIONS if name in set(names)]
        classes = (*expressions, *sorted(set(names) - set(expressions)))
        labels = names.map({name: index for index, name in enumerate(classes)})
        return classes, Rows.of(labels, splits, face_ids(table))
