import os

import pytest

from facenet.errors import UserError
from facenet.files import atomic


def test_the_old_file_stands_until_the_new_one_is_on_the_disk(tmp_path, monkeypatch):
    path, seen, fsync, replace = tmp_path / "a", [], os.fsync, os.replace
    path.write_text("old")

    def synced(descriptor):
        seen.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def replaced(source, target):
        seen.append(path.read_text())
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with atomic.replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and partial.name.startswith(".a.") and partial.parent == tmp_path
    assert path.read_text() == "new" and [file.name for file in tmp_path.iterdir()] == ["a"]
    assert seen == [str(partial), "old", str(tmp_path)]  # the bytes, the name, the directory


def test_what_breaks_off_changes_nothing(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic.replacing(tmp_path / "a") as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "old")]


def test_what_a_killed_process_left_is_tidied(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    left = f".{'0f' * 8}.facenet-partial"
    theirs = [
        ".lock",
        ".notes.partial",
        ".a.facenet-partial",
        "checkpoints/last.pt",
        f"inner/checkpoints/.last.pt{left}",
    ]
    for name in (f".history.json{left}", f"checkpoints/.last.pt{left}", *theirs):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    atomic.tidy(tmp_path, ("checkpoints",))
    kept = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert kept == sorted(theirs)  # a run within this one may be at work


def test_what_a_disk_refuses_names_the_file(tmp_path):
    with (
        pytest.raises(
            UserError, match=r"/absent/\.a\.json\.[0-9a-f]{16}\.facenet-partial: cannot be written .No such file.*hydra"
        ),
        atomic.writable(tmp_path),
        atomic.replacing(tmp_path / "absent" / "a.json") as partial,
    ):
        partial.write_text("")
