"""Names out of users' files through the whole chain: text in every output, never mark-up, a command or a path."""

from __future__ import annotations

import csv
import random
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from open_set_fer.benchmark.evaluation.result import CellResult, DataUsed
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.datasets.faceset import check_class_names
from open_set_fer.datasets.manifest import Manifest
from open_set_fer.errors import SuiteError
from open_set_fer.reports.render import render
from tests.benchmark.storage.test_reevaluate import made_scores
from tests.security.command import osfer

HOSTILE = ["[red]x[/]", "</script><script>alert(1)</script>", "\\input{/etc/passwd}", "=1+1", "../../evil"]
FRAGMENTS = [
    "<b>",
    "</td>",
    "&amp;",
    "'",
    '"',
    " onload='x'",
    "<!--",
    "-->",
    "]]>",
    "\\",
    "{",
    "}",
    "$",
    "%",
    "&",
    "#",
    "^",
    "~",
    "_",
    "|",
    "`",
    "*",
    "[link=file:///x]",
    "[/]",
    "=",
    "+",
    "-",
    "@",
    "../",
    "/",
    "..",
    ":",
    ";",
    ",",
    "{{ 7*7 }}",
    "{% x %}",
    "%s",
    "\\write18{ls}",
    "^^M",
    "ß",
    "中",
    "$(ls)",
    "x",
]


def names(seed: int) -> list[str]:
    """The four of the issue, a path, and drawn ones; all may be names of classes."""
    drawn = random.Random(seed)
    made = ["".join(drawn.choices(FRAGMENTS, k=drawn.randint(1, 5))).strip() for _ in range(3)]
    return [*HOSTILE, *(f"{name}{number}" for number, name in enumerate(made))]


class Tags(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[tuple[str, str]] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements |= {(tag, name) for name, _ in attrs} | {(tag, "")}

    def handle_data(self, data: str) -> None:
        self.text += data

    @classmethod
    def of(cls, page: Path) -> Tags:
        tags = cls()
        tags.feed(page.read_text("utf-8"))
        return tags


def commands(latex: str) -> set[str]:
    """The control sequences of a LaTeX text that TeX would read; escaped characters are none."""
    lines = [re.sub(r"(?<!\\)((?:\\\\)*)%.*", r"\1", line) for line in latex.splitlines()]
    return set(re.findall(r"\\([A-Za-z]+)", re.sub(r"\\[^A-Za-z]", " ", "\n".join(lines))))


TEXT_COMMANDS = {
    "textbackslash",
    "textless",
    "textgreater",
    "textbar",
    "textasciicircum",
    "textasciitilde",
    "textquotedbl",
    "textasciigrave",
    "textquotesingle",
    "ss",
}


def run_chain(folder: Path, classes: list[str], label: str, selection: str) -> tuple[Path, str]:
    """run, report, sync and its leaderboard on drawn pictures of these classes; the folder, and what was printed."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(classes):
        for split, count in (("train", 6), ("test", 4)):
            for face in range(count):
                file = f"{number}-{split}-{face}.png"
                Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / file)
                rows.append({"path": file, "label": name, "split": split})
    pd.DataFrame(rows).to_csv(folder / "faces.csv", index=False)
    quoted = [text.replace("\\", "\\\\").replace('"', '\\"') for text in (label, selection)]
    (folder / "own.toml").write_text(
        f'base = "smoke"\ndescription = "x"\nselection = """{quoted[1]}"""\n'
        f'default_methods = ["baseline", "{quoted[0]}"]\n'
        '[datasets.manifest]\npath = "faces.csv"\nimage_size = 16\nchannels = 1\n[protocols]\nfamilies = ["single"]\n'
        "open_classes = []\ncontrols = []\n"
        f'[closed_set]\nepochs = 1\n[methods."{quoted[0]}"]\nlike = "max-logit"\n',
        "utf-8",
    )
    printed = ""

    def run(*command: str) -> None:
        nonlocal printed
        done = osfer(*command, cwd=folder)
        assert done.returncode == 0, (command, done.stderr)
        printed += done.stdout + done.stderr

    run("plan", "-p", "own.toml", "--home", "home")
    run("run", "-p", "own.toml", "--home", "home", "--threads", "1")
    run("report", "-p", "own.toml", "--home", "home", "--out", "report")
    one = next(path for path in (folder / "home/results").iterdir() if path.is_dir())
    run("sync", str(one), "--as", "</td>`me`", "--home", "other")
    run("sync", "home", "--as", "=[b]<i>|me", "--home", "other")
    run("report", "-p", "own.toml", "--home", "other", "--out", "board")
    return folder, printed


@pytest.mark.slow
def test_hostile_names_through_the_whole_chain(tmp_path):
    classes = names(seed=7)
    label, selection = "[bold]<i>\\write18{ls}", "</script>\n\\input{x}\n[red]none[/] %"
    tame, _ = run_chain(tmp_path / "tame", [f"word{i}" for i in range(len(classes))], "other", "nothing")
    folder, printed = run_chain(tmp_path / "hostile", classes, label, selection)
    # the terminal shows names as they are, and no control characters
    for name in (*classes, label):
        assert name in printed, name
    assert "\x1b" not in printed
    # pages: the same elements and attributes as with tame names, and the names as text
    for report in ("report", "board"):
        page, tame_page = Tags.of(folder / report / "index.html"), Tags.of(tame / report / "index.html")
        assert page.elements == tame_page.elements
        for name in (*classes, label, *["=[b]<i>|me", "</td>`me`"] * (report == "board")):
            assert name in page.text, name
    # LaTeX: no control sequence but those of tame names and of escaped characters
    for path in (folder / "report/tables").glob("*.tex"):
        known = commands((tame / "report/tables" / path.name).read_text("utf-8")) | TEXT_COMMANDS
        assert commands(path.read_text("utf-8")) - known == set()
    # Markdown: every row of a table has the cells of its head, and no mark-up of a name's own
    for path in [*(folder / "report/tables").glob("*.md"), folder / "board/tables/leaderboard.md"]:
        widths: list[int] = []
        for line in path.read_text("utf-8").splitlines():
            if not line.startswith("|"):
                widths = []
                continue
            widths.append(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)))
            assert widths[-1] == widths[0], line
            assert not re.search(r"(?<!\\)(?:\\\\)*<(?!/?u>)", line), line
    # CSV: no field that a spreadsheet computes
    for path in [*(folder / "report/tables").glob("*.csv"), folder / "board/tables/leaderboard.csv"]:
        for row in csv.reader(path.open(encoding="utf-8", newline="")):
            for text in row:
                assert not text.startswith(("=", "+", "@")), text
                assert not text.startswith("-") or float(text) < 0
    # figures: well-formed, no element that acts
    for path in (folder / "report/figures").glob("*.svg"):
        kinds = {element.tag.rpartition("}")[2] for element in ET.parse(path).iter()}
        assert not kinds & {"script", "a", "foreignObject", "image"}
    # nothing was written but into the folders that were named
    there = {path.name for path in folder.iterdir() if not path.name.endswith(".png")}
    assert there == {"faces.csv", "own.toml", "home", "other", "report", "board"}
    assert {path.name for path in tmp_path.iterdir()} == {"tame", "hostile"}
    for path in folder.rglob("*"):
        assert re.fullmatch(r"[\w.\-]+", path.name), path


@pytest.mark.parametrize("name", ["", " x", "x ", "a\nb", "a\x1b[2Jb", "a\x00b", "a\u202eb", "a\u2028b", "\t"])
def test_names_that_no_line_can_show_are_refused_before_anything_is_decoded(name, tmp_path):
    with pytest.raises(SuiteError, match="cannot be the name of a class"):
        check_class_names("manifest", ["anger", name])
    if name.strip() == name and "\x00" not in name and name:
        pd.DataFrame({"path": ["a.png"], "label": [name], "split": ["train"]}).to_csv(
            tmp_path / "faces.csv", index=False
        )
        with pytest.raises(SuiteError, match="cannot be the name of a class"):
            Manifest(path=str(tmp_path / "faces.csv")).listing(tmp_path)


def test_a_store_of_somebody_elses_cannot_lead_a_report_elsewhere(home, tmp_path):
    """Data set and protocol family become file names; a shared server may hold any."""
    tracker = Tracker(home, "made")
    (tmp_path / "profile.toml").write_text("")
    scores, metrics = made_scores()
    scores.to_parquet(tmp_path / "scores.parquet")
    hostile = ("../../../evil", "/etc/evil")
    cells = [
        {
            "dataset": dataset,
            "protocol": family,
            "open_classes": "../x",
            "method": "../m",
            "seed": 0,
            "cell_key": f"{dataset}{family}",
        }
        for dataset in hostile
        for family in (*hostile, "single")
    ]
    parent = tracker.start_benchmark(cells, "", "osfer run")
    for cell in cells:
        tags = {name: str(value) for name, value in cell.items()} | {"settings_key": "a", "demonstration": "false"}
        result = CellResult(metrics, {}, tags, data=DataUsed("x", "f" * 64, {"test": {"<b>": 1}}))
        tracker.log_cell(parent, result, tmp_path, {})
    before = {path for path in tmp_path.rglob("*")}
    render(tracker, tmp_path / "deep" / "er" / "report")
    new = {path for path in tmp_path.rglob("*")} - before
    assert all(path.is_relative_to(tmp_path / "deep") for path in new)
    assert len(list((tmp_path / "deep/er/report/tables").glob("side_*.tex"))) >= 2
