"""Where rank 0 writes. It touches the disk alone: no MLflow, no network, no address of a store in a process that trains."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from facenet.files.run_dir import RunDir
from facenet.tracking.facts import LONGEST_TAG, safe_name, shorten
from facenet.tracking.journal import Journal, last_steps

FACES = "faces-"  # begins the name of a picture that shows people
NAMES = (RunDir.split, RunDir.unreadable)  # name images, and so people, as lists of the hardest pairs do


class Tracker(Protocol):
    """Steps are optimizer steps since the start of the run. A metric has one value per step, the first that was given."""

    def metrics(self, values: dict[str, float], *, step: int) -> None: ...
    def artifact(self, path: Path, folder: str = "") -> None: ...
    def tag(self, name: str, value: str) -> None: ...
    def close(self) -> None: ...


class NullTracker:
    """Writes nothing: ranks above 0, and `tracking=none`."""

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        pass

    def artifact(self, path: Path, folder: str = "") -> None:
        pass

    def tag(self, name: str, value: str) -> None:
        pass

    def close(self) -> None:
        pass


class JournalTracker:
    """Into the run's journal. Steps that a resumed run repeats are there already, and are not written again."""

    def __init__(self, run_dir: Path, *, upload_faces: bool = False) -> None:
        self.run_dir, self.upload_faces = run_dir.absolute(), upload_faces
        path = RunDir(run_dir).journal
        self.last_steps, self.journal = last_steps(path), Journal(path)

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        new = {}
        for name, value in values.items():
            name = safe_name(name)
            if step > self.last_steps.get(name, -1):
                new[name], self.last_steps[name] = float(value), step
        if new:
            self.journal.add(step=step, metrics=new)

    def artifact(self, path: Path, folder: str = "") -> None:
        path = path.absolute()
        inside = path.is_relative_to(self.run_dir)  # such a name survives a move of the directory
        anywhere = {"anywhere": "true"} if self.upload_faces else {}  # also where a store is far away
        self.journal.add(artifact=str(path.relative_to(self.run_dir) if inside else path), folder=folder, **anywhere)

    def tag(self, name: str, value: str) -> None:
        self.journal.add(tag=safe_name(name), value=shorten(value, LONGEST_TAG))

    def close(self) -> None:
        self.journal.close()


def of_people(name: str) -> bool:
    """Whether a file of this name shows people or names them, so that it leaves this machine only when asked."""
    return name.startswith((FACES, "hardest-", "pairs-")) or name in NAMES


def publish(tracker: Tracker, path: Path) -> None:
    """Adds a file to the run's artifacts, in the folder of its kind: `faces` for pictures of people, `curves` for others, `records` for the rest."""
    folder = "faces" if path.name.startswith(FACES) else "curves" if path.suffix == ".png" else "records"
    tracker.artifact(path, folder)
