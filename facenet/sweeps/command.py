"""The sweep of a command. Hydra makes launchers and callbacks by their names, so what these leave for the end of the command lies here."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facenet.sweeps.session import Session
    from facenet.tracking.choice import MlflowTracking


@dataclass
class Command:
    """session: of facenet's own launcher. recorded: how, and in which directory, jobs are that another launcher runs."""

    session: Session | None = None
    recorded: tuple[MlflowTracking, Path] | None = None

    def end(self) -> int | None:
        """Prints how the jobs ended and compare. Returns the exit code of a sweep that has told its jobs one by one, None where none has."""
        if self.session is not None and self.session.outcomes:
            return self.session.close()
        self.compare()
        return None

    def compare(self) -> None:
        """Prints how the jobs under another launcher compare, which ends with the first that fails."""
        if self.recorded is not None:
            from facenet.sweeps.session import compare

            tracking, directory = self.recorded
            compare(tracking, tracking.where(), directory)


running: ContextVar[Command] = ContextVar("running")
