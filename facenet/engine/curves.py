"""Pictures of a run: the reference's `epoch_loss.png` and `epoch_acc.png`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from facenet.errors import in_picture
from facenet.files.picture import drawn
from facenet.files.run_dir import RunDir


def save_curves(
    directory: Path, history: list[dict[str, float]], own: Mapping[str, Sequence[str]] | None = None
) -> list[Path]:
    """`epoch_loss.png` (losses) and `epoch_acc.png` (accuracies, in percent) by epoch, and `figures-NAME.png` of each benchmark with figures of its
    `own`: one curve per metric that was measured."""
    place, measured, written = RunDir(directory), {name for row in history for name in row}, []
    for path, axis, scale, names in (
        (place.losses, "loss", 1.0, ("train/loss", "val/loss")),
        (place.accuracies, "accuracy, %", 100.0, sorted(name for name in measured if name.endswith("/accuracy"))),
        *((place.figures(name), name, 1.0, figures) for name, figures in (own or {}).items()),
    ):
        chosen = [name for name in names if name in measured]
        curves = {name: [(row["epoch"], row[name] * scale) for row in history if name in row] for name in chosen}
        if curves:
            draw(path, axis, curves)
            written.append(path)
    return written


def draw(path: Path, axis: str, curves: dict[str, list[tuple[float, float]]]) -> None:
    from matplotlib.ticker import MaxNLocator

    with drawn(path) as (axes,):
        epochs = [x for points in curves.values() for x, _ in points]
        one = min(epochs) == max(epochs)
        for name, points in curves.items():
            style: dict[str, Any] = {
                "marker": "o",
                "markersize": 8 if one else 3,
            }  # small dots alone look like an empty picture
            axes.plot([x for x, _ in points], [y for _, y in points], label=in_picture(name), **style)
        if one:  # else the axis would span a tenth of it
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        axes.set(xlabel="epoch", ylabel=in_picture(axis))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8)
