"""The command line: help, listings, JSON, what it prints of odd labels and odd terminals, and broken plugins."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from open_set_fer import __version__, plugins
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.planning.profile_files import default_profile, profile_names
from open_set_fer.cli.main import app
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.errors import SuiteError

GUIDE = Path(__file__).parents[2] / "docs/guide/datasets.md"
SMOKE = load_profile("smoke").text


def osfer(*arguments, **environment):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "300", **environment})


def process(*arguments, **environment):
    """The command as a process of its own, as a shell starts it."""
    code = "from open_set_fer.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        timeout=120,
    )


def commands(group=None, path=()):
    group = group or typer.main.get_command(app)
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_help_has_examples(path):
    done = osfer(*path, "--help")
    assert done.exit_code == 0
    assert "Example" in done.output
    assert f"osfer {' '.join(path)}".strip() in done.output


def test_help_shows_what_stands_in_angle_brackets():
    assert "<home>/report/<profile>" in osfer("report", "--help").output
    assert "<home>/preview/<name>.png" in osfer("data", "preview", "--help").output


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("--version",)])
def test_help_and_version_load_neither_torch_nor_mlflow(arguments):
    code = (
        "import sys\nfrom open_set_fer.cli.main import app\n"
        f"try:\n    app({list(arguments)!r})\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'mlflow', 'pandas', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_names_the_commit():
    assert osfer("--version").output.startswith(f"osfer {__version__} (commit ")


def test_without_a_profile_a_data_set_has_its_own_or_the_demo_or_names_those_that_list_it():
    assert [default_profile("", datasets) for datasets in ((), ("ferplus",), ("synthetic",))] == [
        "demo",
        "ferplus-cpu",
        "demo",
    ]
    assert default_profile("paper", ("rafdb",)) == "paper"
    for datasets, fix in (
        ("rafdb", "list it: figure5, paper (--profile)"),
        ("cifar10,ferplus", "list it: contrast-real (--profile)"),
    ):
        done = osfer("plan", "--dataset", datasets)
        assert isinstance(done.exception, SuiteError)
        assert f"no profile is named, and there is none for {datasets.replace(',', ', ')}" in str(done.exception)
        assert fix in str(done.exception)
    done = osfer("run", "--dataset", "rafbd")
    assert "unknown dataset 'rafbd', did you mean 'rafdb'" in str(done.exception)
    prepared = osfer("data", "check", "digits", "--json", "--home", "/dev/null/none")  # data sets alone need no profile
    assert "cannot create the folder" in str(prepared.exception) or "not a folder" in str(prepared.exception)


def test_profile_show_is_a_profile(tmp_path):
    assert osfer("profile", "list").output.split() == profile_names()
    for name in profile_names():
        path = tmp_path / f"my-{name}.toml"
        path.write_text(osfer("profile", "show", name).output, "utf-8")
        assert load_profile(str(path)).model_dump() == load_profile(name).model_dump()
    assert "did you mean 'smoke'" in str(osfer("profile", "show", "smoek").exception)


def test_list_has_the_labels_that_can_be_typed_and_a_sentence_for_each():
    there = json.loads(osfer("list", "--json").output)
    methods = {method["name"]: method for method in there["methods"]}
    for label in ("baseline", "energy", "knn", "vim", "max-logit", "o2u", "cleanlab"):
        assert methods[label]["profiles"] == ["all"]
    assert "paper" in methods["ours-notebook"]["profiles"]
    assert {"posthoc", "noisy-label"}.isdisjoint(methods)
    assert all(len(entry["description"]) > 15 for entry in there["methods"] + there["datasets"] + there["profiles"])
    assert there["broken"] == []
    shown = osfer("list").output
    assert all(name in shown for name in (*methods, *profile_names(), "ferplus"))


def test_json_of_plan_run_and_report(tmp_path):
    chosen = ["-p", "smoke", "--home", str(tmp_path / "home"), "--json"]
    before = json.loads(osfer("plan", *chosen, "-m", "baseline,knn").stdout)
    assert [(cell["method"], cell["state"]) for cell in before["cells"]] == [("baseline", "to do"), ("knn", "to do")]
    done = json.loads(osfer("run", *chosen, "-m", "baseline,knn").stdout)
    assert (done["cells"], done["computed"], done["already_done"], done["failed"]) == (2, 2, 0, [])
    assert [cell["cell_key"] for cell in before["cells"]] == [None, None]  # the data set is not prepared
    assert all(0 <= cell["auroc"] <= 1 for cell in done["results"])
    assert done["report"].startswith("osfer report --profile smoke")
    after = json.loads(osfer("plan", *chosen, "-m", "baseline,knn").stdout)
    assert (after["to_do"], {cell["state"] for cell in after["cells"]}) == (0, {"done"})
    assert [cell["cell_key"] for cell in done["results"]] == [cell["cell_key"] for cell in after["cells"]]
    table = osfer("run", *chosen[:-1], "-m", "baseline,knn,vim", "--seed", "0").stdout
    assert f"{done['results'][0]['auroc']:.3f}" in table
    report = json.loads(osfer("report", *chosen).stdout)
    assert all(os.path.exists(report[name]) for name in ("report", "tables", "figures"))


def test_json_of_a_failed_run(tmp_path, failing):
    failed = osfer("run", "-p", "smoke", "-m", failing, "--home", str(tmp_path / "home"), "--json")
    assert failed.exit_code == 1
    found = json.loads(failed.stdout)
    assert (found["results"], found["failed"][0]["method"]) == ([], failing)
    assert "division by zero" in found["failed"][0]["error"]
    assert found["retry"].startswith("osfer run --profile smoke --method failing")


def test_labels_are_printed_as_they_are(tmp_path, failing):
    labels = ["[/red]", "[opt] x", "mod:M"]
    path = tmp_path / "own.toml"
    path.write_text(SMOKE + "".join(f'[methods."{label}"]\nmethod = "{failing}"\n' for label in labels), "utf-8")
    chosen = ["-p", str(path), "--home", str(tmp_path / "home"), "-m", ",".join(labels)]
    plan = osfer("plan", *chosen)
    assert plan.exit_code == 0, plan.exception
    assert all(label in plan.output for label in labels)
    failed = osfer("run", *chosen)
    assert failed.exit_code == 1, failed.exception
    assert "[/b]" in failed.stderr
    assert all(label in failed.stderr for label in labels)
    assert f"--method '{','.join(labels)}'" in failed.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_a_character_ends_no_command(encoding):
    done = process("list", PYTHONIOENCODING=encoding, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert "40 epochs, ? = 5" in done.stdout.decode(encoding)


def test_a_home_that_cannot_be_one_is_one_clear_error(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for home, message in ((file, "is a file, not a folder"), (file / "below", "is a file, not a folder")):
        for command in (["run", "-p", "smoke"], ["plan", "-p", "smoke"], ["report"], ["data", "prepare", "synthetic"]):
            assert message in str(osfer(*command, "--home", str(home)).exception)
    assert "is a file" in str(osfer("report", "--out", str(file), "--home", str(tmp_path / "home")).exception)
    assert "is a file" in str(
        osfer("study", "ours-plus", "--out", str(file), "--home", str(tmp_path / "home")).exception
    )
    assert "the name of a folder is empty" in str(osfer("run", "-p", "smoke", "--home", "").exception)
    assert "cannot create the folder /proc/x" in str(osfer("run", "-p", "smoke", "--home", "/proc/x").exception)


# -- plugins -------------------------------------------------------------------------------------------------------

GOOD = """
from dataclasses import dataclass
@dataclass(frozen=True)
class Method:
    "A method that works."
    name, version = "good", 1
    def detect(self, task, context):
        ...
"""
BROKEN = {
    "syntax": ("def (:", "SyntaxError"),
    "raises": ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
    "leaves": ("import sys; sys.exit(4)", "SystemExit: 4"),
    "absent": ("import no_such_module_at_all", "ModuleNotFoundError"),
    "nameless": (GOOD.replace('"good", 1', "None, 1"), "has no `name`"),
    "unversioned": (GOOD.replace("version = ", "other = "), "has no `version`"),
    "unset": (GOOD.replace("@dataclass(frozen=True)", ""), "is no frozen dataclass whose fields are its settings"),
    "fluid": (GOOD.replace("(frozen=True)", ""), "is no frozen dataclass whose fields are its settings"),
    "typed": (
        GOOD.replace('name, version = "good", 1', 'name = "good"; version: int = 1'),
        "has `version` among its settings",
    ),
    "idle": (GOOD.replace("def detect", "def other"), "has no method `detect`"),
}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs packages, each with methods as {entry point: source of a module with a class Method}."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))

    def install(package, methods):
        meta = site / f"{package}-1.0.dist-info"
        meta.mkdir(parents=True)
        (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {package}_{name}:Method" for name in methods]
        (meta / "entry_points.txt").write_text("\n".join(["[open_set_fer.methods]", *lines]))
        for name, source in methods.items():
            (site / f"{package}_{name}.py").write_text(source)
        plugins._registered.cache_clear()

    yield install
    monkeypatch.undo()
    plugins._registered.cache_clear()


def test_a_broken_plugin_is_listed_as_broken_and_harms_nobody_else(installed, tmp_path):
    installed("acme", {"good": GOOD} | {name: source for name, (source, _) in BROKEN.items()})
    listed = osfer("list")
    assert listed.exit_code == 0, listed.exception
    there = json.loads(osfer("list", "--json").output)
    reasons = {entry["name"]: entry["reason"] for entry in there["broken"]}
    assert set(reasons) == set(BROKEN)
    for name, (_, reason) in BROKEN.items():
        assert reason in reasons[name]
        assert name in listed.output
    good = next(method for method in there["methods"] if method["name"] == "good")
    assert (good["description"], good["package"], good["profiles"]) == ("A method that works.", "acme", ["all"])
    home = ["--home", str(tmp_path / "home")]
    every = osfer("plan", "-p", "smoke", "-m", "all", "--json", *home)
    assert every.exit_code == 0, every.exception
    labels = [cell["method"] for cell in json.loads(every.stdout)["cells"]]
    assert "good" in labels
    assert set(labels).isdisjoint(BROKEN)
    with pytest.raises(SuiteError, match="RuntimeError: no licence"):
        load_profile("smoke").method("raises")


def test_a_name_that_two_packages_register_fails_where_it_is_used_alone(installed, tmp_path):
    installed("acme", {"good": GOOD})
    installed("other", {"good": GOOD})
    broken = json.loads(osfer("list", "--json").output)["broken"]
    assert [entry["name"] for entry in broken] == ["good"]
    assert "two packages register the method 'good'" in broken[0]["reason"]
    home = ["--home", str(tmp_path / "home")]
    assert osfer("plan", "-p", "smoke", *home).exit_code == 0
    assert "acme_good:Method" in str(osfer("plan", "-p", "smoke", "-m", "good", *home).exception)


# -- the guide's recipe for one's own faces ------------------------------------------------------------------------


def test_the_guides_manifest_profile_runs_as_it_is_printed(tmp_path, monkeypatch):
    recipe = re.search(r"```toml\n(base = .*?)```", GUIDE.read_text("utf-8"), re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text(recipe, "utf-8")
    words = {name: name[:3].upper() for name in BASIC}
    Path("vocabulary.toml").write_text("".join(f'{name} = ["{word}"]\n' for name, word in words.items()), "utf-8")
    Path("faces").mkdir()
    rng = np.random.default_rng(0)
    rows = ["path,label,split"]
    for name in BASIC:
        for split, count in (("train", 10), ("test", 3)):
            for number in range(count):
                path = f"faces/{name}-{split}-{number}.png"
                Image.fromarray(rng.integers(0, 256, (48, 48), dtype=np.uint8)).save(path)
                rows.append(f"{path},{words[name]},{split}")
    Path("faces.csv").write_text("\n".join(rows), "utf-8")
    done = osfer("run", "--profile", "my.toml", "--open", "anger", "--method", "baseline,entropy", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert {(cell["dataset"], cell["open_classes"]) for cell in found["results"]} == {("manifest", "anger")}
    assert osfer("report", "--profile", "my.toml").exit_code == 0
    assert Path("runs/report/my/tables/table1_manifest.md").is_file()


def test_labels_on_the_command_line_take_the_place_of_the_profiles(tmp_path):
    home = ["-p", "smoke", "-m", "baseline", "--home", str(tmp_path / "home")]
    for arguments, label in (
        (["--labels", "released", "--label-share", "0.5"], "surprise (50% of labels as released)"),
        (["--labels", "spiked"], "surprise (5% of labels flipped in the pool)"),
        (["--labels", "own"], "surprise"),
    ):
        planned = json.loads(osfer("plan", *home, *arguments, "--json").stdout)
        assert [cell["open_classes"] for cell in planned["cells"]] == [label]
    for arguments, fault in (
        (["--labels", "relesed"], "--labels 'relesed', did you mean 'released'"),
        (["--label-share", "0.5"], "--label-share without --labels"),
        (["--labels", "released", "--label-share", "2"], "--label-share 2 is not above 0"),
        (["--labels", "spiked", "--label-share", "1"], "label_share 1 leaves no label as it is"),
    ):
        assert fault in str(osfer("plan", *home, *arguments).exception)


def test_the_retry_command_of_other_labels_can_be_run(tmp_path, monkeypatch, failing):
    chosen = ["-m", failing, "--labels", "released", "--label-share", "0.5", "--home", str(tmp_path / "home")]
    failed = osfer("run", "-p", "smoke", *chosen, "--json", "--device", "cpu", "--store", "memory://me:s3cret@models")
    assert failed.exit_code == 1
    retry = json.loads(failed.stdout)["retry"]
    assert "--device cpu" in retry
    assert "s3cret" not in failed.output
    monkeypatch.setenv("OSFER_HARMLESS", "1")
    again = osfer(*shlex.split(retry)[1:], "--json")
    assert again.exit_code == 0, again.output
    assert [cell["open_classes"] for cell in json.loads(again.stdout)["results"]] == [
        "surprise (50% of labels as released)"
    ]
