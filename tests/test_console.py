"""Progress off a terminal: a line from time to time, with the time left."""

from __future__ import annotations

import time

import pytest

from open_set_fer import console
from open_set_fer.console import bars, log, track


@pytest.fixture
def lines(monkeypatch, caplog):
    """The lines logged so far, where one is due every hundredth of a second."""
    monkeypatch.setattr(console, "LINE_EVERY", 0.01)
    caplog.set_level("INFO", logger=log.name)
    return lambda: [record.getMessage() for record in caplog.records]


def wait_for(lines, text):
    end = time.monotonic() + 60
    while not any(text in line for line in lines()):
        assert time.monotonic() < end, lines()
        time.sleep(0.01)


def test_off_a_terminal_each_line_says_what_is_done_and_how_long_the_rest_takes(lines):
    with bars() as progress:
        task = progress.add_task("cells", total=8, completed=4, before=4)
        wait_for(lines, "cells 4 of 8")
        progress.add_task("ours · surprise · seed 0", total=None)
        wait_for(lines, "; ours · surprise · seed 0 0 s so far")
        progress.tasks[0].start_time -= 600  # two cells took ten minutes, so two take ten more
        progress.update(task, completed=6)
        wait_for(lines, "cells 6 of 8, about 10 min left")
    said = len(lines())
    time.sleep(0.05)
    assert len(lines()) <= said + 1  # nothing afterwards; one may have been under way
    assert not any("4 of 8, about" in line for line in lines())


def test_a_loop_says_how_far_it_is(lines):
    for _ in track(range(3), "decoding"):
        wait_for(lines, "decoding 0 of 3")
        break


def test_on_a_terminal_there_are_bars_alone(lines, monkeypatch):
    monkeypatch.setattr(type(console.console), "is_terminal", True)
    with bars() as progress:
        progress.add_task("cells", total=8)
        time.sleep(0.1)
    assert lines() == []
