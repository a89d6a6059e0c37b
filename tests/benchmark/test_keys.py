"""Keys of cells as they were: who changes one has every finished cell of every user computed again."""

from __future__ import annotations

from open_set_fer.benchmark.plan import Selection, _cells
from open_set_fer.benchmark.profiles import load_profile
from open_set_fer.datasets.faceset import Outline
from open_set_fer.datasets.synthetic import EXPRESSIONS

STORED = {
    "baseline": ("09c625bd05a5c74a", "7a45d3862211b1ab"),
    "max-logit": ("ec0372cfbeefd941", "f3a0fb4b5212253e"),
    "eow": ("e4696df74df4cfcb", "bf24869fbb968305"),
    "proser": ("8f3c8cd668348f00", "e647952e89630b28"),
    "dias": ("14596193b03a4da7", "cfcfa867c5c9f11d"),
    "ours": ("bdf011824794af0e", "f90c55ca7daeafdb"),
    "ours-online": ("9eac920f0224bba0", "2e5d8d6da89a7599"),
    "ours-balanced": ("b8cb45fa29b060c0", "cf0b2c98b737820d"),
    "ours-plus": ("8b900ac51d92fc3c", "d0eb475bb4e31b55"),
    "o2u": ("2b3fa6a26e4dd537", "a0fb332b38e9f00e"),
    "co-teaching": ("201a1c97940b7c4c", "bc68461ab4069f52"),
    "cleanlab": ("97c424c19c8365c5", "bd9d53ecd711e524"),
    "energy": ("2e919eade7e6a3ee", "e096b2bb4b24bb01"),
    "entropy": ("9466befd1ff4e1be", "76bd436354628bd5"),
    "openmax": ("fd36c34ebbf651ff", "8e1b15a4a97c4647"),
    "mahalanobis": ("53fecc93cbb0d05b", "ab3b007cdfa1d6b5"),
    "relative-mahalanobis": ("ee094a4f604a9f21", "cff49af38786fe56"),
    "knn": ("f977447d10670db6", "c731285104d29f9e"),
    "vim": ("8e9a9aa69f3e72ce", "e9c8c0e873e10b96"),
    "react": ("e7361bcfdc29d4d0", "0d0100b3808e6d06"),
    "kl-matching": ("7c67160cbbd7cdc8", "bff50ce40c02522b"),
    "she": ("d997271ee4bdfada", "cd1b1ff6127b012e"),
    "dice": ("62c96af8b8fae174", "9cdc5ace77c74729"),
    "odin": ("4fbd5cf06b784b53", "712adb941bed51aa"),
}
"""Of every label of the smoke profile: the beginnings of its cell's key, and its settings key.

A line changes with the method's version or its settings alone.
"""


def test_keys_of_unchanged_settings_are_the_stored_ones():
    cells, _ = _cells(
        load_profile("smoke")[1],
        Selection(methods=tuple(STORED), seeds=(0,)),
        lambda name: Outline(EXPRESSIONS, "f" * 64, 1),
    )
    assert {cell.label: (cell.key[:16], cell.settings_key()) for cell in cells} == STORED
