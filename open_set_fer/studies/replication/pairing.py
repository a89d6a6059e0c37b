"""Released pairing of images and pseudo labels, tested on the authors' label file and the published tables.

The authors' notebook (repository zyh-uaiaaaa/Open-Set-FER, commit 02efdb0, predict_pseudo_labels.ipynb) collects the
closed-set model's outputs of the train split in a shuffled order and picks the open faces' by data-set order. An open
face of the train split so has the output of a training image drawn at random, of any class. `released_labels.csv` is
predicted_labels_open0.txt (surprise open), counted; `class_counts.csv` has RAF-DB's faces as published and FERPlus' by
the plurality of votes (`labels = "plurality"`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd
from scipy.stats import chi2_contingency, chisquare, spearmanr

from open_set_fer.reports.data.paper import paper_results
from open_set_fer.reports.data.statistics import Test

OPEN = "surprise"  # the open class of the released label file


@cache
def _counts(file: str) -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name(file)).set_index("class")


def released_labels(group: str) -> pd.Series[int]:
    """Faces of a group of the released file ('open test', 'open train', 'closed test') by pseudo label."""
    return _counts("released_labels.csv").query("group == @group")["count"]


def class_counts(dataset: str, split: str) -> pd.Series[int]:
    """Faces of a split by class."""
    return _counts("class_counts.csv").query("dataset == @dataset and split == @split")["count"]


def expected_labels() -> pd.Series[float]:
    """Expected pseudo labels of the open train faces if each had a random training image's.

    A training image of the open class counts as the open test faces' predictions do, any other for its class.
    """
    train, test_open = class_counts("rafdb", "train"), released_labels("open test")
    drawn = train[test_open.index] + train[OPEN] * test_open / test_open.sum()
    return released_labels("open train").sum() * drawn / train.sum()


def fits_random_images() -> Test:
    """Goodness of fit of the open train faces' labels to those of random training images."""
    observed = released_labels("open train")
    result = chisquare(observed, expected_labels())
    return Test(float(result.statistic), len(observed) - 1, float(result.pvalue))


def fits_open_test_faces() -> Test:
    """Homogeneity of the labels of open train and open test faces: the closed-set model was trained on neither."""
    result = chi2_contingency([released_labels("open test"), released_labels("open train")])
    return Test(float(result.statistic), int(result.dof), float(result.pvalue))


def truly_open(dataset: str, open_classes: str) -> float:
    """Fraction of a protocol's faces scored as open that are open, under the released pairing.

    (t + T * T / N) / (t + T): t open faces of the test split, T of the train split, of whose T outputs T / N are in
    turn open faces', N faces in the train split.
    """
    names = open_classes.split("+")
    test, train = (int(class_counts(dataset, split)[names].sum()) for split in ("test", "train"))
    return (test + train * train / int(class_counts(dataset, "train").sum())) / (test + train)


def published_auroc(dataset: str) -> pd.DataFrame:
    """Published AUROC of Tables 1 and 2 by protocol: columns open_classes, method, value, truly_open."""
    rows = paper_results().query("dataset == @dataset and table in ['table1', 'table2'] and metric == 'auroc'")
    rows = rows.loc[rows["open_classes"] != "mean", ["open_classes", "method", "value"]]
    return rows.assign(truly_open=[truly_open(dataset, name) for name in rows["open_classes"]])


def correlations(dataset: str) -> pd.DataFrame:
    """Spearman's n, rho and p_value of each method's published AUROC with the fraction of truly open faces."""
    groups = published_auroc(dataset).groupby("method", sort=False)
    rows = [(method, len(own), *spearmanr(own["truly_open"], own["value"])) for method, own in groups]
    return pd.DataFrame(rows, columns=["method", "n", "rho", "p_value"])
