"""FER2013's pixel file under its names and headers, for its own labels and for FERPlus' pixels."""

from __future__ import annotations

import pandas as pd
import pytest

from open_set_fer.datasets.faceset import BASIC
from open_set_fer.datasets.fer2013 import Fer2013
from open_set_fer.datasets.ferplus import FerPlus
from open_set_fer.errors import SuiteError
from tests.datasets.trees import every_protocol, fer2013_file

HEADERS = {"fer2013.csv": "emotion,pixels,Usage", "icml_face_data.csv": "emotion, Usage, pixels"}


@pytest.mark.parametrize("file", HEADERS)
def test_fer2013_alone_under_either_name(tmp_path, file):
    root = fer2013_file(tmp_path / "set", file, HEADERS[file])
    faces = Fer2013(str(root), 16).load(tmp_path / "cache")
    assert faces.counts() == {split: dict.fromkeys(BASIC, 2) for split in ("train", "valid", "test")}
    assert faces.classes[faces.labels[0]] == "anger"  # published number 0
    assert len(every_protocol(faces)) == 7 + 21 + 35


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("emotion", "feeling", r"lacks the columns \['emotion'\], it has \['feeling', 'pixels', 'Usage'\]"),
        ("\n3,", "\n9,", r"unknown emotion in row 5 \('9'\), 12 \('9'\), 19 \('9'\) and 3 more"),
        ("PublicTest", "Public", r"unknown Usage in row 16 \('Public'\), .* and 11 more"),
        ("\n3,", "\n3,7 ", r"row 5, 12, 19 and 3 more of .* is not 48x48 pixels"),
        ("\n3,", "\n3,x", r"row 5, 12, 19 and 3 more of .* is not 48x48 pixels"),
    ],
)
def test_faults_of_a_pixel_file(tmp_path, old, new, message):
    path = fer2013_file(tmp_path / "set") / "fer2013.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(SuiteError, match=message):
        Fer2013(str(tmp_path / "set"), 16).load(tmp_path / "cache")


@pytest.mark.parametrize("name", HEADERS)
def test_ferplus_takes_the_pixels_under_either_name_and_header(ferplus_tree, tmp_path, name):
    root = ferplus_tree(per_class=1, pixels=True)
    before = FerPlus(str(root), 16).load(tmp_path / "cache").fingerprint
    table = pd.read_csv(root / "fer2013.csv").rename(columns={"Usage": " Usage", "pixels": " pixels"})
    (root / "fer2013.csv").unlink()
    table[["emotion", " Usage", " pixels"]].to_csv(root / name, index=False)
    assert FerPlus(str(root), 16).load(tmp_path / "cache").fingerprint == before


def test_pixels_in_another_order_than_the_votes_are_refused(ferplus_tree, tmp_path):
    root = ferplus_tree(per_class=1, pixels=True)
    table = pd.read_csv(root / "fer2013.csv")
    table.iloc[::-1].to_csv(root / "fer2013.csv", index=False)
    with pytest.raises(
        SuiteError, match=r"16 rows of .*fer2013\.csv have another Usage than in the votes file: 2, 3, 4"
    ):
        FerPlus(str(root), 16).load(tmp_path / "cache")


def test_every_missing_face_of_ferplus_is_named(ferplus_tree, tmp_path):
    root = ferplus_tree(per_class=1)
    for number in (0, 1, 2, 3):
        (root / "FER2013Train" / f"fer{number:07d}.png").unlink()
    with pytest.raises(SuiteError, match=r"a row for 'fer0000000\.png', .* and 1 more, but there is no file"):
        FerPlus(str(root), 16).load(tmp_path / "cache")
