"""Pictures of a run: the reference's `epoch_loss.png` and `epoch_acc.png`."""

from __future__ import annotations

from pathlib import Path

from facenet.errors import in_picture
from facenet.files.picture import drawn


def save_curves(directory: Path, history: list[dict[str, float]]) -> list[Path]:
    """`epoch_loss.png` (losses) and `epoch_acc.png` (accuracies, in percent) by epoch, one curve per metric that was measured."""
    pictures = {
        "epoch_loss.png": (
            "loss",
            [name for name in ("train/loss", "val/loss") if any(name in row for row in history)],
        ),
        "epoch_acc.png": (
            "accuracy, %",
            sorted({name for row in history for name in row if name.endswith("/accuracy")}),
        ),
    }
    written = []
    for file_name, (axis, names) in pictures.items():
        curves = {name: [(row["epoch"], row[name]) for row in history if name in row] for name in names}
        scale = 100.0 if "%" in axis else 1.0
        if any(curves.values()):
            draw(
                directory / file_name,
                axis,
                {name: [(x, y * scale) for x, y in points] for name, points in curves.items()},
            )
            written.append(directory / file_name)
    return written


def draw(path: Path, axis: str, curves: dict[str, list[tuple[float, float]]]) -> None:
    from matplotlib.ticker import MaxNLocator

    with drawn(path) as (axes,):
        for name, points in curves.items():
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=in_picture(name))
        axes.set(xlabel="epoch", ylabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8)
