"""A closed-set model that was trained elsewhere: used as it is by every method, and part of the cells' keys."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import open_set_fer as osf
from open_set_fer.datasets.faceset import BASIC
from open_set_fer.errors import SuiteError
from open_set_fer.methods.shared.backbones import seeded
from tests.cli.test_cli import osfer

PROFILE = """base = "smoke"
description = "an own model"
selection = "nothing was selected"
default_methods = ["baseline", "ours"]
[protocols]
families = ["single"]
controls = []
open_classes = ["surprise"]
[backbone]
name = "tests.benchmark.execution.test_own_model:network"
[closed_set]
model = "{model}"
classes = {classes}
input = {{ size = 32, mean = [0.4], sd = [0.3] }}
"""


def network(classes: int, channels: int) -> nn.Module:
    body = [nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, classes))


def staged(classes: int, channels: int) -> nn.Module:
    """A network of four stages, as small as methods that enter at a stage allow."""
    body: list[nn.Module] = []
    for inputs, outputs in ((channels, 6), (6, 8), (8, 10), (10, 12)):
        body.append(nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, classes))


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> osf.Task:
    folder = tmp_path_factory.mktemp("staged")
    path = folder / "staged.toml"
    about = 'base = "smoke"\ndescription = "own network"\nselection = "none"\n'
    path.write_text(about + '[backbone]\nname = "tests.benchmark.execution.test_own_model:staged"\n')
    return osf.load_task("synthetic", "surprise", profile=str(path), home=folder / "home")


@pytest.mark.parametrize(
    "method", ["eow", "proser", "dias", "ours", "ours-plus", "energy", "two-sample", "knn", "gradnorm"]
)
def test_every_kind_of_method_works_on_an_own_network(task, method):
    detection = osf.detect(task, method)
    assert np.isfinite(detection.unknown_score).all()
    assert 0 < task.measure(detection.unknown_score, detection.predicted_class).loc["auroc", "value"] < 1


def test_a_detector_with_an_own_network_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("open_set_fer.photos.find.finder", lambda: None)
    home = tmp_path / "home"
    done = osfer("detector", "build", "-p", str(written(tmp_path, 0)), "-d", "synthetic", "--home", str(home))
    assert "is code, which the files of a detector must not name" in str(done.exception)
    assert not (home / "closed_set").exists()


def written(tmp_path, seed: int, classes=BASIC[::-1], outputs: int = len(BASIC)):
    with seeded(seed):
        torch.save({"state_dict": network(outputs, 1).state_dict()}, tmp_path / "mine.pth")
    path = tmp_path / "mine.toml"
    path.write_text(PROFILE.format(model=tmp_path / "mine.pth", classes=json.dumps(list(classes))))
    return path


def keys(path, home) -> list[str]:
    done = osfer("plan", "-p", str(path), "--home", str(home), "--json")
    assert done.exit_code == 0, done.output
    return [cell["cell_key"] for cell in json.loads(done.stdout)["cells"]]


def test_an_own_model_is_the_closed_set_model_without_training(tmp_path):
    profile, home = written(tmp_path, seed=0), tmp_path / "home"
    done = osfer("run", "-p", str(profile), "--home", str(home), "--json")
    assert done.exit_code == 0, done.output
    results = {cell["method"]: cell for cell in json.loads(done.stdout)["results"]}
    folder = home / "results" / results["baseline"]["cell_key"]
    result = json.loads((folder / "result.json").read_text())
    assert any("trained elsewhere: mine.pth" in note for note in result["notes"])
    assert any("trained on surprise, which is open" in note for note in result["notes"])
    assert result["params"]["closed_set.classes"] == str(list(reversed(BASIC)))
    assert "closed_set.epochs" not in result["params"]
    assert set(results) == {"baseline", "ours"}
    scores = pd.read_parquet(folder / "scores.parquet")
    assert set(scores["predicted_class"]) <= set(BASIC) - {"surprise"}
    assert np.ptp(scores["unknown_score"]) > 0
    before = keys(profile, home)
    written(tmp_path, seed=1)
    assert not set(before) & set(keys(profile, home)), "another model's content is another cell"


def test_a_model_that_knows_an_open_class_is_warned_of_and_one_that_does_not_is_not(tmp_path, caplog):
    keys(written(tmp_path, 0), tmp_path / "home")
    assert "trained on the open classes of 1 of 1 protocols (surprise)" in caplog.text
    caplog.clear()
    closed = [name for name in BASIC if name != "surprise"]
    keys(written(tmp_path, 0, classes=closed, outputs=6), tmp_path / "home")
    assert "trained on" not in caplog.text


NETWORK = """from torch import nn
def build(classes, channels):
    body = [nn.Conv2d(channels, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, {width}, 3, 2, 1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear({width}, classes))
"""


def own_network(folder: Path, name: str) -> Path:
    path = folder / "own.toml"
    path.write_text(f'base = "smoke"\ndescription = "own network"\nselection = "none"\n[backbone]\nname = "{name}"\n')
    return path


def test_changed_code_of_an_own_network_is_another_cell_and_is_what_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "changing_network.py").write_text(NETWORK.format(width=8))
    profile, home = str(own_network(tmp_path, "changing_network:build")), tmp_path / "home"
    first = osf.load_task("synthetic", "surprise", profile=profile, home=home)
    osf.detect(first, "baseline")
    before = keys(profile, home)
    assert keys(profile, home) == before
    (tmp_path / "changing_network.py").write_text(NETWORK.format(width=12))
    assert not set(before) & set(keys(profile, home))
    changed = osf.load_task("synthetic", "surprise", profile=profile, home=home)
    run = changed._source.run(changed._source.cell)
    assert run.context.closed_set_model(run.task).network.fc.in_features == 12


def test_a_model_that_other_code_left_is_refused_with_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_part.py").write_text("WIDTH = 8")
    code = "from own_part import WIDTH\n" + NETWORK.replace("{width}", "WIDTH")
    (tmp_path / "joined_network.py").write_text(code)
    profile = str(own_network(tmp_path, "joined_network:build"))
    task = osf.load_task("synthetic", "surprise", profile=profile, home=tmp_path / "home")
    osf.detect(task, "baseline")
    monkeypatch.setattr("joined_network.WIDTH", 12)
    with pytest.raises(SuiteError, match=r"does not fit backbone 'joined_network:build'(.|\n)*fix: remove that file"):
        osf.detect(task, "energy")


def without_head(classes: int, channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, classes, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (f"{__name__}:without_head", "has no linear layer with 5 outputs"),
        (f"{__name__}:absent", "cannot be imported"),
        ("no_such_package.networks:build", "cannot be imported: ModuleNotFoundError"),
        ("no_such_module:build", "cannot be imported: ModuleNotFoundError"),
        ("timm:resnet1", "did you mean"),
    ],
)
def test_the_plan_builds_every_network_that_is_not_the_suites(tmp_path, name, fault):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    path = own_network(tmp_path, name)
    of_a_method = 'base = "smoke"\ndescription = "own network"\nselection = "none"\n[methods.ours.backbone]\n'
    for text in (path.read_text(), f'{of_a_method}name = "{name}"\n'):
        path.write_text(text)
        done = osfer("plan", "-p", str(path), "-m", "baseline,ours", "--home", str(tmp_path / "home"))
        assert isinstance(done.exception, SuiteError)
        assert fault in str(done.exception)


def test_data_check_looks_into_the_trained_model(tmp_path):
    path = written(tmp_path, 0, outputs=8)
    done = osfer("data", "check", "synthetic", "-p", str(path), "--home", str(tmp_path / "home"))
    assert "its head has 8 outputs" in str(done.exception)
    (tmp_path / "mine.pth").unlink()
    done = osfer("data", "check", "synthetic", "-p", str(path), "--home", str(tmp_path / "home"))
    assert "check the path given as `closed_set.model`" in str(done.exception)


def test_an_input_on_the_scale_of_bytes_is_refused(tmp_path):
    path = written(tmp_path, 0)
    path.write_text(path.read_text().replace("mean = [0.4], sd = [0.3]", "mean = [123.7], sd = [58.4]"))
    done = osfer("plan", "-p", str(path), "--home", str(tmp_path / "home"))
    assert "closed_set.input: mean [123.7] and sd [58.4] are not of pixels from 0 to 1" in str(done.exception)
    assert "divide both by 255" in str(done.exception)


def test_the_plan_says_what_does_not_fit_before_anything_is_computed(tmp_path):
    def fault(**changes) -> str:
        done = osfer("plan", "-p", str(written(tmp_path, 0, **changes)), "--home", str(tmp_path / "home"))
        assert isinstance(done.exception, SuiteError)
        return str(done.exception)

    assert "its head has 8 outputs, closed_set.classes names 7" in fault(outputs=8)
    assert "no fear among" in fault(classes=[name.replace("fear", "afraid") for name in BASIC])
    path = written(tmp_path, 0)
    path.write_text(path.read_text().replace(":network", ":absent"))
    done = osfer("plan", "-p", str(path), "--home", str(tmp_path / "home"))
    assert "cannot be imported" in str(done.exception)
    path.write_text(path.read_text().replace("\nclasses =", "\n# classes ="))
    with pytest.raises(SuiteError, match="a model needs its classes"):
        raise osfer("plan", "-p", str(path), "--home", str(tmp_path / "home")).exception
