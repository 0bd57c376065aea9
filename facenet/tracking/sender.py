"""Sends a run's journal to MLflow while it runs: one background thread of the launcher, which has nothing else to do."""

from __future__ import annotations

import logging
import math
import threading
import time
from pathlib import Path

from facenet.files.atomic import is_full
from facenet.files.typed import command
from facenet.privacy.addresses import masked_address
from facenet.tracking.delivery import deliver
from facenet.tracking.store import cause, open_client

log = logging.getLogger(__name__)

PAUSE_S = 1.0  # at least, between two deliveries: a call on SQLite takes 24 ms for one value or for a hundred
SHARE = 0.01  # of one core at most, for the cores are the training's: after a second of work it pauses for 100
LONGEST_PAUSE_S = 60.0
RETRY_S = 10.0
QUIET_S = 600.0
FAREWELL_S = 30.0  # at most, at the end of a run; what is left then stays on the disk


class Sender:
    """Sends until closed. A store that goes away is told once, and once that it is back, not more often than every QUIET_S where it comes and
    goes; nothing is lost by it. `full`: the last delivery met a full disk, most often the run's, where its mark found no place."""

    def __init__(self, uri: str, path: Path) -> None:
        self.uri, self.path = uri, path
        self.away, self.full, self.told, self.told_at = False, False, False, -math.inf
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self.work, name="mlflow", daemon=True)
        self.thread.start()

    def work(self) -> None:
        client = open_client(self.uri)
        pause = PAUSE_S
        while not self.closing.wait(pause):
            began = time.thread_time()
            try:
                deliver(client, self.path)
            except Exception as error:  # MlflowException, OSError, or whatever the database's driver raises
                self.tell_away(error)
                pause = RETRY_S
            else:
                self.tell_back()
                pause = min(max(PAUSE_S, (time.thread_time() - began) / SHARE), LONGEST_PAUSE_S)
        try:
            deliver(client, self.path)
            self.tell_back()
        except Exception as error:
            self.tell_away(error)

    def tell_away(self, error: Exception) -> None:
        if not self.away and time.monotonic() - self.told_at > QUIET_S:
            self.told, self.told_at = True, time.monotonic()
            log.warning(
                "MLflow at %s is away (%s); the run goes on, its records wait in %s",
                masked_address(self.uri),
                cause(error, self.uri),
                self.path,
            )
        self.away, self.full = True, is_full(error)

    def tell_back(self) -> None:
        if self.told:
            self.told = False
            log.warning("MLflow at %s is back and has all records until now", masked_address(self.uri))
        self.away = self.full = False

    def close(self) -> None:
        """Sends the rest. Gives up after FAREWELL_S, and says how to send it later."""
        self.closing.set()
        self.thread.join(FAREWELL_S)
        if self.away or self.thread.is_alive():
            log.warning(
                "MLflow lacks the last records of the run; send them later: %s",
                command("facenet-runs", "sync", str(self.path.parent)),
            )
