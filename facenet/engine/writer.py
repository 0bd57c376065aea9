"""Writes in the background, so that training waits for no disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from facenet.errors import UserError

log = logging.getLogger(__name__)
RETRY_S = 30.0


def nothing() -> None:
    pass


class Writer(AbstractContextManager["Writer"]):
    """Writes in the background, one write at a time; what it writes must not change meanwhile. One that fails is told at once and tried again until
    the next is due.

    As a context it ends with the last write on the disk, whatever the reason of its end."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.due = threading.Event()
        self.pending: Future[Any] | None = None
        self.longest_s = 0.0  # that a write took
        self.lock, self.written = threading.Lock(), False
        self.wanted: Callable[[], object] = nothing

    def start(self, write: Callable[[], object], *, instead: bool = False) -> None:
        """Waits only for the write before, and raises the UserError with which that failed for good. `instead`: this one holds all that the
        one before does, which is then neither waited for nor tried again."""
        if instead and self.replaced(write):
            return
        self.finish()
        self.due.clear()
        self.wanted, self.written = write, False
        self.pending = self.pool.submit(self.insist)

    def replaced(self, write: Callable[[], object]) -> bool:
        """Whether the thread is still at work, and takes this up."""
        with self.lock:
            if self.pending is None or self.pending.done() or self.written:
                return False
            self.wanted = write
            return True

    def finish(self) -> None:
        """Waits until all is on the disk. Raises the UserError with which it failed for good."""
        self.due.set()
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def insist(self) -> None:
        failed = False
        while not self.written:
            last_try, write, began = self.due.is_set(), self.wanted, time.monotonic()
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
                failed, self.longest_s = False, max(self.longest_s, time.monotonic() - began)
                with self.lock:
                    self.written = self.wanted is write

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.finish()
        except UserError as own:
            if error is None:
                raise
            log.error("%s", own)  # beside the reason why all ends
        finally:
            self.pool.shutdown()


def size_of(state: Any) -> int:
    """Bytes of the tensors in it."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return sum(map(size_of, parts))
