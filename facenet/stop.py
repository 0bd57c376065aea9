"""Stop signals: collected in a launcher, turned into a flag in a process that trains."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


class Stopped(SystemExit):
    """A stop signal ended the job. Not an Exception: Hydra would count it as one failed job and start the next."""


class StopFlag:
    """Set by a stop signal; the training loop looks at it between steps, saves and ends. `signal` is the first one's number.

    A process that reaches no such point within `grace_s` leaves the stacks of its threads on stderr and is ended, or its job would
    never end. Python's handlers do not run while the main thread is inside a collective, so a thread is told by `set_wakeup_fd`.
    """

    def __init__(self, grace_s: float) -> None:
        self.signal: int | None = None
        self.grace_s = grace_s
        self.closed = threading.Event()
        self.undo = contextlib.ExitStack()
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread gets signals
        told, self.teller = socket.socketpair()
        self.teller.setblocking(False)
        self.undo.callback(self.teller.close)
        self.undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(self.teller.fileno(), warn_on_full_buffer=False))
        self.undo.enter_context(handled(STOP_SIGNALS, self.set))
        threading.Thread(target=self.watch, args=[told], name="stop-signals", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # the launcher held them back until here

    def set(self, number: int, frame: FrameType | None = None) -> None:
        if self.signal is None:
            self.signal = number

    def watch(self, told: socket.socket) -> None:
        with told:
            numbers = iter(lambda: told.recv(1), b"")  # every handled signal's, until the other end closes
            first = next((number[0] for number in numbers if number[0] in STOP_SIGNALS), None)
        if first is None:
            return
        self.set(first)
        if not self.closed.wait(self.grace_s):
            print(
                f"no end of a step within {self.grace_s:g} s of signal {first}; ended at", file=sys.stderr, flush=True
            )
            faulthandler.dump_traceback()
            os._exit(128 + first)

    def close(self) -> None:
        """Puts back the handlers found; the process is no longer ended."""
        self.closed.set()
        self.undo.close()

    def __bool__(self) -> bool:
        return self.signal is not None


@contextlib.contextmanager
def handled(numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
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
def stop_signals_raise() -> Iterator[None]:
    """A stop signal while no ranks run (imports, a slow tracking server) ends the command as Stopped, so that `finally` blocks run. Ctrl-C
    is Python's own, and a handler of a batch launcher's stays."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(128 + number)

    plain = (number for number in (signal.SIGHUP, signal.SIGUSR2) if signal.getsignal(number) is signal.SIG_DFL)
    with handled((signal.SIGTERM, *plain), stop):
        yield


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """The first stop signal meanwhile takes effect at the end: for what is short and must not be broken into."""
    received: list[int] = []
    with handled(STOP_SIGNALS, lambda number, frame: received.append(number)):
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
        with handled(STOP_SIGNALS, lambda number, frame: received.append(number)):
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
