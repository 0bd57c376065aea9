"""The pictures of a report; what they show is computed elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from facenet.errors import shown
from facenet.evaluation.report import digits
from facenet.reports.ranking import Ranking, Setting
from facenet.reports.study import NOT_NUMBERS, number_in
from facenet.reports.svg import Picture, styled

Curves = Mapping[int, Sequence[tuple[int, float]]]  # job number -> (step, value)
FAVOURITES = ("optimizer.lr", "data.batch_size")  # rows and columns of the heat map where both were swept
MOST_TICKS, MOST_NAMES = 8, 10  # on an axis, in a legend: more would lie over each other
MOST_POINTS, MOST_DOTS = (
    6000,
    200,
)  # of all curves of a picture, some 15 bytes each; with a value of their own under the pointer, 300


def colours(ranking: Ranking) -> dict[int, str]:
    """Job number -> its setting's colour, from the best (dark) to the last; those without a rank are grey."""
    count = max(len(ranking.settings) - 1, 1)
    found = {job.number: "#999999" for job in ranking.unranked}
    for place, setting in enumerate(ranking.settings):
        found.update({job.number: viridis(0.9 * place / count) for job in setting.jobs})
    return found


def viridis(share: float) -> str:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["viridis"](share))


def heat_map(ranking: Ranking) -> Picture | None:
    """The metric over two axes, the mean over seeds; of several settings in one cell the best. None for a sweep of fewer axes."""
    from matplotlib.patches import Rectangle

    axes = axes_to_draw(ranking)
    if len(axes) < 2:
        return None
    cells: dict[tuple[str, str], Setting] = {}
    for setting in ranking.settings:  # best first
        cells.setdefault((setting.axes[axes[0]], setting.axes[axes[1]]), setting)
    rows, columns = (in_order({setting.axes[key] for setting in ranking.settings}) for key in axes[:2])
    worst, best = ranking.settings[-1].mean, ranking.settings[0].mean
    drawn = Picture(1.0 + 0.45 * len(rows))
    for (row, column), setting in cells.items():
        share = (setting.mean - worst) / ((best - worst) or 1.0)
        place = (columns.index(column), rows.index(row))
        cell = drawn.axes.add_patch(Rectangle(place, 0.96, 0.94, color=viridis(share)))
        drawn.tell(cell, f"{setting.name}: {setting.value}")
        star = " ★" * (setting is ranking.settings[0])
        letters: dict[str, Any] = {"color": "white" if share < 0.6 else "black", "ha": "center", "va": "center"}
        drawn.axes.text(place[0] + 0.48, place[1] + 0.47, digits(setting.mean) + star, **letters)
    drawn.axes.grid(visible=False)
    drawn.axes.set(xlim=(0, len(columns)), ylim=(0, len(rows)), xlabel=shown(axes[1]), ylabel=shown(axes[0]))
    drawn.axes.set_xticks([place + 0.48 for place in range(len(columns))], [shown(each) for each in columns])
    drawn.axes.set_yticks([place + 0.47 for place in range(len(rows))], [shown(each) for each in rows])
    return drawn


def axes_to_draw(ranking: Ranking) -> list[str]:
    """The swept keys that took several values, but for the seed; learning rate and batch size first, then as they were given."""
    varied = [key for key in ranking.study.axes if len({setting.axes.get(key) for setting in ranking.settings}) > 1]
    return sorted((key for key in varied if key != "seed"), key=lambda key: key not in FAVOURITES)


def effect(ranking: Ranking) -> Picture | None:
    """The metric of every job over the values of the one axis that was swept, means joined where these are numbers; None where several were."""
    axes = axes_to_draw(ranking)
    if len(axes) != 1:
        return None
    jobs = [job for setting in ranking.settings for job in setting.jobs]
    values = in_order({job.axes[axes[0]] for job in jobs})
    means = {setting.axes[axes[0]]: setting.mean for setting in ranking.settings}
    drawn, shades = Picture(), colours(ranking)
    style: dict[str, Any] = {} if are_numbers(values) else {"linestyle": "", "marker": "_", "markersize": 24}
    (line,) = drawn.axes.plot(range(len(values)), [means[value] for value in values], color="#5a6572", **style)
    drawn.tell(line, "mean over seeds: " + ", ".join(f"{value} {digits(means[value])}" for value in values))
    for job in jobs:
        (dot,) = drawn.axes.plot([values.index(job.axes[axes[0]])], [job.value or 0.0], "o", color=shades[job.number])
        drawn.tell(dot, f"{job.label}: {digits(job.value or 0)}")
    drawn.axes.set(xlabel=shown(axes[0]), ylabel=shown(ranking.study.metric), xlim=(-0.5, len(values) - 0.5))
    named = [place for place in range(len(values)) if place % math.ceil(len(values) / MOST_TICKS) == 0]
    drawn.axes.set_xticks(named, [shown(values[place]) for place in named])
    return drawn


def learning_curves(ranking: Ranking, metric: str, curves: Curves) -> Picture | None:
    """A line per job over the images it has seen, which is fair to all batch sizes; over steps where a plan is missing."""
    jobs = [job for job in ranking.study.jobs if curves.get(job.number)]
    if not jobs:
        return None
    in_images = all(job.ran.images_per_step for job in jobs)
    shades, drawn = colours(ranking), Picture()
    dots = sum(len(curves[job.number]) for job in jobs) <= MOST_DOTS
    for job in jobs:
        factor = job.ran.images_per_step if in_images and job.ran.images_per_step else 1
        points = [(step * factor, finite(value)) for step, value in thinned(curves[job.number], len(jobs))]
        style: dict[str, Any] = {"color": shades[job.number], "linestyle": "-" if job.ranked else ":"}
        if len(points) == 1:  # a line of it would be nothing
            style |= {"marker": "o", "markersize": 7}
        (line,) = drawn.axes.plot(*zip(*points, strict=True), label=shown(job.label), **style)
        drawn.tell(line, f"{job.label}: {digits(points[-1][1])} after {points[-1][0]:,}")
        for x, y in points if dots else ():
            (dot,) = drawn.axes.plot([x], [y], "o", markersize=3, color=shades[job.number])
            drawn.tell(dot, f"{job.label}: {digits(y)} after {x:,}")
    drawn.axes.set(xlabel="images seen" if in_images else "steps", ylabel=shown(metric))
    drawn.axes.set_xlim(left=0)
    drawn.axes.locator_params(axis="x", nbins=5, integer=True)
    drawn.axes.xaxis.set_major_formatter("{x:,.0f}")
    if len(jobs) <= MOST_NAMES:
        drawn.figure.legend(loc="outside upper left", ncols=2, fontsize=7, frameon=False)
    return drawn


def thinned(points: Sequence[tuple[int, float]], curves: int) -> Sequence[tuple[int, float]]:
    """Of a curve as many points as fit the picture, evenly, and the last."""
    every = math.ceil(len(points) * curves / MOST_POINTS)
    return points if every <= 1 else [*points[:-1:every], points[-1]]


def parallel_coordinates(ranking: Ranking) -> Picture | None:
    """A line per setting through its values to the metric."""
    axes = axes_to_draw(ranking)
    if not axes:
        return None
    drawn = Picture()
    dimensions = [(key.rsplit(".", 1)[-1], [setting.axes[key] for setting in ranking.settings]) for key in axes]
    places = [heights(values) for _, values in dimensions]
    means = [digits(setting.mean) for setting in ranking.settings]
    dimensions.append((ranking.study.metric, means))
    places.append(scale_heights(sorted(set(means), key=float)))
    for number in reversed(range(len(ranking.settings))):  # the best on top
        setting = ranking.settings[number]
        at = [place[values[number]] for place, (_, values) in zip(places, dimensions, strict=True)]
        style: dict[str, Any] = {
            "color": colours(ranking)[setting.jobs[0].number],
            "linewidth": 3 if number == 0 else 1.2,
        }
        (line,) = drawn.axes.plot(range(len(dimensions)), at, marker="o", markersize=3, **style)
        drawn.tell(line, f"{setting.name}: {setting.value}")
    for column, place in enumerate(places):
        drawn.axes.axvline(column, color="#bbbbbb", linewidth=1, zorder=0)
        last = column == len(places) - 1
        for value in ticks(place, everything=not last):
            put: dict[str, Any] = {
                "xytext": (-5 if last else 5, 0),
                "textcoords": "offset points",
                "ha": "right" if last else "left",
            }
            drawn.axes.annotate(shown(value), (column, place[value]), va="center", fontsize=8, **put)
    drawn.axes.set_xticks(range(len(dimensions)), [shown(key) for key, _ in dimensions])
    drawn.axes.set_yticks([])
    drawn.axes.spines[["left", "bottom"]].set_visible(False)
    drawn.axes.set(xlim=(-0.15, len(dimensions) - 0.85), ylim=(-0.06, 1.06))
    return drawn


def fold_differences(ranking: Ranking) -> Picture | None:
    """Draws by how much the best setting was ahead on each fold, for every setting that it was compared with."""
    compared = [
        setting
        for setting, comparison in zip(ranking.settings, ranking.comparisons, strict=True)
        if comparison is not None
    ]
    if not compared:
        return None
    best, shades = ranking.settings[0], colours(ranking)
    drawn = Picture(1.0 + 0.3 * len(compared))
    for row, setting in enumerate(compared):
        ahead = [mine - theirs for mine, theirs in zip(best.folds, setting.folds, strict=True)]
        style: dict[str, Any] = {"color": shades[setting.jobs[0].number], "alpha": 0.6, "markersize": 5}
        (dots,) = drawn.axes.plot(ahead, [row] * len(ahead), "o", **style)
        drawn.tell(dots, f"{setting.name}: {' '.join(f'{each:+.4f}' for each in ahead)}")
        mean = sum(ahead) / len(ahead)
        (bar,) = drawn.axes.plot([mean, mean], [row - 0.3, row + 0.3], color="#16202a", linewidth=2)
        drawn.tell(bar, f"{setting.name}: mean {mean:+.4f}")
    drawn.axes.axvline(0, color="#444444", linewidth=1)
    drawn.axes.set_yticks(range(len(compared)), [shown(f"{setting.rank}. {setting.name}") for setting in compared])
    drawn.axes.set(xlabel="accuracy ahead on each fold, and the mean", ylim=(len(compared) - 0.5, -0.5))
    return drawn


def finite(value: float) -> float:
    return value if math.isfinite(value) and abs(value) < NOT_NUMBERS else math.nan


def are_numbers(values: Iterable[str]) -> bool:
    return all(number_in(value) is not None for value in values)


def in_order(values: set[str]) -> list[str]:
    """Numbers by size, else by the alphabet."""
    return sorted(values, key=float) if are_numbers(values) else sorted(values)


def heights(values: Sequence[str]) -> dict[str, float]:
    """Value -> its height on an axis from 0 to 1: equal distances for few values and for words, for many numbers their own."""
    ordered = in_order(set(values))
    try:
        even = len(ordered) <= MOST_TICKS or not all(math.isfinite(float(value)) for value in ordered)
    except ValueError:
        even = True
    return (
        {value: place / max(len(ordered) - 1, 1) for place, value in enumerate(ordered)}
        if even
        else scale_heights(ordered)
    )


def scale_heights(ordered: Sequence[str]) -> dict[str, float]:
    """Heights by size; by the logarithm where the numbers span a power of ten."""
    numbers = [float(value) for value in ordered]
    if numbers[0] > 0 and numbers[-1] / numbers[0] >= 10:
        numbers = [math.log(number) for number in numbers]
    span = (numbers[-1] - numbers[0]) or 1.0
    return {value: (number - numbers[0]) / span for value, number in zip(ordered, numbers, strict=True)}


def ticks(places: dict[str, float], *, everything: bool) -> list[str]:
    """The values to write beside an axis: all where there is room, else the ends."""
    names = list(places)
    return names if everything and len(names) <= MOST_TICKS else list(dict.fromkeys([names[0], names[-1]]))


def all_figures(ranking: Ranking, curves: Mapping[str, Curves]) -> dict[str, str]:
    """Heading -> picture, in the order of the page, without those that this sweep has nothing for."""
    study, axes = ranking.study, axes_to_draw(ranking)
    over = " and ".join(axes[:2]) + (", the best of the others" if len(axes) > 2 else "")
    with styled():
        drawn = {
            f"{study.metric} by {over}": heat_map(ranking) or effect(ranking),
            **{f"Learning curves: {metric}": learning_curves(ranking, metric, each) for metric, each in curves.items()},
            "Parallel coordinates": parallel_coordinates(ranking),
            "Fold by fold against the best": fold_differences(ranking),
        }
        return {heading: each.svg(heading) for heading, each in drawn.items() if each is not None}
