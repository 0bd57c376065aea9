"""Why a job failed: what each rank left behind, and which of them is the cause."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from facenet.errors import Halted, UserError
from facenet.files.atomic import replacing
from facenet.files.reading import text_of
from facenet.files.run_dir import RunDir
from facenet.privacy.addresses import mask

FIELDS: dict[str, type | tuple[type, ...]] = {
    "rank": int,
    "time": (int, float),
    "user": bool,
    "induced": bool,
    "text": str,
}


class RankFailed(Exception):
    """A process of the job failed; the text holds that process's own traceback. Plain text, so that it can be pickled."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How one rank failed. `time` is in seconds since the epoch; `induced`: another rank's end may be the reason."""

    rank: int
    time: float
    user: bool
    induced: bool
    text: str

    @classmethod
    def of(cls, rank: int, error: BaseException) -> Failure:
        """What breaks in a collective when its peer is gone or late is a RuntimeError in every backend."""
        user = isinstance(error, UserError)
        text = (
            str(error)
            if isinstance(error, (UserError, Halted))
            else "".join(traceback.format_exception(error)).rstrip()
        )
        return cls(rank=rank, time=time.time(), user=user, induced=isinstance(error, RuntimeError), text=mask(text))

    @classmethod
    def from_json(cls, text: str | bytes) -> Failure:
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def cause(failures: Sequence[Failure]) -> Failure:
    """A rank that fails takes others down with errors of their own, so the first that no other explains; else the first."""
    return min(failures, key=lambda failure: (failure.induced, failure.time))


def note_failure(run_dir: Path, rank: int, error: BaseException) -> None:
    """Leaves the reason where `noted_failures` finds it."""
    with replacing(RunDir(run_dir).failure(rank)) as partial:
        partial.write_text(Failure.of(rank, error).to_json(), encoding="utf-8")


def noted_failures(run_dir: Path) -> list[Failure]:
    """Returns the failures that `note_failure` left; what is none is passed over."""
    found = []
    for path in RunDir(run_dir).failures():
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            failure = Failure.from_json(text_of(path))
            if all(isinstance(getattr(failure, name), kind) for name, kind in FIELDS.items()):
                found.append(failure)
    return found


def one_line(text: str) -> str:
    """A user's mistake in one line; of a traceback the last, which says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("log of rank ")]
    return lines[-1] if any(line.startswith(("Traceback", 'File "')) for line in lines) else " ".join(lines)
