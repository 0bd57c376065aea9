"""Draws README's picture, docs/ranked-sweep.png, of a sweep that has ended: python docs/drawn.py SWEEP_ID [STORE]

The sweep is README's own:
facenet-train -m optimizer.lr=3e-4,1e-3,3e-3 data.batch_size=30,90 data.image_size=48 trainer.epochs=3 hydra.sweep.dir=multirun/lr-and-batch
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from facenet.reports.ranking import Ranking, rank
from facenet.reports.study import read_study

BEST, SAME, WORSE = "#1a7f37", "#57606a", "#b35900"


def draw(ranking: Ranking, axes: Axes) -> None:
    """A row for each setting, best at the top: its folds as dots, its mean as a bar."""
    settings = ranking.settings
    for place, (setting, comparison) in enumerate(zip(settings, ranking.comparisons, strict=True)):
        row = len(settings) - 1 - place
        colour = BEST if place == 0 else WORSE if comparison is not None and comparison.apart else SAME
        verdict = "" if comparison is None else f"p = {comparison.p:.2g}"
        axes.plot(setting.folds, [row] * len(setting.folds), "o", color=colour, alpha=0.25, markersize=7)
        axes.plot([setting.mean] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=3)
        axes.annotate(
            f"{setting.mean:.3f}  {verdict}", (1.02, row), xycoords=("axes fraction", "data"), va="center", color=colour
        )
    axes.set_yticks(range(len(settings)), [setting.label.replace(", ", "\n") for setting in reversed(settings)])
    axes.set_xlabel(f"{ranking.study.metric}: mean, and the folds as dots; p: this setting against the best")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    sweep_id, *store = sys.argv[1:]
    ranking = rank(read_study(store[0] if store else None, sweep_id))
    figure, axes = plt.subplots(figsize=(9, 0.75 * len(ranking.settings) + 1), dpi=110)
    draw(ranking, axes)
    figure.savefig(Path(__file__).parent / "ranked-sweep.png", bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main()
