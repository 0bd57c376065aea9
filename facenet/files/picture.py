"""Pictures as files: figures that need no window, and grids of images whose pixels stay as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facenet.errors import in_picture
from facenet.files.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
HEIGHT = 4.5  # inches of a figure


@contextmanager
def drawn(path: Path, panels: int = 1, *, width: float = 7.0, right: float = 0.3) -> Iterator[list[Axes]]:
    """Axes side by side to draw on, `width` inches in all, `right` of them beside the last. The file, in the format that its name says or PNG, is
    written at the end. In its corner stands the directory, whose name is its run's: of several side by side one knows which is which."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window, and pyplot's global state left alone
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, HEIGHT))
    FigureCanvasAgg(figure)
    # Fixed margins in place of a layout engine, which measures all text twice more: a third of what a picture costs.
    margins = {"left": 0.85 / width, "right": 1 - right / width, "bottom": 0.55 / HEIGHT, "top": 1 - 0.3 / HEIGHT}
    axes = figure.subplots(1, panels, sharey=True, squeeze=False, gridspec_kw={**margins, "wspace": 0.1})[0]
    for each in axes:
        each.grid(alpha=0.3)
    run = "/".join(path.absolute().parent.parts[-2:]).lstrip("/")
    figure.text(1 - 0.05 / width, 0.05 / HEIGHT, in_picture(run), ha="right", fontsize=6, color="grey")
    yield list(axes)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110, format=path.suffix.lstrip(".") or "png")


def tile(images: Sequence[Pixels], columns: int) -> Pixels:
    """One picture of images (H, W, 3) of one size in rows of `columns`, white where there are no more."""
    height, width = images[0].shape[:2]
    grid = np.full((math.ceil(len(images) / columns) * height, min(columns, len(images)) * width, 3), 255, np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        grid[row * height : (row + 1) * height, column * width : (column + 1) * width] = image
    return grid


def save_pixels(path: Path, pixels: Pixels) -> None:
    """Writes a PNG that holds exactly these pixels."""
    from PIL import Image

    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial, "PNG")
