"""Progress on a terminal, and lines where output is none."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from facenet import errors
from facenet.engine.observer import LogPoint, Observer

log = logging.getLogger(__name__)
EVERY_S = 10.0


class StepBar(Observer):
    """Moves a bar at each step. Behind it are images/s, the loss terms and the learning rate of the last log point; or they are a line of the log."""

    def __init__(self, bar: Any, *, steps_per_epoch: int, epochs: int, lines: bool) -> None:
        self.bar, self.steps_per_epoch, self.epochs, self.lines = bar, steps_per_epoch, epochs, lines
        bar.set_postfix_str("first step", refresh=False)  # it may take minutes: kernels are chosen, caches are filled

    def on_start(self, step: int) -> None:
        self.bar.n = self.bar.initial = step
        self.bar.set_description_str(f"epoch {step // self.steps_per_epoch + 1}/{self.epochs}")

    def on_step(self, finite: Tensor | None, loss: Tensor) -> None:
        if self.bar.postfix == "first step":
            self.bar.set_postfix_str("", refresh=False)
        self.bar.update()

    def on_log(self, point: LogPoint) -> Mapping[str, float]:
        terms = {name: value for name, value in point.figures.items() if "/" not in name}
        told = [f"{name} {value:.3g}" for name, value in {**terms, "lr": point.lr}.items()]
        text = errors.shown(", ".join([f"{point.images_per_s:.0f} images/s", *told]))  # names of terms are the config's
        self.bar.n = point.step
        self.bar.set_postfix_str(text)
        if self.lines:
            log.info("step %d of %d: %s", point.step, self.bar.total, text)
        return {}


@contextlib.contextmanager
def step_bar(total_steps: int, steps_per_epoch: int, epochs: int, *, shown: bool) -> Iterator[Observer]:
    """A bar on a terminal, with epoch and time left; a line now and then where output is no terminal."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    terminal = sys.stderr.isatty()
    # A short bar: the loss terms are what people watch.
    layout = "{desc} {percentage:3.0f}%|{bar:16}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
    with (
        tqdm(
            total=total_steps,
            bar_format=layout,
            disable=not (shown and terminal),
            dynamic_ncols=True,
            colour=None if os.environ.get("NO_COLOR") else "green",
        ) as bar,
        logging_redirect_tqdm() if shown and terminal else contextlib.nullcontext(),
    ):
        yield StepBar(bar, steps_per_epoch=steps_per_epoch, epochs=epochs, lines=shown and not terminal)


@contextlib.contextmanager
def image_bar(
    total: int | None = None, *, shown: bool = True, lines: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """A bar of images done; call what it gives with (done, in all). lines: where output is no terminal, a line on stderr every EVERY_S seconds."""
    from tqdm import tqdm

    terminal, said_at = sys.stderr.isatty(), time.monotonic()
    with tqdm(total=total, unit="image", disable=not (shown and terminal), dynamic_ncols=True, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            nonlocal said_at
            bar.total = total
            bar.update(done - bar.n)
            if lines and not terminal and time.monotonic() - said_at >= EVERY_S:
                said_at = time.monotonic()
                print(f"{done:,} of {total:,} images", file=sys.stderr, flush=True)

        yield progress
