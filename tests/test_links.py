"""Links and folders that somebody put where a command writes: nothing behind them changes, and one line says so."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from facenet.engine.watch.nonfinite import dump
from facenet.errors import UserError
from facenet.files import atomic
from facenet.files.folders import MARK, partial_of, written_whole
from facenet.launch.local import Distributed, launch
from facenet.launch.order import Order
from facenet.sweeps.state import State, state_of
from facenet.tasks.resume import alone_in
from facenet.tasks.worker import start_logging
from facenet.tracking import journal
from facenet.tracking.dllogger import VendorLog
from facenet.tracking.store import locked


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    file = tmp_path / "elsewhere" / "precious"
    file.parent.mkdir()
    file.write_text("mine")
    return file


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def lock(run_dir: Path) -> None:
    with alone_in(run_dir):
        pass


def lock_database(run_dir: Path) -> None:
    with locked(run_dir / "mlflow.db"):
        pass


def mark(run_dir: Path) -> None:
    with journal.marked(journal.begin(run_dir, "a" * 32, None)):
        pass


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "lock": (".lock", lock),
    "lock of the database": ("mlflow.db.lock", lock_database),
    "journal": ("metrics.jsonl", lambda run_dir: journal.begin(run_dir, "a" * 32, None)),
    "mark of the journal": ("metrics.jsonl.sent", mark),
    "log": ("train.log", lambda run_dir: start_logging(run_dir, 0)),
    "vendor's log": ("dllogger-0.json", lambda run_dir: VendorLog(run_dir / "dllogger-0.json", 0)),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("there", [True, False], ids=["a file", "nothing"])
def test_a_link_where_a_file_is_written_is_refused_by_name(tmp_path: Path, precious: Path, name: str, there: bool):
    run_dir, (file, write) = tmp_path / "run", WRITERS[name]
    run_dir.mkdir()
    target = precious if there else precious.with_name("new")
    (run_dir / file).symlink_to(target)
    if name == "mark of the journal":  # which a new journal removes, the link and not what it names
        write(run_dir)
    else:
        with pytest.raises(UserError, match=f"/run/{file}: is a link, .* remove it or choose another directory"):
            write(run_dir)
    assert precious.read_text() == "mine" and [path.name for path in precious.parent.iterdir()] == ["precious"]


@pytest.mark.parametrize("folder", ["checkpoints", "ranks"])
def test_a_folder_of_a_run_that_is_a_link_is_refused(tmp_path: Path, precious: Path, folder: str):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / folder).symlink_to(precious.parent)
    with pytest.raises(UserError, match=f"/run/{folder}: is a link.*hydra.run.dir="):
        lock(tmp_path / "run")
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_run_directory_behind_a_link_is_as_good_as_any(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    run_dir = tmp_path / "runs" / "one"
    with alone_in(run_dir):
        journal.begin(run_dir, "a" * 32, None)
        with atomic.replacing(run_dir / "a") as partial:
            partial.write_text("x")
    assert {path.name for path in (tmp_path / "disk" / "one").iterdir()} == {".lock", "metrics.jsonl", "a"}


def test_a_link_in_the_place_of_a_whole_file_is_replaced_and_not_followed(tmp_path: Path, precious: Path):
    (tmp_path / "result.json").symlink_to(precious)
    with atomic.replacing(tmp_path / "result.json") as partial:
        partial.write_text("{}")
    assert precious.read_text() == "mine" and not (tmp_path / "result.json").is_symlink()


def test_logs_of_ranks_go_through_no_link(tmp_path: Path, precious: Path):
    (tmp_path / "run" / "ranks").mkdir(parents=True)
    (tmp_path / "run" / "ranks" / "1.log").symlink_to(precious)
    with pytest.raises(UserError, match="ranks/1.log: is a link"):
        launch(tmp_path / "run", Distributed(num_processes=2), Order())
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_folder_of_somebody_elses_is_not_emptied(tmp_path: Path, precious: Path, kind: str):
    partial = partial_of(tmp_path / "packed")
    if kind == "link":
        partial.symlink_to(precious.parent)
    else:
        precious.parent.rename(partial)
        precious = partial / "precious"
    expected = "is a link, which is not followed" if kind == "link" else "holds files that facenet did not write"
    with pytest.raises(UserError, match=expected), written_whole(tmp_path / "packed"):
        raise AssertionError
    assert precious.read_text() == "mine"


def test_what_a_killed_command_of_ours_left_is_written_anew(tmp_path: Path):
    partial = partial_of(tmp_path / "packed")
    partial.mkdir()
    (partial / MARK).touch()
    (partial / "half").write_text("")
    with written_whole(tmp_path / "packed") as folder:
        (folder / "whole").write_text("")
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["whole"] and not partial.exists()


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o027, 0o640)])
def test_what_is_written_is_readable_as_the_umask_says(tmp_path: Path, umask: int, mode: int):
    before = os.umask(umask)
    try:
        for _, write in WRITERS.values():
            write(tmp_path)
        with atomic.replacing(tmp_path / "result.json") as partial:
            partial.write_text(json.dumps(1))
    finally:
        os.umask(before)
    names = [*(file for file, _ in WRITERS.values()), "result.json"]
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == dict.fromkeys(names, mode)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.parametrize("name", [name for name in WRITERS if name != "mark of the journal"])
def test_what_is_no_file_is_refused_and_waited_for_by_nobody(tmp_path: Path, name: str, kind: str):
    file, write = WRITERS[name]
    os.mkfifo(tmp_path / file) if kind == "pipe" else (tmp_path / file).mkdir()
    with pytest.raises(UserError, match=f"/{file}: is no ordinary file; remove it"):
        write(tmp_path)


def test_a_folder_with_the_name_of_a_partial_file_is_left_alone(tmp_path: Path):
    folder, file = (tmp_path / f".{name}.{'0' * 16}.facenet-partial" for name in ("folder", "file"))
    folder.mkdir()
    file.touch()
    atomic.tidy(tmp_path)
    assert folder.is_dir() and not file.exists()


def test_a_job_of_a_sweep_is_not_looked_for_behind_a_link(tmp_path: Path, precious: Path):
    (tmp_path / "0").symlink_to(precious.parent)
    with pytest.raises(UserError, match="/0: is a link, which a sweep does not follow"):
        state_of(tmp_path / "0", {})
    (tmp_path / "sweep").symlink_to(tmp_path)
    assert state_of(tmp_path / "sweep" / "1", {}) == State("new")


def test_a_dump_and_a_mark_go_through_no_link(tmp_path: Path, precious: Path):
    (tmp_path / "nonfinite-0.pt").symlink_to(precious)
    dump(tmp_path / "nonfinite-0.pt", [], [], {})
    assert precious.read_text() == "mine" and not (tmp_path / "nonfinite-0.pt").is_symlink()
    before = precious.stat().st_mtime_ns
    partial_of(tmp_path / "packed").mkdir()
    (partial_of(tmp_path / "packed") / MARK).symlink_to(precious)
    with pytest.raises(UserError, match="is a link"), written_whole(tmp_path / "packed"):
        raise AssertionError
    assert precious.stat().st_mtime_ns == before
