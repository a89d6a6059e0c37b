"""Profiles: every built-in one is valid; an unknown key or a wrong type names itself and the nearest right one."""

from __future__ import annotations

import dataclasses

import pytest

from open_set_fer.benchmark.plan import Selection, make_plan
from open_set_fer.benchmark.profiles import load_profile, profile_names
from open_set_fer.errors import SuiteError

SMOKE = load_profile("smoke")[2]


def write(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(text, "utf-8")
    return str(path)


def test_built_in_profiles_are_valid_and_the_paper_one_has_its_settings():
    assert {"smoke", "demo", "paper", "ferplus-cpu"} <= set(profile_names())
    _, paper, _ = load_profile("paper")
    ours = paper.method("ours").settings
    assert (ours.epochs, ours.cycle_length, ours.consistency_weight, ours.learning_rate) == (40, 10, 5.0, 2e-4)
    assert (ours.attention, ours.cycle_lr, ours.cycle_training) == (True, True, True)
    assert paper.backbone_settings().name == "resnet18"
    closed = paper.closed_set_settings()
    assert (closed.epochs, closed.batch_size, closed.learning_rate, closed.lr_decay) == (60, 512, 1e-3, 0.9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [0]", "seeds = [0]\nseds = [1]", r"own\.toml: unknown key seds, did you mean 'seeds'"),
        ("seeds = [0]", 'seeds = ["0"]', r"seeds\.0: Input should be a valid integer \(got '0'\)"),
        ('families = ["single"]', 'families = ["singel"]', r"protocols\.families\.0: .*'single'.*got 'singel'"),
        ("[protocols]", "[protocols]\nall_pair = true", r"unknown key protocols\.all_pair, did you mean 'all_pairs'"),
        ("cycle_length = 1", "cycle_lenght = 1", r"unknown key methods\.ours\.cycle_lenght, did you mean 'cycle_length'"),
        ("cycle_length = 1", "cycle_length = 1.5", r"methods\.ours\.cycle_length: .*valid integer.*got 1\.5"),
        ("width = 8", "widht = 8", r"unknown key backbone\.widht, did you mean 'width'"),
        ('name = "small"', 'name = "smal"', r"backbone\.name: Input should be 'small', 'resnet18' or 'resnet50'"),
        ("train_per_class", "train_per_clas", r"unknown key datasets\.synthetic\.train_per_clas, did you mean"),
        ("[methods.ours]", "[methods.our]", r"unknown method 'our', did you mean 'ours'"),
        ("[methods.ours]", "[methods.ours]\nclosed_set = 3", r"methods\.ours\.closed_set is no table"),
        ("[methods.baseline]", "[[protocols.pools]]\nsize = 9\nopen_share = 0.5\nseed = 1\n[methods.baseline]",
         r"unknown key protocols\.pools\.0\.seed\n.*known keys: size, open_share"),
        ("[datasets.synthetic]", "[datasets.synthetics]", r"unknown dataset 'synthetics', did you mean 'synthetic'"),
        ("seeds = [0]", "seeds = [0", "is not TOML"),
    ],
)  # fmt: skip
def test_a_fault_names_itself_and_the_nearest_right_key(tmp_path, old, new, message):
    assert old in SMOKE
    with pytest.raises(SuiteError, match=message):
        load_profile(write(tmp_path, SMOKE.replace(old, new, 1)))


def test_unknown_profile_method_protocol():
    with pytest.raises(SuiteError, match="unknown profile 'dmeo', did you mean 'demo'"):
        load_profile("dmeo")
    with pytest.raises(SuiteError, match=r"no profile file absent\.toml"):
        load_profile("absent.toml")
    _, profile, _ = load_profile("smoke")
    with pytest.raises(SuiteError, match="unknown method 'basline', did you mean 'baseline'"):
        profile.method("basline")


def plan_of(tmp_path, text=SMOKE, **selection):
    _, profile, _ = load_profile(write(tmp_path, text))
    return make_plan(profile, Selection(**selection), tmp_path / "cache")[0]


def test_keys_cover_all_that_a_cell_depends_on_and_nothing_else(tmp_path):
    base = {cell.label: cell.key for cell in plan_of(tmp_path)}
    assert len(set(base.values())) == 2
    assert {cell.label: cell.key for cell in plan_of(tmp_path, SMOKE.replace("seconds:", "few seconds:"))} == base
    for old, new, same in [
        ("epochs = 2\nbatch_size = 64\n\n", "epochs = 3\nbatch_size = 64\n\n", set()),  # closed-set training
        ("width = 8", "width = 4", set()),
        ("test_per_class = 20", "test_per_class = 21", set()),
        ("seeds = [0]", "seeds = [1]", set()),
        ("cycle_length = 1", "cycle_length = 2", {"baseline"}),
        ('open_classes = ["surprise"]', 'open_classes = ["fear"]', set()),
    ]:
        assert old in SMOKE
        other = {cell.label: cell.key for cell in plan_of(tmp_path, SMOKE.replace(old, new, 1))}
        assert {label for label in base if base[label] == other[label]} == same, old


def test_a_renamed_method_with_the_same_settings_is_the_same_cell(tmp_path):
    text = SMOKE.replace("[methods.ours]", '[methods.mine]\nmethod = "ours"').replace('"ours"]', '"mine"]')
    assert {c.key for c in plan_of(tmp_path, text)} == {c.key for c in plan_of(tmp_path)}


def test_method_version_counts(tmp_path, monkeypatch):
    before = {cell.label: cell.key for cell in plan_of(tmp_path)}
    monkeypatch.setattr("open_set_fer.methods.ours.Ours.version", 99)
    after = {cell.label: cell.key for cell in plan_of(tmp_path)}
    assert before["ours"] != after["ours"]
    assert before["baseline"] == after["baseline"]


def test_selection_of_the_command_line(tmp_path):
    text = SMOKE.replace('open_classes = ["surprise"]', "")
    assert len(plan_of(tmp_path, text, families=("single", "contempt"), methods=("baseline",), seeds=(0, 1))) == 16
    assert {c.label for c in plan_of(tmp_path, methods=("all",))} >= {"baseline", "ours"}
    with pytest.raises(SuiteError, match="unknown protocol 'pair', did you mean 'pairs'"):
        plan_of(tmp_path, families=("pair",))


def test_settings_are_frozen():
    _, profile, _ = load_profile("smoke")
    for label in profile.methods:
        with pytest.raises(dataclasses.FrozenInstanceError):
            profile.method(label).settings.new = 1


def labels_of(tmp_path, text=SMOKE, **selection):
    return list(dict.fromkeys(cell.protocol.label for cell in plan_of(tmp_path, text, **selection)))


def test_a_profiles_list_of_open_classes_goes_with_any_choice_of_families(tmp_path):
    listed = 'families = ["single", "pairs"]\nopen_classes = ["fear", "surprise+fear", "anger+neutral"]'
    text = SMOKE.replace('families = ["single"]\nopen_classes = ["surprise"]', listed)
    assert text != SMOKE
    assert labels_of(tmp_path, text) == ["fear", "surprise+fear", "anger+neutral"]
    assert labels_of(tmp_path, text, families=("single",)) == ["fear"]
    assert labels_of(tmp_path, text, families=("pairs",)) == ["surprise+fear", "anger+neutral"]
    assert len(labels_of(tmp_path, text, families=("pairs",), all_pairs=True)) == 21
    assert labels_of(tmp_path, text, open_classes=("disgust",)) == ["disgust"]  # asked for by name
    with pytest.raises(SuiteError, match="no protocol opens 'feer', did you mean 'fear'"):
        labels_of(tmp_path, text.replace('["fear"', '["feer"'))


def test_open_classes_of_several_data_sets(tmp_path):
    text = SMOKE.replace('["surprise"]', '["surprise", "3"]').replace(
        "[datasets.synth", "[datasets.digits]\n[datasets.synth"
    )
    both = {(cell.dataset, cell.protocol.label) for cell in plan_of(tmp_path, text)}
    assert both == {("synthetic", "surprise"), ("digits", "3")}
    named = {(cell.dataset, cell.protocol.label) for cell in plan_of(tmp_path, text, open_classes=("fear", "7"))}
    assert named == {("synthetic", "fear"), ("digits", "7")}
    with pytest.raises(SuiteError, match="no protocol opens 'surprise\\+neutral'"):
        plan_of(tmp_path, text, open_classes=("surprise+neutral",))


@pytest.mark.parametrize("family", ["single", "pairs", "triples", "compound", "contempt"])
def test_the_demo_profile_has_every_family(tmp_path, family):
    text = load_profile("demo")[2]
    small = text.replace("train_per_class = 400", "train_per_class = 4").replace(
        "test_per_class = 100", "test_per_class = 2"
    )
    assert labels_of(tmp_path, small, families=(family,))
