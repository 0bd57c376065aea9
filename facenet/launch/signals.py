"""Stop signals: collected in a launcher, turned into a flag in a process that trains."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
STEPS = 3  # of the longest seen are waited for: the one under way, with room for a busier machine


class Stopped(SystemExit):
    """A stop signal ended the job. Not an Exception: Hydra would count it as one failed job and start the next."""


class StopFlag:
    """Set by a stop signal; the training loop looks at it between steps, saves and ends. `signal` is the first one's number.

    A process that reaches no such point within `patience()` seconds leaves the stacks of its threads on stderr and is ended, or its job would
    never end. That is `grace_s`, or more where steps take long: as a look ends each, their length is known here. Python's handlers do not run
    while the main thread is inside a collective, so a thread is told by `set_wakeup_fd`."""

    def __init__(
        self, grace_s: float, *, longest_s: float = math.inf, tell: Callable[[float], None] = lambda patience_s: None
    ) -> None:
        """longest_s: no patience is longer. tell: is called with each new one."""
        self.signal: int | None = None
        self.grace_s, self.longest_s, self.tell = grace_s, longest_s, tell
        self.looks, self.looked_at, self.longest_step_s, self.saving_s = 0, 0.0, 0.0, 0.0
        self.closed = threading.Event()
        self.undo = contextlib.ExitStack()
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread gets signals
        told, self.teller = socket.socketpair()
        self.teller.setblocking(False)
        self.undo.callback(self.teller.close)
        self.undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(self.teller.fileno(), warn_on_full_buffer=False))
        self.undo.enter_context(handle(STOP_SIGNALS, self.set))
        threading.Thread(target=self.watch, args=[told], name="stop-signals", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # the launcher held them back until here

    def set(self, number: int, frame: FrameType | None = None) -> None:
        if self.signal is None:
            self.signal = number

    def patience(self) -> float:
        """How long after a signal the end of a step, and a checkpoint, may take."""
        return min(max(self.grace_s, STEPS * self.longest_step_s + self.saving_s), self.longest_s)

    def expect(self, saving_s: float) -> None:
        """Tells how many seconds a checkpoint that is about to be written will take."""
        self.saving_s = saving_s
        self.tell(self.patience())

    def watch(self, told: socket.socket) -> None:
        with told:
            numbers = iter(lambda: told.recv(1), b"")  # every handled signal's, until the other end closes
            first = next((number[0] for number in numbers if number[0] in STOP_SIGNALS), None)
        if first is None:
            return
        self.set(first)
        began = time.monotonic()
        while (left_s := began + self.patience() - time.monotonic()) > 0:  # it may grow meanwhile
            if self.closed.wait(min(left_s, 1.0)):
                return
        if self.looks == 1:
            print(f"ended by signal {first} in the first step, of which nothing is lost", file=sys.stderr, flush=True)
            os._exit(128 + first)
        print(f"no end of a step within {self.patience():g} s of signal {first}; ended at", file=sys.stderr, flush=True)
        faulthandler.dump_traceback()
        os._exit(128 + first)

    def close(self) -> None:
        """Puts back the handlers found; the process is no longer ended."""
        self.closed.set()
        self.undo.close()

    def __bool__(self) -> bool:
        """A look, at the end of a step or of a batch that is tested."""
        now = time.monotonic()
        if self.looks and now - self.looked_at > self.longest_step_s:
            self.longest_step_s = now - self.looked_at
            self.tell(self.patience())
        self.looks, self.looked_at = self.looks + 1, now
        return self.signal is not None


@contextlib.contextmanager
def handle(numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """`handler` for these signals, and then those found again. A terminal's end that was to be ignored (nohup) stays ignored."""
    found: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in numbers}
        if found.get(signal.SIGHUP) is signal.SIG_IGN:
            del found[signal.SIGHUP]
    for number in found:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in found.items():
            signal.signal(number, before)


@contextlib.contextmanager
def keep_handlers() -> Iterator[None]:
    """The handlers found here are there again afterwards, also where a signal ended a run and later ones are ignored: the program goes on."""
    main = threading.current_thread() is threading.main_thread()
    found = {number: signal.getsignal(number) for number in STOP_SIGNALS} if main else {}
    try:
        yield
    finally:
        for number, before in found.items():
            if before is not None:  # else it is not Python's
                signal.signal(number, before)


@contextlib.contextmanager
def stop_signals_raise() -> Iterator[None]:
    """A stop signal while no ranks run (imports, a slow tracking server) ends the command as Stopped, so that `finally` blocks run. Ctrl-C
    is Python's own, and a handler of a batch launcher's stays."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(128 + number)

    plain = (number for number in (signal.SIGHUP, signal.SIGUSR2) if signal.getsignal(number) is signal.SIG_DFL)
    with handle((signal.SIGTERM, *plain), stop):
        yield


@contextlib.contextmanager
def postpone() -> Iterator[None]:
    """The first stop signal meanwhile takes effect at the end: for what is short and must not be broken into."""
    received: list[int] = []
    with handle(STOP_SIGNALS, lambda number, frame: received.append(number)):
        yield
    if received:
        os.kill(os.getpid(), received[0])


@contextlib.contextmanager
def requeued_after() -> Iterator[None]:
    """The handler of SIGUSR2 found here runs once the job has saved and ended because of that signal: a batch launcher's (submitit's) puts
    the job back into the queue."""
    found = signal.getsignal(signal.SIGUSR2)
    try:
        yield
    except Stopped as stopped:
        if stopped.code == 128 + signal.SIGUSR2 and callable(found):
            found(signal.SIGUSR2, None)
        raise


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Numbers of the stop signals since, instead of their effect. After one of them the process is about to end, and later ones are
    ignored for good: batch systems repeat theirs, which would break into the closing of the tracked run."""
    received: list[int] = []
    try:
        with handle(STOP_SIGNALS, lambda number, frame: received.append(number)):
            yield received
    finally:
        if received:
            ignore_stop_signals()


def ignore_stop_signals() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Stop signals wait, also for processes started inside, until each makes its StopFlag: none meets a rank without one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
