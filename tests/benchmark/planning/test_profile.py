"""Profiles: every built-in one is valid; an unknown key or a wrong type names itself and the nearest right one."""

from __future__ import annotations

import dataclasses

import pytest

from open_set_fer.benchmark.planning.cells import Selection, dry_plan, make_plan
from open_set_fer.benchmark.planning.profile import built_in_labels, load_profile
from open_set_fer.benchmark.planning.profile_files import _protocols, profile_names
from open_set_fer.errors import SuiteError
from open_set_fer.methods.dias import Dias
from open_set_fer.methods.shared.recipe import BackboneSettings
from tests.conftest import without_controls

SMOKE = without_controls(load_profile("smoke").text)


def write(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(text, "utf-8")
    return str(path)


def test_built_in_profiles_are_valid_and_the_paper_one_has_its_settings():
    assert {"smoke", "demo", "paper", "ferplus-cpu"} <= set(profile_names())
    paper = load_profile("paper")
    ours = paper.method("ours")
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
        (
            "cycle_length = 1",
            "cycle_lenght = 1",
            r"unknown key methods\.ours\.cycle_lenght, did you mean 'cycle_length'",
        ),
        ("cycle_length = 1", "cycle_length = 1.5", r"methods\.ours\.cycle_length: .*valid integer.*got 1\.5"),
        ("width = 8", "widht = 8", r"unknown key backbone\.widht, did you mean 'width'"),
        ('name = "small"', 'name = "smal"', "backbone.name: unknown backbone 'smal', did you mean 'small'"),
        ("train_per_class", "train_per_clas", r"unknown key datasets\.synthetic\.train_per_clas, did you mean"),
        ("[methods.ours]", "[methods.our]", r"unknown method 'our', did you mean 'ours'"),
        ("[methods.ours]", "[methods.ours]\nclosed_set = 3", r"methods\.ours\.closed_set is no table"),
        (
            "[methods.baseline]",
            "[[protocols.pools]]\nsize = 9\nopen_share = 0.5\nhue = 1\n[methods.baseline]",
            r"unknown key protocols\.pools\.0\.hue\n.*known keys: size, open_share",
        ),
        ("[datasets.synthetic]", "[datasets.synthetics]", r"unknown dataset 'synthetics', did you mean 'synthetic'"),
        ("seeds = [0]", "seeds = [0", "not TOML: Unclosed"),
        ("seeds = [0]", "seedz = [0]", r"unknown key seedz, did you mean 'seeds'"),
        ("seeds = [0]", "", r"own\.toml: seeds: Field required\n"),
        ("seeds = [0]", "seeds = []", r"seeds: .*at least 1 item"),
        ('families = ["single"]', "families = []", r"protocols\.families: .*at least 1 item"),
        ('default_methods = ["baseline", "ours"]', "default_methods = []", r"default_methods: .*at least 1 item"),
        ('"baseline", "ours"]', '"baseline", "our"]', r"default_methods: unknown method 'our', did you mean 'ours'"),
        ("epochs = 2\nbatch", "epochs = 0\nbatch", r"closed_set\.epochs: .*greater than or equal to 1 \(got 0\)"),
        ("epochs = 2\ncycle", f"epochs = {10**18}\ncycle", r"methods\.ours\.epochs: .*less than or equal to 100000"),
        ("batch_size = 64\n\n", "batch_size = 1\n\n", r"closed_set\.batch_size: .*greater than or equal to 2"),
        ("batch_size = 64\n\n", "learning_rate = nan\n\n", r"closed_set\.learning_rate: nan is not a value"),
        ("batch_size = 64\n\n", "learning_rate = 0.0\n\n", r"closed_set\.learning_rate: .*greater than 0"),
        ("batch_size = 64\n\n", "erase_probability = 7.0\n\n", r"erase_probability: .*less than or equal to 1"),
        ("batch_size = 64\n\n", "learning_rate = 2026-01-01\n\n", r"learning_rate: 2026-01-01 is not a value"),
        ("width = 8", "width = 0", r"backbone\.width: .*greater than or equal to 1"),
        ("[methods.ours]", '[methods.ours]\nlike = ["ours"]', r"methods\.ours\.like: \['ours'\] is not a name"),
        ("[methods.ours]", "[methods.ours]\nmethod = 3", r"methods\.ours\.method: 3 is not a name"),
        ("[methods.ours]", '[methods.""]\nmethod = "ours"', r"methods: '' cannot be a label"),
        ("[methods.ours]", '[methods." o"]\nmethod = "ours"', r"methods: ' o' cannot be a label"),
        ("[methods.ours]", '[methods.all]\nmethod = "ours"', r"methods: 'all' cannot be a label"),
        ("[methods.ours]", '[methods."a,b"]\nmethod = "ours"', r"methods: 'a,b' cannot be a label"),
        ("[methods.ours]", '[methods."a\\nb"]\nmethod = "ours"', r"methods: 'a\\nb' cannot be a label"),
        ("seeds = [0]", "seeds = " + "[" * 5000, r"not TOML"),
        ("seeds = [0]", 'seeds = [0]\nbase = "smok"', r"unknown profile 'smok', did you mean 'smoke'"),
        ("seeds = [0]", "seeds = [0]\nbase = 3", r"base: 3 is not a name"),
        ("seeds = [0]", 'seeds = [0]\nbase = "ours-plus-study"', r"base: ours-plus-study has a base itself"),
    ],
)
def test_a_fault_names_itself_and_the_nearest_right_key(tmp_path, old, new, message):
    assert old in SMOKE
    with pytest.raises(SuiteError, match=message):
        load_profile(write(tmp_path, SMOKE.replace(old, new, 1)))


def test_weights_for_the_small_network_are_refused_before_anything_is_computed():
    with pytest.raises(SuiteError, match=r"profile smoke: backbone 'small' has no pretrained weights\n  fix: remove"):
        load_profile("smoke", weights="checkpoint.pth")


def test_unknown_profile_method_protocol():
    with pytest.raises(SuiteError, match="unknown profile 'dmeo', did you mean 'demo'"):
        load_profile("dmeo")
    with pytest.raises(SuiteError, match=r"no profile file absent\.toml"):
        load_profile("absent.toml")
    profile = load_profile("smoke")
    with pytest.raises(SuiteError, match="unknown method 'basline', did you mean 'baseline'"):
        profile.method("basline")


def plan_of(tmp_path, text=SMOKE, **selection):
    profile = load_profile(write(tmp_path, text))
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
    profile = load_profile("smoke")
    for label in profile.methods:
        with pytest.raises(dataclasses.FrozenInstanceError):
            profile.method(label).new = 1


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
    text = load_profile("demo").text
    small = text.replace("train_per_class = 400", "train_per_class = 4").replace(
        "test_per_class = 100", "test_per_class = 2"
    )
    assert labels_of(tmp_path, small, families=(family,))


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_profile_that_is_not_utf8_says_so(tmp_path, encoding):
    path = tmp_path / "own.toml"
    path.write_text(SMOKE.replace("seconds", "sécondes"), encoding)
    with pytest.raises(SuiteError, match=r"cannot read the profile .*own\.toml: .*utf-8"):
        load_profile(str(path))


def test_a_byte_order_mark_and_a_suffix_in_capitals_do_no_harm(tmp_path):
    path = tmp_path / "OWN.TOML"
    path.write_text(load_profile("smoke").text, "utf-8-sig")
    profile = load_profile(str(path))
    assert (profile.name, profile.model_dump()) == ("OWN", load_profile("smoke").model_dump())


def test_an_own_profile_does_not_take_the_name_of_a_built_in_one(tmp_path):
    path = tmp_path / "smoke.toml"
    path.write_text(load_profile("smoke").text, "utf-8")
    assert load_profile(str(path)) == load_profile("smoke")  # a copy is the same profile
    path.write_text(SMOKE.replace("seeds = [0]", "seeds = [1]"), "utf-8")
    with pytest.raises(SuiteError, match="named like the built-in profile smoke: their results would share"):
        load_profile(str(path))


def test_every_profile_has_every_label_of_the_suite_and_all_means_the_same():
    for name in profile_names():
        profile = load_profile(name)
        assert set(built_in_labels()) <= set(profile.method_labels())
        for label in profile.method_labels():
            assert profile.method(label) is not None
            assert profile.about(label)
    labels = {name: load_profile(name).method_labels() for name in ("smoke", "demo", "ferplus-cpu", "contrast")}
    assert labels["smoke"] == labels["demo"] == labels["ferplus-cpu"] == labels["contrast"]
    assert {"energy", "knn", "vim", "max-logit", "o2u"} <= set(labels["smoke"])


def test_a_built_in_label_takes_what_the_profile_says_of_it_and_of_what_it_is_like(tmp_path):
    text = SMOKE + "[methods.knn]\nknn_k = 3\n"
    profile = load_profile(write(tmp_path, text))
    assert (profile.method("knn").detector, profile.method("knn").knn_k) == ("knn", 3)
    assert profile.method("ours-online") == dataclasses.replace(profile.method("ours"), variant="online")
    assert profile.about("knn").startswith("post-hoc")
    changed = load_profile(write(tmp_path, SMOKE + '[methods.x]\nlike = "ours"\nepochs = 9\n'))
    assert changed.about("x") == "ours with epochs = 9"


BASED = """
base = "ferplus-cpu"
description = "mine"
selection = "nothing was selected"
[datasets.synthetic]
[closed_set]
epochs = 3
[methods.ours]
epochs = 5
[methods.eow]
method = "ours"
"""


def test_a_base_gives_what_the_profile_does_not_say(tmp_path):
    base, own = load_profile("ferplus-cpu"), load_profile(write(tmp_path, BASED))
    assert list(own.datasets) == ["synthetic"]
    assert own.closed_set_settings() == dataclasses.replace(base.closed_set_settings(), epochs=3)
    assert own.method("ours") == dataclasses.replace(base.method("ours"), epochs=5)
    assert own.method("dias") == base.method("dias")
    assert own.method("eow") == type(own.method("ours"))()
    assert (own.seeds, own.default_methods, own.protocols) == (base.seeds, base.default_methods, base.protocols)
    with pytest.raises(SuiteError, match=r"own\.toml: selection: Field required"):
        load_profile(write(tmp_path, BASED.replace('selection = "nothing was selected"', "")))


@pytest.mark.parametrize(
    ("lines", "changed"),
    [
        ("controls = []", {"controls": [], "control_classes": []}),
        ('families = ["pairs"]\nall_pairs = true', {"families": ["pairs"], "all_pairs": True}),
        ('control_classes = ["fear"]', {"control_classes": ["fear"]}),
    ],
)
def test_a_key_of_protocols_is_laid_over_the_base_s_table(tmp_path, lines, changed):
    base, own = load_profile("ferplus-cpu"), load_profile(write(tmp_path, f"{BASED}[protocols]\n{lines}\n"))
    assert base.protocols.control_classes == ["surprise"]
    assert own.protocols.model_dump() == base.protocols.model_dump() | changed


def test_a_share_of_the_base_s_labels_goes_with_them():
    base = {"families": ["single"], "labels": "released", "label_share": 0.5, "open_classes": ["fear"]}
    assert _protocols(base, {"labels": "own"}) == {"families": ["single"], "labels": "own", "open_classes": ["fear"]}
    assert _protocols(base, {"open_classes": []}) == base | {"open_classes": []}


OTHER = SMOKE.replace("[methods.ours]\n", "[methods.ours]\nbackbone = { width = 4 }\n")


def test_a_label_may_have_networks_of_its_own_kind_and_shares_the_closed_set_model(tmp_path):
    profile = load_profile(write(tmp_path, OTHER))
    shared = profile.backbone_settings()
    assert profile.own_backbone("ours") == dataclasses.replace(shared, width=4)
    assert profile.own_backbone("ours-online") == profile.own_backbone("ours")  # it is like ours
    assert profile.own_backbone("baseline") is None
    assert profile.method("ours") == load_profile("smoke").method("ours")
    before, after = ({c.label: c for c in plan_of(tmp_path, text)} for text in (SMOKE, OTHER))
    assert before["baseline"].key == after["baseline"].key
    assert before["ours"].key != after["ours"].key
    assert before["ours"].settings_key() != after["ours"].settings_key()
    assert before["ours"].closed_set_key == after["ours"].closed_set_key == after["baseline"].closed_set_key
    same = SMOKE.replace("[methods.ours]\n", "[methods.ours]\nbackbone = { width = 8 }\n")
    assert {c.label: c.key for c in plan_of(tmp_path, same)} == {c.label: c.key for c in before.values()}
    for wrong, message in (
        ("3", "methods.ours.backbone is no table"),
        ("{ widht = 4 }", r"unknown key methods\.ours\.back.*\.widht"),
    ):
        with pytest.raises(SuiteError, match=message):
            load_profile(write(tmp_path, OTHER.replace("{ width = 4 }", wrong)))


def test_checkpoints_go_to_the_networks_that_they_are_named_for(tmp_path):
    """And until they are given, each label says what it is that it starts without."""
    paper = load_profile("paper")
    assert paper.own_backbone("ours-notebook") == BackboneSettings("resnet50", stem="face")
    one, two = paper.fresh_starts(["baseline", "ours-notebook", "ours"])
    assert "resnet18_msceleb.pth: baseline, ours cannot" in one
    assert "resnet50_ft_weight.pkl: ours-notebook cannot" in two
    alone = load_profile("paper", "a,b=c.pth")
    assert (alone.backbone_settings().weights, alone.own_backbone("ours-notebook").weights) == ("a,b=c.pth", "")
    assert len(alone.fresh_starts(["baseline", "ours-notebook"])) == 1
    both = load_profile("paper", "resnet50=x,y.pkl,resnet18=z.pth")
    assert (both.backbone_settings().weights, both.own_backbone("ours-notebook").weights) == ("z.pth", "x,y.pkl")
    assert both.own_backbone("ours") is None
    assert both.fresh_starts(both.method_labels()) == []
    with pytest.raises(SuiteError, match="the profile has no network resnet50"):
        load_profile("smoke", "resnet50=x.pkl")


def test_a_label_may_have_other_settings_on_a_checkpoint(tmp_path):
    fresh, trained = load_profile("paper"), load_profile("paper", "x.pth")
    assert fresh.method("dias") == Dias()  # as published
    assert trained.method("dias") == Dias(epochs=60, optimizer="adam", learning_rate=1e-3, weight_decay=0.0, lr_step=30)
    assert trained.method("eow") == fresh.method("eow")
    with pytest.raises(SuiteError, match=r"unknown key methods\.ours\.epoch, did you mean 'epochs'"):
        load_profile(write(tmp_path, SMOKE + "[with_weights.ours]\nepoch = 3\n"))


def test_a_data_set_that_the_profile_does_not_list_is_an_error_with_its_mend(tmp_path):
    with pytest.raises(SuiteError, match=r"does not list data set digits: .*\n.*contrast.*table \[datasets\.digits\]"):
        plan_of(tmp_path, datasets=("digits",))
    with pytest.raises(SuiteError, match="unknown dataset 'synthetics', did you mean 'synthetic'"):
        plan_of(tmp_path, datasets=("synthetics",))


def test_the_papers_data_sets_have_its_size_and_only_ferplus_runs_unasked(tmp_path, monkeypatch):
    monkeypatch.setenv("OSFER_DATA", str(tmp_path))
    paper = load_profile("paper")
    assert {name: paper.dataset(name).image_size for name in paper.datasets} == dict.fromkeys(
        ("ferplus", "rafdb", "rafdb_compound", "affectnet"), 224
    )
    assert list(dry_plan(paper, Selection(), tmp_path)[1]) == ["ferplus"]
    compound = Selection(datasets=("rafdb_compound",), families=("compound",))
    assert {cell.protocol.label for cell in dry_plan(paper, compound, tmp_path)[0]} == {"compound"}
    own = 'base = "paper"\ndescription = "mine"\nselection = "none"\n[datasets.synthetic]\n'
    assert load_profile(write(tmp_path, own)).default_datasets == []
