"""One cell: which networks its method builds."""

from __future__ import annotations

from open_set_fer.benchmark.planning.cells import Selection, make_plan
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.methods.baseline import Baseline
from open_set_fer.methods.ours import Ours
from tests.computing import compute


def test_a_labels_own_backbone_is_for_its_own_networks_alone(tmp_path, monkeypatch):
    text = load_profile("smoke").text.replace("[methods.ours]\n", "[methods.ours]\nbackbone = { width = 4 }\n")
    (tmp_path / "own.toml").write_text(text, "utf-8")
    profile = load_profile(str(tmp_path / "own.toml"))
    cells, face_sets = make_plan(profile, Selection(methods=("ours", "baseline")), tmp_path / "cache")
    seen = {}

    def record(kind):
        original = kind.detect

        def detect(self, task, context):
            seen[self.name] = context.backbone.width, context.closed_set_model(task).network.widths[0]
            return original(self, task, context)

        monkeypatch.setattr(kind, "detect", detect)

    record(Ours)
    record(Baseline)
    for cell in cells:
        compute(cell, profile, face_sets["synthetic"], tmp_path)
    assert seen == {"ours": (4, 8), "baseline": (8, 8)}
