"""The bar of a terminal, letter by letter; lines where output is none."""

import contextlib
import io
import logging
import re
import sys
from types import SimpleNamespace

import torch

from facenet.engine.observer import LogPoint
from facenet.engine.progress import Average
from facenet.tasks import progress
from facenet.tasks.progress import image_bar, step_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def point(step):
    figures = {"loss": 2.5, "ce": 2.5, "ce/accuracy": 0.1}
    numbers = {"epoch": 1, "steps": 2, "samples_seen": 8, "images_per_s": 123.4, "lr": 0.001}
    return LogPoint(step=step, figures=figures, recent=Average(), module=None, **numbers)


def drawn(terminal):
    return [
        re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", part).strip()
        for part in re.split(r"[\r\n]", terminal.getvalue())
        if part.strip()
    ]


def train(bar, steps, start=0):
    bar.on_start(start)
    for _ in range(steps):
        bar.on_step(None, torch.zeros(()))
        bar.bar.refresh()  # else ten times a second at most


@contextlib.contextmanager
def on_terminal():
    """Not a fixture: pytest puts its own stream in place between that and the test."""
    with contextlib.redirect_stderr(Terminal()) as terminal, step_bar(10, 5, 2, shown=True) as bar:
        yield terminal, bar


def test_it_moves_at_every_step_with_epoch_loss_and_rate():
    with on_terminal() as (terminal, bar):
        bar.on_start(0)
        assert "first step" in drawn(terminal)[-1] and "0/10" in drawn(terminal)[-1]
        train(bar, 3)
        assert "3/10" in drawn(terminal)[-1] and "first step" not in drawn(terminal)[-1]
        assert drawn(terminal)[-1].startswith("epoch 1/2")
        bar.on_log(point(3))
        bar.bar.refresh()
        assert "123 images/s, loss 2.5, ce 2.5, lr 0.001" in drawn(terminal)[-1]
        train(bar, 3, start=5)
        assert drawn(terminal)[-1].startswith("epoch 2/2") and "8/10" in drawn(terminal)[-1], (
            "also of a run that goes on"
        )
    assert "\x1b[32m" in terminal.getvalue()


def test_without_colour(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    with on_terminal() as (terminal, bar):
        train(bar, 2)
    assert "\x1b[32m" not in terminal.getvalue() and "2/10" in drawn(terminal)[-1]


def test_lines_where_output_is_no_terminal(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with caplog.at_level(logging.INFO), step_bar(10, 5, 2, shown=True) as bar:
        train(bar, 3)
        bar.on_log(point(3))
    assert [each.getMessage() for each in caplog.records] == ["step 3 of 10: 123 images/s, loss 2.5, ce 2.5, lr 0.001"]
    assert sys.stderr.getvalue() == ""


def test_long_work_on_images_is_told_where_output_is_no_terminal(monkeypatch):
    seconds = iter([0, 9, 11, 11, 20, 22, 22])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with image_bar(4000, lines=True) as done:
        for count in (1000, 2000, 3000, 4000):
            done(count, 4000)
    assert sys.stderr.getvalue() == "2,000 of 4,000 images\n4,000 of 4,000 images\n"
    seconds = iter([99])
    with image_bar(4000) as done:  # as in training, whose lines are the log's
        done(4000, 4000)
    assert sys.stderr.getvalue().count("\n") == 2
