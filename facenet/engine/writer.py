"""Writes in the background, so that training waits for no disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from facenet.errors import UserError

log = logging.getLogger(__name__)
RETRY_S = 30.0


class Writer:
    """One write at a time; what it writes must not change meanwhile. One that fails is told at once and tried again until the next is due.

    As a context it ends with the last write on the disk, whatever the reason of its end.
    """

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.due = threading.Event()
        self.pending: Future[Any] | None = None

    def start(self, write: Callable[[], object]) -> None:
        """Waits only for the write before, and raises the UserError with which that failed for good."""
        self.finish()
        self.due.clear()
        self.pending = self.pool.submit(self.insist, write)

    def finish(self) -> None:
        """Waits until all is on the disk. Raises the UserError with which it failed for good."""
        self.due.set()
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def insist(self, write: Callable[[], object]) -> None:
        failed = False
        while True:
            last_try = self.due.is_set()
            try:
                write()
            except UserError as error:
                if last_try:
                    raise
                if not failed:
                    log.error("%s; training goes on, and until the next checkpoint it is tried again", error)
                failed = True
                self.due.wait(RETRY_S)
            else:
                if failed:
                    log.warning("the checkpoint is written after all")
                return

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.finish()
        except UserError as own:
            if error is None:
                raise
            log.error("%s", own)  # beside the reason why all ends
        finally:
            self.pool.shutdown()
