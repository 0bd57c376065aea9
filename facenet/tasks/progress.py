"""Progress on a terminal, and lines where output is none."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from facenet import errors
from facenet.engine.observer import LogPoint, Observer

log = logging.getLogger(__name__)


class StepBar(Observer):
    """Moves a bar to each log point, which has images/s, the loss terms and the learning rate behind it; or logs them as a line."""

    def __init__(self, bar: Any, *, lines: bool) -> None:
        self.bar, self.lines = bar, lines

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
def step_bar(total_steps: int, *, shown: bool) -> Iterator[Observer]:
    """A bar on a terminal, with the time left; a line now and then where output is no terminal."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    terminal = sys.stderr.isatty()
    # A short bar: the loss terms are what people watch.
    layout = "{percentage:3.0f}%|{bar:16}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
    with (
        tqdm(total=total_steps, bar_format=layout, disable=not (shown and terminal), dynamic_ncols=True) as bar,
        logging_redirect_tqdm() if shown and terminal else contextlib.nullcontext(),
    ):
        yield StepBar(bar, lines=shown and not terminal)


@contextlib.contextmanager
def image_bar(total: int | None = None, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar of images done; call what it gives with (done, in all)."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    with tqdm(total=total, unit="image", disable=not (shown and terminal), dynamic_ncols=True, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
