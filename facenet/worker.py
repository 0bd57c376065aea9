"""One process of a job: `python -m facenet.worker RUN_DIR`, started by `facenet.launch`."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from facenet.errors import UserError
from facenet.launch import StopFlag, die_with_parent, note_failure


def main(run_dir: Path) -> int:
    """Exit code of the process; rank 0 leaves its return value in `result.json`."""
    rank = int(os.environ.get("RANK", 0))
    die_with_parent()
    try:
        start_logging(run_dir, rank)
        from facenet import config
        from facenet.tasks.train import run

        settings = config.read(run_dir / "resolved.yaml")
        stop = StopFlag(settings["distributed"]["grace_s"])
        value = run(settings, run_dir=run_dir, run_id=os.environ.get("FACENET_RUN_ID"), stop=stop)
    except UserError as error:
        note_failure(run_dir, rank, error)
        return 2
    except BaseException as error:
        note_failure(run_dir, rank, error)
        return 1
    if stop.signal is not None:
        return 128 + stop.signal
    if rank == 0:
        (run_dir / "result.json").write_text(json.dumps(value), encoding="utf-8")
    return 0


def start_logging(run_dir: Path, rank: int) -> None:
    """Rank 0 speaks on the terminal and into train.log; the others only warn, into their own files."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if rank == 0:
        handlers.append(logging.FileHandler(run_dir / "train.log", encoding="utf-8"))
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=handlers,
        force=True,
    )
    logging.captureWarnings(True)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Interpreter exit after a process group aborts now and then ("terminate called without an active exception"; 4 of 25 pairs
    # without this): everything is flushed, so leave at once.
    os._exit(code)
