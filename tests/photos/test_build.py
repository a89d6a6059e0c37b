"""A detector says which faces its threshold was set on, and what is kept of a build that is stopped."""

from __future__ import annotations

import signal

import pytest
from typer.testing import CliRunner

from open_set_fer.benchmark.planning.profile import Profile, load_profile
from open_set_fer.cli.main import app
from open_set_fer.photos import build, find
from open_set_fer.photos.build import plan_detector


@pytest.mark.parametrize(
    ("split", "said"), [("valid", "valid"), ("train", "train (every 10th, left out of the training)")]
)
def test_the_known_faces_are_named_by_the_split_that_they_are_of(every_class, monkeypatch, tmp_path, split, said):
    every_class.split[every_class.split == "valid"] = split

    class Made:
        def load(self, cache):
            return every_class

    monkeypatch.setattr(Profile, "dataset", lambda self, name: Made())
    cell, faces, words = plan_detector(load_profile("smoke"), "synthetic", "baseline", "", 0, tmp_path)
    assert words == said
    assert (faces.split == "valid").any()
    assert cell.protocol.open == ("contempt",)


def test_a_stopped_build_says_what_is_kept(monkeypatch, tmp_path):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build_detector", stopped)
    monkeypatch.setattr(find, "finder", lambda: None)
    handler = signal.getsignal(signal.SIGINT)
    command = ["detector", "build", "-p", "smoke", "-m", "baseline", "--home", str(tmp_path)]
    try:
        done = CliRunner().invoke(app, command)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert done.exit_code == 130
    assert "stopped; a closed-set model in training is kept up to its last kept epoch" in done.stderr
