"""Files written whole: a reader sees the old content or the new, and nothing is left beside it."""

from __future__ import annotations

import os

import pytest

from open_set_fer.files import write_whole


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("rename"), replace(a, b))[1])
    write_whole(tmp_path / "meta.json", b"{}")
    assert steps == [str(tmp_path / "meta.new"), "rename", str(tmp_path)]
    assert [path.name for path in tmp_path.iterdir()] == ["meta.json"]


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "meta.json"
    write_whole(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
