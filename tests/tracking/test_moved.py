"""A project that was moved, and what was deleted in MLflow."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from facenet.errors import UserError
from facenet.privacy import addresses
from facenet.tasks import run_store
from facenet.tools.runs import run_sync
from facenet.tracking.choice import MlflowTracking
from facenet.tracking.facts import RunFacts
from facenet.tracking.store import open_client

Facts = Callable[..., RunFacts]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(addresses.VARIABLE, "[]")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def tracking(folder: Path) -> MlflowTracking:
    return MlflowTracking(uri=f"sqlite:///{folder}/mlflow.db", experiment="moved", system_metrics=False)


def run_in(folder: Path, facts: Facts, file: str, run_id: str | None = None) -> str:
    """Writes a file as an artifact of a run of the project in `folder`; returns the run's id."""
    run_dir = folder / "outputs" / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    with tracking(folder).run(facts(run_dir=run_dir), run_id) as found:
        (run_dir / file).write_text(file)
        tracker = tracking(folder).tracker(found, run_dir)
        tracker.artifact(run_dir / file)
        tracker.close()
    run_store.remember_store(run_dir, tracking(folder).uri, found)
    return found


@pytest.fixture
def project(store: Path, tmp_path: Path, facts: Facts) -> tuple[Path, str]:
    """A project in tmp_path/old with one run, and the run's id."""
    (tmp_path / "old").mkdir()
    shutil.copy(store / "mlflow.db", tmp_path / "old")
    return tmp_path / "old", run_in(tmp_path / "old", facts, "first.txt")


def moved(old: Path) -> Path:
    """The new place of a project, seen as by a new process: MLflow remembers where a run's files were."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()
    return old.rename(old.parent / "new")


def artifacts(folder: Path, run_id: str) -> set[str]:
    client = open_client(f"sqlite:///{folder}/mlflow.db")
    return {item.path for item in client.list_artifacts(run_id)} - {"config"}


def test_a_moved_project_keeps_its_files_together(project: tuple[Path, str], facts: Facts, tmp_path: Path) -> None:
    old, run_id = project
    new = moved(old)
    run_in(new, facts, "second.txt", run_id)
    other = run_in(new, facts, "third.txt")
    assert not old.exists(), "made anew"
    assert artifacts(new, run_id) == {"first.txt", "second.txt"} and artifacts(new, other) == {"third.txt"}
    assert {path.name for path in (new / "mlartifacts").rglob("*.txt")} == {"first.txt", "second.txt", "third.txt"}


def test_a_moved_run_is_sent_to_where_its_store_is(project: tuple[Path, str], tmp_path: Path) -> None:
    old, run_id = project
    new = moved(old)
    run_dir = new / "outputs" / "run"
    assert run_store.stored_in(run_dir) == f"sqlite:///{new}/mlflow.db"
    (run_dir / "late.txt").write_text("late")
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"time": 1, "artifact": "late.txt", "folder": ""}\n{"time": 2, "end": "FINISHED", "error": ""}\n')
    with pytest.raises(UserError, match=f"no MLflow database {old}/mlflow.db; set --uri or MLFLOW_TRACKING_URI"):
        run_sync([str(new)], None)
    assert "sent 0 metric values, 1 files" in run_sync([str(new)], f"sqlite:///{new}/mlflow.db")
    assert "late.txt" in artifacts(new, run_id) and not old.exists()


def test_files_that_stayed_where_they_were_are_still_used(
    project: tuple[Path, str], facts: Facts, tmp_path: Path
) -> None:
    old, run_id = project
    (tmp_path / "new").mkdir()
    (old / "mlflow.db").rename(tmp_path / "new" / "mlflow.db")
    (old / "outputs").rename(tmp_path / "new" / "outputs")
    run_in(tmp_path / "new", facts, "second.txt", run_id)
    assert (
        artifacts(tmp_path / "new", run_id) == {"first.txt", "second.txt"}
        and not (tmp_path / "new/mlartifacts").exists()
    )


def test_no_empty_database_is_made_for_a_run_that_is_in_another(
    project: tuple[Path, str], facts: Facts, tmp_path: Path
) -> None:
    old, run_id = project
    new = moved(old)
    with pytest.raises(
        UserError,
        match=r"is not there; name the place where it is now: tracking.uri=sqlite:////PATH/mlflow.db, or set tracking=none",
    ):
        run_in(old, lambda **_: facts(run_dir=new / "outputs" / "run"), "x", run_id)
    assert not (old / "mlflow.db").exists()


def restored(message: str) -> None:
    """Does what a message says, in this process."""
    from click.testing import CliRunner
    from mlflow.cli import cli

    command = shlex.split(message.partition("bring it back with: ")[2].partition(", or set")[0])
    name, _, uri = command[0].partition("=")
    assert command[1] == "mlflow"
    done = CliRunner().invoke(cli, command[2:], env={name: uri})
    assert done.exit_code == 0, done.output


def test_what_was_deleted_is_said_with_the_command_that_brings_it_back(project: tuple[Path, str], facts: Facts) -> None:
    folder, run_id = project
    client = open_client(f"sqlite:///{folder}/mlflow.db")
    path = folder / "outputs" / "run" / "metrics.jsonl"
    client.delete_run(run_id)
    with pytest.raises(UserError, match=f"^resume: run {run_id} was deleted in MLflow") as raised:
        run_in(folder, facts, "x", run_id)
    with path.open("a") as file:
        file.write('{"time": 1, "step": 9, "metrics": {"late": 0.5}}\n{"time": 2, "end": "FINISHED", "error": ""}\n')
    with pytest.raises(UserError, match=f"run {run_id} was deleted in MLflow; bring it back with: "):
        run_sync([str(folder)], None)
    restored(str(raised.value))
    assert "sent 1 metric values" in run_sync([str(folder)], None), "nothing was lost by the deletion"
    run_in(folder, facts, "x", run_id)

    client.delete_experiment(client.get_experiment_by_name("moved").experiment_id)
    with pytest.raises(UserError, match="^tracking.experiment=moved: was deleted in MLflow at sqlite:") as raised:
        run_in(folder, facts, "y")
    restored(str(raised.value))
    assert len(run_in(folder, facts, "y")) == 32
