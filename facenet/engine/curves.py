"""Pictures of a run: the reference's `epoch_loss.png` and `epoch_acc.png`."""

from __future__ import annotations

from pathlib import Path

from facenet.errors import in_picture
from facenet.files.picture import drawn
from facenet.files.run_dir import RunDir


def save_curves(directory: Path, history: list[dict[str, float]]) -> list[Path]:
    """`epoch_loss.png` (losses) and `epoch_acc.png` (accuracies, in percent) by epoch, one curve per metric that was measured."""
    place, measured, written = RunDir(directory), {name for row in history for name in row}, []
    losses = [name for name in ("train/loss", "val/loss") if name in measured]
    accuracies = sorted(name for name in measured if name.endswith("/accuracy"))
    for path, axis, scale, names in (
        (place.losses, "loss", 1.0, losses),
        (place.accuracies, "accuracy, %", 100.0, accuracies),
    ):
        curves = {name: [(row["epoch"], row[name] * scale) for row in history if name in row] for name in names}
        if curves:
            draw(path, axis, curves)
            written.append(path)
    return written


def draw(path: Path, axis: str, curves: dict[str, list[tuple[float, float]]]) -> None:
    from matplotlib.ticker import MaxNLocator

    with drawn(path) as (axes,):
        for name, points in curves.items():
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=in_picture(name))
        axes.set(xlabel="epoch", ylabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8)
