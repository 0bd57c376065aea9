"""A process that gets no batch done: the stacks of its threads in a file, and a clean end instead of a job that stands for days."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from facenet.engine.watch.alarm import Alarm
from facenet.errors import FAILURE, Halted
from facenet.files.atomic import own
from facenet.files.run_dir import RunDir
from facenet.launch.failure import note_failure

OTHERS_S = 3.0  # before the first process ends: for the others to write where they stand; the launcher ends them within seconds


class Hang:
    """A thread that looks while `watching`. Every process has its own, and all wait for the one that hangs, so all write."""

    def __init__(self, alarm: Alarm, *, run_dir: Path, rank: int, leave: Callable[[int], object] = os._exit) -> None:
        self.alarm, self.run_dir, self.rank, self.leave = alarm, run_dir, rank, leave
        self.limit_s = alarm.watch.hang_s
        self.seen = time.monotonic()
        self.path = RunDir(run_dir).hang(rank)

    def beat(self) -> None:
        self.seen = time.monotonic()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        self.beat()
        done = threading.Event()
        thread = threading.Thread(target=self.look, args=[done], name="watch-hang", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def look(self, done: threading.Event) -> None:
        while not done.wait(min(1.0, self.limit_s / 4)):
            if time.monotonic() - self.seen > self.limit_s:
                self.found(done)
                return

    def found(self, done: threading.Event) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "w", encoding="utf-8", opener=own) as file:
            faulthandler.dump_traceback(file, all_threads=True)
        reason = f"no batch done in {self.limit_s:g} s (watch.hang_s); where the processes stood is in {self.path.parent}/hang-*.txt"
        self.alarm.tell("hang", reason)
        if self.alarm.watch.hang != "stop" or done.wait(OTHERS_S) or time.monotonic() - self.seen < self.limit_s:
            return
        note_failure(self.run_dir, self.rank, Halted(self.alarm.words("hang", reason)))
        logging.shutdown()
        self.leave(FAILURE)  # the main thread may never return, and a process group is not left in good order from here
