"""Files written whole: a reader sees the old content or the new, and nothing is left beside it."""

from __future__ import annotations

import os

import pytest

from open_set_fer.files import whole_folder, write_whole


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


def write_folder(target, text):
    with whole_folder(target) as folder:
        (folder / "below").mkdir()
        (folder / "below" / "file").write_text(text)


def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append(f"rename {a.name} {b.name}"), replace(a, b))[1])
    write_folder(tmp_path / "cell", "old")
    partial = tmp_path / "cell.partial"
    assert sorted(steps[:3]) == [str(partial), str(partial / "below"), str(partial / "below" / "file")]
    assert steps[3:] == ["rename cell.partial cell", str(tmp_path)]
    del steps[:]
    write_folder(tmp_path / "cell", "new")
    assert steps[3:] == ["rename cell cell.old", "rename cell.partial cell", str(tmp_path)]
    assert (tmp_path / "cell" / "below" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]


@pytest.mark.parametrize("step", ["block", "fsync", "first rename", "second rename"])
def test_a_failed_folder_leaves_the_old_one(tmp_path, monkeypatch, step):
    write_folder(tmp_path / "cell", "old")
    renames = []
    replace = os.replace

    def fail(*_):
        raise OSError("no space left")

    def rename(source, target):
        renames.append(target)
        (fail if len(renames) == ["first rename", "second rename"].index(step) + 1 else replace)(source, target)

    if step == "block":
        monkeypatch.setattr("pathlib.Path.write_text", fail)
    elif step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(os, "replace", rename)
    with pytest.raises(OSError, match="no space"):
        write_folder(tmp_path / "cell", "new")
    assert (tmp_path / "cell" / "below" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]


def test_a_killed_write_is_repeated(tmp_path):
    write_folder(tmp_path / "cell", "old")
    (tmp_path / "cell").rename(tmp_path / "cell.old")  # killed between the two renames
    (tmp_path / "cell.partial").mkdir()
    (tmp_path / "cell.partial" / "half").write_text("half a")
    write_folder(tmp_path / "cell", "new")
    assert (tmp_path / "cell" / "below" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]
