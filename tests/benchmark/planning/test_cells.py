"""`osfer plan` is dry: it decodes no image, writes nothing, and knows the cells of a data set that is not there."""

from __future__ import annotations

import os
import time
from io import StringIO

import pytest
from rich.console import Console

from open_set_fer.benchmark.evaluation.result import EVALUATION
from open_set_fer.benchmark.planning.cells import Selection, _files, dry_plan, make_plan
from open_set_fer.benchmark.planning.profile import Profile, load_profile
from open_set_fer.benchmark.planning.settings import settings_of
from open_set_fer.benchmark.protocols.protocol import Protocol, enumerate_protocols
from open_set_fer.benchmark.protocols.pseudo_labels import OWN, Regime
from open_set_fer.benchmark.storage.mlflow_writer import Tracker
from open_set_fer.cli.overview import result_tables
from open_set_fer.cli.plan import plan
from open_set_fer.datasets.affectnet import AffectNet
from open_set_fer.datasets.cifar10 import CLASSES, Cifar10
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT
from open_set_fer.datasets.ferplus import FerPlus
from open_set_fer.datasets.manifest import Manifest
from open_set_fer.datasets.rafdb import RafDb, RafDbCompound
from open_set_fer.datasets.synthetic.dataset import Synthetic
from open_set_fer.datasets.synthetic.expressions import EXPRESSIONS
from open_set_fer.errors import SuiteError
from tests.conftest import without_controls
from tests.datasets.trees import LAYOUTS, own_tree, small_data_set


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_outline_tells_what_loading_will_give_and_writes_nothing(tmp_path, ferplus_tree, layout, monkeypatch):
    monkeypatch.setattr("open_set_fer.datasets.cifar10.BATCH", 20)
    dataset, cache = small_data_set(layout, tmp_path / "faces", ferplus_tree), tmp_path / "cache"
    before = dataset.outline(cache)
    assert not cache.exists()
    faces = dataset.load(cache)
    assert before.classes == faces.classes
    assert (before.fingerprint, before.missing) == ("", "")
    assert (before.images, before.bytes) == (len(faces.images), faces.images.nbytes)
    assert dataset.outline(cache).fingerprint == faces.fingerprint


@pytest.mark.parametrize(
    ("dataset", "classes"),
    [
        (FerPlus, (*BASIC, CONTEMPT)),
        (RafDb, BASIC),
        (RafDbCompound, (*BASIC, *COMPOUND)),
        (AffectNet, (*BASIC, CONTEMPT)),
        (Cifar10, CLASSES),
    ],
)
def test_the_classes_are_known_without_the_data(tmp_path, monkeypatch, dataset, classes):
    monkeypatch.setenv("OSFER_DATA", str(tmp_path))
    outline = dataset().outline(tmp_path / "cache")
    assert outline.classes == classes
    assert "no folder" in outline.missing


def test_without_its_files_nobody_knows_a_manifests_classes(tmp_path):
    with pytest.raises(SuiteError, match="no file or folder"):
        Manifest().outline(tmp_path)


def test_a_plan_of_ferplus_decodes_nothing_and_leaves_nothing(tmp_path, ferplus_tree, monkeypatch, capsys):
    monkeypatch.setenv("OSFER_DATA", str(ferplus_tree(per_class=2).parent))
    monkeypatch.setattr("open_set_fer.datasets.decoding.ImageFiles.chunks", None)  # would raise if called
    home = tmp_path / "home"
    plan(profile="paper", home=home)
    shown = capsys.readouterr().out
    assert shown.count("to do │") == 95 + 3 * 2 * 3  # choices, controls, methods
    assert "113 of 113 cells to do" in shown
    assert f"ferplus: `osfer run` will decode 48 images into 8 MB under {home / 'cache'}" in shown
    assert not home.exists()


def test_a_plan_without_the_data_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OSFER_DATA", str(tmp_path))
    plan(profile="paper", home=tmp_path / "home")
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.startswith("ferplus cannot"))
    assert line.startswith(f"ferplus cannot be read yet: no folder {tmp_path / 'ferplus'} (unpack the data set there")
    assert "113 of 113 cells to do" in shown
    assert not (tmp_path / "home").exists()


def planned(name, tmp_path, monkeypatch):
    """The cells of a built-in profile, without its data."""
    monkeypatch.chdir(tmp_path)
    return dry_plan(load_profile(name), Selection(), tmp_path / "cache")[0]


@pytest.mark.parametrize(
    ("name", "networks", "opened"),
    [
        ("figure5", ("resnet18", "resnet50"), "surprise"),
        ("figure5-cpu", ("shallow", "small"), "surprise (600 images, 30% open)"),
    ],
)
def test_figure_5_varies_one_setting_at_a_time_and_reads_each_training_off(
    name, networks, opened, tmp_path, monkeypatch
):
    cells = planned(name, tmp_path, monkeypatch)
    assert {(cell.dataset, cell.protocol.label, cell.seed) for cell in cells} == {("ferplus", opened, 0)}
    assert {cell.read_at for cell in cells} == {(10, 20, 30, 40, 50)}
    assert {(cell.method.name, cell.method.epochs) for cell in cells} == {("ours", 50)}
    of = {network: [] for network in networks}
    for cell in cells:
        of[(cell.recipe.own_backbone or cell.recipe.backbone).name].append(settings_of(cell.method))
    first, second = of.values()
    ten = [float(weight) for weight in range(1, 11)]
    assert [settings["consistency_weight"] for settings in second] == ten
    assert {settings["cycle_length"] for settings in second} == {10}
    lambdas = [settings for settings in first if settings["cycle_length"] == 10]
    assert [settings["consistency_weight"] for settings in lambdas] == ten
    assert [
        (settings["cycle_length"], settings["consistency_weight"]) for settings in first if settings not in lambdas
    ] == [(2, 5.0), (5, 5.0), (25, 5.0), (50, 5.0)]
    # The second network is not the closed-set model's, so it cannot start from its stages.
    stages = (4, 0) if name == "figure5-cpu" else (0, 0)
    assert [{settings["pretrained_stages"] for settings in each} for each in (first, second)] == [{n} for n in stages]
    varied = {"consistency_weight", "cycle_length", "pretrained_stages"}
    assert len({str({k: v for k, v in s.items() if k not in varied}) for s in first + second}) == 1


def test_table_4_has_ours_offline_and_online_with_one_set_of_settings(tmp_path, monkeypatch):
    cells = planned("table4-cpu", tmp_path, monkeypatch)
    reported = [cell for cell in cells if not cell.protocol.regime.is_control]
    assert [cell.protocol.label for cell in reported[::2]] == [
        "surprise",
        "fear",
        "disgust",
        "happiness",
        "sadness",
        "anger",
        "neutral",
    ]
    assert [cell.label for cell in reported] == ["ours", "ours-online"] * 7
    offline, online = (settings_of(cell.method) for cell in reported[:2])
    assert {key for key in offline if offline[key] != online[key]} == {"variant"}
    controls = [cell for cell in cells if cell.protocol.regime.is_control]
    assert {cell.protocol.regime.labels for cell in controls} == {"spiked", "flipped-true"}
    assert {cell.label for cell in controls} == {"ours", "ours-online", "label-loss", "small-loss"}
    assert {cell.seed for cell in cells} == {0}


def test_table_5_switches_the_parts_of_ours_on_one_after_the_other(tmp_path, monkeypatch):
    baseline, *rest = planned("table5-cpu", tmp_path, monkeypatch)
    assert baseline.label == "baseline"
    parts = ("attention", "cycle_lr", "cycle_training")
    assert [tuple(settings_of(cell.method)[part] for part in parts) for cell in rest] == [
        (True, False, False),
        (True, True, False),
        (True, True, True),
    ]
    assert {(cell.protocol.label, cell.seed) for cell in (baseline, *rest)} == {("surprise", 0)}
    assert len({str({k: v for k, v in settings_of(cell.method).items() if k not in parts}) for cell in rest}) == 1


def test_prepared_a_dry_plan_is_the_plan(tmp_path):
    profile = load_profile("smoke")
    cache = tmp_path / "cache"
    assert {cell.key for cell in dry_plan(profile, Selection(), cache)[0]} == {""}
    cells, _ = make_plan(profile, Selection(), cache)
    assert [cell.key for cell in dry_plan(profile, Selection(), cache)[0]] == [cell.key for cell in cells]


def test_another_packages_data_set_without_an_outline_is_loaded(tmp_path, monkeypatch):
    class Plain:
        def load(self, cache):
            return Synthetic(2, 2, 2, 2, image_size=16).load(cache)

    profile = load_profile("smoke")
    monkeypatch.setattr(Profile, "dataset", lambda self, name: Plain())
    cells, outlines = dry_plan(profile, Selection(), tmp_path / "cache")
    assert outlines["synthetic"].classes == EXPRESSIONS
    assert all(cell.key for cell in cells)


def test_a_misspelt_method_is_told_before_any_data_is_read(tmp_path, monkeypatch):
    profile = load_profile("smoke")
    monkeypatch.setattr(Synthetic, "load", None)
    with pytest.raises(SuiteError, match="unknown method 'basline'"):
        make_plan(profile, Selection(methods=("basline",)), tmp_path)


def test_a_store_is_read_without_a_new_experiment(tmp_path, capsys):
    home = tmp_path / "home"
    tracker = Tracker(home, "other")
    plan(profile="smoke", home=home)
    assert "5 of 5 cells to do" in capsys.readouterr().out
    assert [e.name for e in tracker.client.search_experiments()] == ["open-set-fer/other", "Default"]
    assert sorted(path.name for path in home.iterdir()) == ["mlflow.db", "tracking.lock"]


def test_no_store_is_made_to_be_read(tmp_path, monkeypatch):
    home = tmp_path / "home"
    assert Tracker(home, "smoke", create=False).cells() == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere.db")
    assert Tracker(home, "smoke", create=False).planned() == []
    assert os.listdir(tmp_path) == []


def test_a_plan_shows_what_is_done(tmp_path, capsys):
    home = tmp_path / "home"
    profile = load_profile("smoke")
    name = profile.name
    cells, _ = make_plan(profile, Selection(), home / "cache")
    tracker = Tracker(home, name)
    tags = {"osfer.kind": "cell", "cell_key": cells[0].key, "dataset": "synthetic", "method": cells[0].label}
    tags["evaluation"] = str(EVALUATION)
    run = tracker.client.create_run(tracker.experiment_id, tags=tags)
    tracker.client.log_metric(run.info.run_id, "seconds.total", 60.0)
    tracker.client.set_terminated(run.info.run_id, "FINISHED")
    changed = {path: path.stat().st_mtime_ns for path in home.rglob("*.npy")}
    time.sleep(0.01)
    plan(profile="smoke", home=home)
    shown = capsys.readouterr().out
    assert "done" in shown
    assert "4 of 5 cells to do" in shown
    assert "will decode" not in shown
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*.npy")} == changed


def places(cells):
    return [(cell.label, cell.protocol.label) for cell in cells]


def test_a_plan_has_the_controls_that_the_profile_names_of_label_based_methods_and_label_loss(tmp_path):
    profile, cache = load_profile("smoke"), tmp_path / "cache"
    flipped = "surprise (20% of true labels flipped)"
    cells, _ = make_plan(profile, Selection(), cache)
    methods = ("ours", "label-loss", "small-loss")
    assert places(cells[:2]) == [("baseline", "surprise"), ("ours", "surprise")]
    assert places(cells[2:]) == [(method, flipped) for method in methods]
    typed, _ = make_plan(profile, Selection(methods=methods, regime=Regime("flipped-true", 0.2)), cache)
    assert [cell.key for cell in cells[2:]] == [cell.key for cell in typed], (
        "the cells that --labels flipped-true makes"
    )
    everyone = make_plan(profile, Selection(methods=("all",)), cache)[0]
    assert {cell.label for cell in everyone if cell.protocol.regime.is_control} == {
        "label-loss",
        "label-frequency",
        "small-loss",
        "ours",
        "ours-scratch",
        "ours-online",
        "ours-balanced",
        "ours-attention-only",
        "ours-attention-resets",
        "o2u",
        "co-teaching",
        "cleanlab",
    }


def test_controls_are_left_out_where_nothing_is_asked_of_the_methods_or_something_else_was_asked_for(tmp_path):
    profile, cache = load_profile("smoke"), tmp_path / "cache"
    for selection in (
        Selection(methods=("baseline", "knn", "ours-plus")),
        Selection(open_classes=("fear",)),
        Selection(regime=Regime("released", 1.0)),
    ):
        assert not any(cell.protocol.regime.is_control for cell in make_plan(profile, selection, cache)[0]), selection
    given = make_plan(profile, Selection(), cache, protocols=[make_plan(profile, Selection(), cache)[0][0].protocol])[0]
    assert len(given) == 2, "a study's protocols"


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ('controls = ["fliped"]', r"protocols\.controls\.0.*'spiked' or 'flipped-true'"),
        (
            'controls = ["spiked"]\ncontrol_classes = ["suprise"]',
            "no protocol opens 'suprise', did you mean 'surprise'",
        ),
        ('control_classes = ["surprise"]', "control_classes without controls"),
        ('controls = ["spiked"]\nlabels = "spiked"', "labels 'spiked' are a control themselves"),
    ],
)
def test_a_wrong_control_is_named(tmp_path, lines, match):
    path, last = tmp_path / "own.toml", 'open_classes = ["surprise"]'
    path.write_text(without_controls(load_profile("smoke").text).replace(last, f"{last}\n{lines}"), "utf-8")
    with pytest.raises(SuiteError, match=match):
        make_plan(load_profile(str(path)), Selection(), tmp_path / "cache")


def test_a_control_that_failed_is_retried_alone(tmp_path):
    cells, _ = make_plan(load_profile("smoke"), Selection(), tmp_path / "cache")
    assert Selection().only(cells[2:3]).arguments() == [
        "--method",
        "ours",
        "--open",
        "surprise",
        "--labels",
        "flipped-true",
        "--label-share",
        "0.2",
    ]
    assert "--labels" not in Selection().only(cells[1:3]).arguments()


def test_controls_have_a_table_of_their_own_and_are_in_no_mean(tmp_path):
    cells, _ = make_plan(load_profile("smoke"), Selection(seeds=(0, 1)), tmp_path / "cache")
    auroc = {cell.key: 1.0 if cell.protocol.regime.is_control else 0.5 for cell in cells}
    within = {key: 0.75 for key, value in auroc.items() if value == 1.0}
    main, controls = result_tables(cells, auroc, dict.fromkeys(auroc, 0.9), within)
    rows = [list(zip(*(column.cells for column in table.columns), strict=True)) for table in (main, controls)]
    assert [column.header for column in main.columns] == ["method", "surprise", "closed\nacc."]
    assert rows[0] == [("baseline", "0.500", "0.900"), ("ours", "0.500", "0.900")]
    assert " ".join(controls.columns[1].header.split()) == "sensitivity S, 20% of true labels flipped"
    assert set(rows[1]) == {("ours", "0.750"), ("label-loss", "0.750"), ("small-loss", "0.750")}


def test_the_tables_that_end_a_run_are_whole_at_80_columns(tmp_path):
    methods = ("baseline", "ours", "ours-attention-resets", "relative-mahalanobis")
    cells, _ = make_plan(load_profile("demo"), Selection(families=("single",), methods=methods), tmp_path / "cache")
    values = {cell.key: 0.5 for cell in cells[1:]}
    console = Console(width=80, file=StringIO(), color_system=None)
    for table in result_tables(cells, values, values, values):
        console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for word in (
        "baseline",
        "relative-",
        "mahalanobis",
        "happiness",
        "sadness",
        "neutral",
        "mean",
        "acc.",
        "label-loss",
        "(6/7)",
    ):
        assert word in text, word


def test_a_setting_that_all_cells_share_is_said_once_and_leaves_room_for_the_methods(tmp_path):
    chosen = Selection(families=("single",), methods=("baseline", "label-loss"), regime=Regime("released", 1.0))
    cells, _ = make_plan(load_profile("demo"), chosen, tmp_path / "cache")
    console = Console(width=80, file=StringIO(), color_system=None)
    (table,) = result_tables(cells, {cell.key: 0.5 for cell in cells})
    console.print(table)
    text = console.file.getvalue()
    assert text.count("(labels as released)") == 1
    assert max(map(len, text.splitlines())) <= 80
    assert "label-loss" in text


def test_keys_of_controls_are_not_those_of_flips_to_classes_at_random():
    cat = enumerate_protocols(("cat", "dog", "car"), ("single",))[0]
    content = cat.under(Regime("flipped-true", 0.2)).content()
    assert content == ["single", "cat", "labels", "flipped-true", 0.2, "histogram kept"]
    for old in (content[:-1], ["single", "cat", "labels", "flipped", 0.2]):
        with pytest.raises(ValueError, match="no protocol has"):
            Protocol.of_content(old, cat.closed)


def test_spiked_controls_are_in_the_cells_own_pool(tmp_path):
    path, last = tmp_path / "own.toml", 'open_classes = ["surprise"]'
    lines = 'open_from = "test"\ncontrols = ["spiked", "flipped-true"]'
    path.write_text(without_controls(load_profile("smoke").text).replace(last, f"{last}\n{lines}"), "utf-8")
    cells, _ = make_plan(load_profile(str(path)), Selection(methods=("ours",)), tmp_path / "cache")
    places = {cell.protocol.regime.labels: cell.protocol.open_from for cell in cells}
    assert places == {"own": "test", "spiked": "test", "flipped-true": "both"}


def test_small_loss_is_ours_without_its_parts_and_ours_scratch_ours_from_fresh_weights():
    profile = load_profile("ferplus-cpu")
    ours, plain, fresh = (settings_of(profile.method(label)) for label in ("ours", "small-loss", "ours-scratch"))
    parts = {"attention": False, "cycle_lr": False, "cycle_training": False}
    assert plain == ours | parts
    assert fresh == ours | {"pretrained_stages": 0}


def test_the_content_of_every_file_that_settings_name_counts_however_deep_and_however_old(tmp_path):
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    settings = {"scores": str(one), "more": (str(two), "msp"), "table": {"inner": [str(two)]}, "weight": 1.5}
    one.write_text("1")
    two.write_text("2")
    before = _files(settings)
    assert sorted(before) == ["more.0", "scores", "table.inner.0"]
    old = two.stat()
    two.write_text("22")
    os.utime(two, ns=(old.st_atime_ns, old.st_mtime_ns))  # as `cp -p` or `rsync -t` leave it
    after = _files(settings)
    assert {name for name in before if before[name] != after[name]} == {"more.0", "table.inner.0"}


@pytest.mark.parametrize("change", ["label", "vocabulary", "box", "image"])
def test_the_content_of_every_file_of_a_data_set_counts(tmp_path, change):
    root, listed = own_tree(tmp_path / "own"), tmp_path / "own" / "faces.csv"
    lines = ["path,label,split,left,top,right,bottom"]
    paths = sorted(root.glob("*/*/*.jpg"))
    lines += [f"{p.relative_to(root)},{p.parts[-2]},{p.parts[-3]},1,1,12,12" for p in paths]
    listed.write_text("\n".join(lines))

    def fingerprint():
        dataset = Manifest(str(listed), str(root / "vocabulary.toml"), image_size=16)
        dataset.load(tmp_path / "cache")
        return dataset.outline(tmp_path / "cache").fingerprint

    before = fingerprint()
    words = (root / "vocabulary.toml").read_text("utf-8")
    if change == "label":
        other = next(p.parts[-2] for p in paths if p.parts[-2] != paths[0].parts[-2])
        lines[1] = lines[1].replace(f",{paths[0].parts[-2]},", f",{other},")
    elif change == "box":
        lines[1] = lines[1].replace(",12,12", ",13,13")
    elif change == "image":
        paths[0].write_bytes(paths[-1].read_bytes())
    else:
        (root / "vocabulary.toml").write_text(words.replace("anger", "surprise"), "utf-8")
    listed.write_text("\n".join(lines))
    assert fingerprint() != before


def test_cells_that_nobody_asked_for_are_named_with_their_reason_and_how_to_leave_them_out(tmp_path, caplog):
    caplog.set_level("INFO", logger="open_set_fer")
    profile, cache = load_profile("smoke"), tmp_path / "cache"
    cells, _ = dry_plan(profile, Selection(), cache)
    added = [cell for cell in cells if cell.protocol.regime.is_control]
    (line,) = [record.getMessage() for record in caplog.records if "positive controls" in record.getMessage()]
    assert line.startswith(
        f"{len(added)} cells a seed besides are positive controls ({added[0].protocol.regime.labels}"
    )
    assert all(cell.label in line for cell in added)
    assert "whether ours can find wrong labels at all; --labels own leaves them out" in line
    caplog.clear()
    for selection in (Selection(regime=OWN), Selection(methods=("baseline",))):
        assert not any(cell.protocol.regime.is_control for cell in dry_plan(profile, selection, cache)[0])
    assert "positive controls" not in caplog.text


def test_a_choice_that_leaves_nothing_is_named(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('base = "smoke"\ndescription = "d"\nselection = "s"\n[protocols]\nfamilies = ["pairs"]\n', "utf-8")
    with pytest.raises(SuiteError) as fault:
        dry_plan(load_profile(str(path)), Selection(), tmp_path / "cache")
    assert "no protocol of family pairs opens surprise" in str(fault.value)
    assert "change open_classes under [protocols], the base's too, or the families: synthetic has" in str(fault.value)
