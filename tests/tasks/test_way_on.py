"""A run that a stop signal ends says how it goes on."""

from __future__ import annotations

import shlex

import pytest

from facenet.files.typed import override
from facenet.launch.local import Stopped
from facenet.tasks.job import way_on_told


@pytest.mark.parametrize("end", [KeyboardInterrupt(), Stopped(143)], ids=["ctrl-c", "sigterm"])
def test_the_last_line_goes_on(tmp_path, capsys, end):
    run_dir = tmp_path / "a run (1)"
    (run_dir / "checkpoints").mkdir(parents=True)
    with pytest.raises(type(end)), way_on_told(run_dir, ["optimizer.lr=1"], alone=True):
        raise end
    assert "ended before its first checkpoint; the same command begins anew" in capsys.readouterr().out
    (run_dir / "checkpoints" / "last.pt").touch()
    # What a directory's word is not enough for is said again.
    given = ["optimizer.lr=1", "data.shards=https://host/x.tar"]
    with pytest.raises(type(end)), way_on_told(run_dir, given, alone=True):
        raise end
    said = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(said.partition(": ")[2]) == ["facenet-train", override("resume", run_dir), given[1]]
    # What a command changed that goes on is in no checkpoint yet.
    given = ["++resume=elsewhere", "trainer.epochs=2", "resume_changed=true"]
    with pytest.raises(type(end)), way_on_told(run_dir, given, alone=True):
        raise end
    said = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(said.partition(": ")[2]) == ["facenet-train", override("resume", run_dir), *given[1:]]


def test_other_ends_say_nothing(tmp_path, capsys):
    with pytest.raises(ValueError, match="^x$"), way_on_told(tmp_path, [], alone=True):
        raise ValueError("x")
    with way_on_told(tmp_path, [], alone=True):
        pass
    assert capsys.readouterr().out == ""


def test_a_run_that_fails_after_a_checkpoint_says_how_it_goes_on(tmp_path, capfd):
    last = tmp_path / "checkpoints" / "last.pt"
    last.parent.mkdir()
    with pytest.raises(ValueError, match="x"), way_on_told(tmp_path, ["optimizer.lr=1"], alone=True):
        last.touch()
        raise ValueError("x")
    assert f"go on with it: facenet-train resume={tmp_path}" in capfd.readouterr().out
    with pytest.raises(ValueError, match="x"), way_on_told(tmp_path, [], alone=True):
        raise ValueError("x")  # before this command wrote any
    assert capfd.readouterr().out == ""
