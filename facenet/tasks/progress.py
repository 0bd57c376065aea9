"""Progress on a terminal, and lines where output is none."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

from facenet import errors

log = logging.getLogger(__name__)


@contextlib.contextmanager
def step_bar(total_steps: int, *, shown: bool) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A bar on a terminal (images/s, loss terms, time left), a line now and then where output is no terminal."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    terminal = sys.stderr.isatty()
    # A short bar: the loss terms are what people watch.
    layout = "{percentage:3.0f}%|{bar:16}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=total_steps, bar_format=layout, disable=not (shown and terminal), dynamic_ncols=True) as bar:

        def show(step: int, figures: dict[str, float]) -> None:
            terms = {
                name: f"{value:.3g}" for name, value in figures.items() if "/" not in name and name != "images_per_s"
            }
            text = f"{figures['images_per_s']:.0f} images/s, " + ", ".join(
                f"{name} {value}" for name, value in terms.items()
            )
            text = errors.shown(text)  # names of terms are the config's
            bar.n = step
            bar.set_postfix_str(text)
            if not terminal and shown:
                log.info("step %d of %d: %s", step, total_steps, text)

        with logging_redirect_tqdm() if shown and terminal else contextlib.nullcontext():
            yield show


@contextlib.contextmanager
def image_bar(total: int, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar of images done; call what it gives with (done, in all)."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    with tqdm(total=total, unit="image", disable=not (shown and terminal), dynamic_ncols=True, leave=False) as bar:

        def progress(done: int, _: int) -> None:
            bar.update(done - bar.n)

        yield progress
