"""The pictures of a report. The only importer of plotly; what they show is computed elsewhere.

Plotly reads a few HTML tags in labels, so every name from outside goes through `text`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from facenet.errors import shown
from facenet.evaluation.report import digits
from facenet.reports.ranking import Ranking, Setting
from facenet.reports.study import NOT_NUMBERS, Job

Curves = Mapping[int, Sequence[tuple[int, float]]]  # job number -> (step, value)
FAVOURITES = ("optimizer.lr", "data.batch_size")  # rows and columns of the heat map where both were swept
MOST_TICKS, MOST_NAMES = 8, 10  # on an axis, in a legend: more would lie over each other


def text(name: str) -> str:
    return html.escape(shown(name), quote=False).replace("%{", "% {")  # its templates fill in what stands in %{}


def figure(height: int, **layout: object) -> go.Figure:
    """An empty one that fits itself into a phone: no fixed width, thin margins, and a finger that drags moves the page."""
    drawn = go.Figure()
    drawn.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 8, "r": 8, "t": 16, "b": 8},
        font={"family": "system-ui, sans-serif", "size": 12},
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        dragmode=False,
        **layout,
    )
    drawn.update_xaxes(automargin=True)
    drawn.update_yaxes(automargin=True)
    return drawn


def colours(ranking: Ranking) -> dict[int, str]:
    """Job number -> its setting's colour, from the best (dark) to the last; those without a rank are grey."""
    count = max(len(ranking.settings) - 1, 1)
    scale = sample_colorscale("Viridis", [0.9 * place / count for place in range(len(ranking.settings))])
    found = {job.number: "#999999" for job in ranking.unranked}
    for setting, colour in zip(ranking.settings, scale, strict=True):
        found.update({job.number: colour for job in setting.jobs})
    return found


def heat_map(ranking: Ranking) -> go.Figure | None:
    """The metric over two axes, the mean over seeds; of several settings in one cell the best. None for a sweep of fewer axes."""
    axes = axes_to_draw(ranking)
    if len(axes) < 2:
        return None
    cells: dict[tuple[str, str], Setting] = {}
    for setting in ranking.settings:  # best first
        cells.setdefault((setting.axes[axes[0]], setting.axes[axes[1]]), setting)
    rows, columns = (in_order({setting.axes[key] for setting in ranking.settings}) for key in axes[:2])
    found = [[cells.get((row, column)) for column in columns] for row in rows]
    best = ranking.settings[0]
    drawn = figure(110 + 55 * len(rows))
    drawn.add_heatmap(
        x=[text(column) for column in columns],
        y=[text(row) for row in rows],
        z=[[None if cell is None else cell.mean for cell in line] for line in found],
        text=[
            ["" if cell is None else f"{digits(cell.mean)}{' ★' * (cell is best)}" for cell in line] for line in found
        ],
        texttemplate="%{text}",
        hovertext=[["" if cell is None else text(f"{cell.label}: {cell.value}") for cell in line] for line in found],
        hoverinfo="text",
        colorscale="Viridis",
        reversescale=ranking.study.lower_is_better,
        showscale=False,
        xgap=2,
        ygap=2,
    )
    drawn.update_xaxes(type="category", title=text(axes[1]), showgrid=False)
    drawn.update_yaxes(type="category", title=text(axes[0]), showgrid=False)
    return drawn


def axes_to_draw(ranking: Ranking) -> list[str]:
    """The swept keys that took several values, but for the seed; learning rate and batch size first, then as they were given."""
    varied = [key for key in ranking.study.axes if len({setting.axes.get(key) for setting in ranking.settings}) > 1]
    return sorted((key for key in varied if key != "seed"), key=lambda key: key not in FAVOURITES)


def effect(ranking: Ranking) -> go.Figure | None:
    """The metric of every job over the values of the one axis that was swept; None where several were."""
    axes = axes_to_draw(ranking)
    if len(axes) != 1:
        return None
    jobs = [job for setting in ranking.settings for job in setting.jobs]
    values = in_order({job.axes[axes[0]] for job in jobs})
    means = {setting.axes[axes[0]]: setting.mean for setting in ranking.settings}
    drawn = figure(340, showlegend=False)
    drawn.add_scatter(x=[text(value) for value in values], y=[means[value] for value in values], mode="lines")
    drawn.add_scatter(
        x=[text(job.axes[axes[0]]) for job in jobs],
        y=[job.value for job in jobs],
        mode="markers",
        marker={"size": 9, "color": [colours(ranking)[job.number] for job in jobs]},
        text=[text(label_of(job)) for job in jobs],
        hovertemplate="%{text}: %{y:.4f}<extra></extra>",
    )
    drawn.update_xaxes(type="category", title=text(axes[0]), categoryarray=[text(value) for value in values])
    drawn.update_yaxes(title=text(ranking.study.metric))
    return drawn


def learning_curves(ranking: Ranking, metric: str, curves: Curves) -> go.Figure | None:
    """A line per job over the images it has seen, which is fair to all batch sizes; over steps where a plan is missing."""
    jobs = [job for job in ranking.study.jobs if curves.get(job.number)]
    if not jobs:
        return None
    in_images = all(job.images_per_step for job in jobs)
    shades = colours(ranking)
    drawn = figure(380, showlegend=len(jobs) <= MOST_NAMES)
    for job in jobs:
        factor = job.images_per_step if in_images and job.images_per_step else 1
        drawn.add_scatter(
            x=[step * factor for step, _ in curves[job.number]],
            y=[finite(value) for _, value in curves[job.number]],
            name=text(label_of(job)),
            mode="lines+markers" if len(curves[job.number]) < 40 else "lines",
            line={"color": shades[job.number], "dash": "solid" if job.ranked else "dot"},
            hovertemplate=f"{text(label_of(job))}: %{{y:.4f}} after %{{x}}<extra></extra>",
        )
    drawn.update_xaxes(title="images seen" if in_images else "steps", rangemode="tozero")
    drawn.update_yaxes(title=text(metric))
    return drawn


def parallel_coordinates(ranking: Ranking) -> go.Figure | None:
    """A line per setting through its values to the metric. Drawn as lines, since plotly's own kind needs WebGL."""
    axes = axes_to_draw(ranking)
    if not axes:
        return None
    drawn = figure(380, showlegend=False)
    dimensions = [(key.rsplit(".", 1)[-1], [setting.axes[key] for setting in ranking.settings]) for key in axes]
    places = [heights(values) for _, values in dimensions]
    means = [digits(setting.mean) for setting in ranking.settings]
    dimensions.append((ranking.study.metric, means))
    places.append(scale_heights(sorted(set(means), key=float)))
    for number in reversed(range(len(ranking.settings))):  # the best on top
        setting = ranking.settings[number]
        drawn.add_scatter(
            x=list(range(len(dimensions))),
            y=[place[values[number]] for place, (_, values) in zip(places, dimensions, strict=True)],
            mode="lines+markers",
            line={"color": colours(ranking)[setting.jobs[0].number], "width": 4 if number == 0 else 1.5},
            text=f"{text(setting.label)}: {setting.value}",
            hovertemplate="%{text}<extra></extra>",
        )
    for column, place in enumerate(places):
        drawn.add_vline(x=column, line={"color": "#bbbbbb", "width": 1}, layer="below")
        last = column == len(places) - 1
        style = {"showarrow": False, "xanchor": "right" if last else "left", "xshift": -6 if last else 6}
        for value in ticks(place, everything=not last):
            drawn.add_annotation(x=column, y=place[value], text=text(value), bgcolor="rgba(255,255,255,0.7)", **style)
    drawn.update_xaxes(tickvals=list(range(len(dimensions))), ticktext=[text(key) for key, _ in dimensions])
    drawn.update_xaxes(showgrid=False, zeroline=False, range=[-0.15, len(dimensions) - 0.85])
    drawn.update_yaxes(visible=False, range=[-0.06, 1.06])
    return drawn


def fold_differences(ranking: Ranking) -> go.Figure | None:
    """Draws by how much the best setting was ahead on each fold, for every setting that it was compared with."""
    compared = [
        setting
        for setting, comparison in zip(ranking.settings, ranking.comparisons, strict=True)
        if comparison is not None
    ]
    if not compared:
        return None
    best = ranking.settings[0]
    drawn = figure(120 + 34 * len(compared), showlegend=False)
    for setting in compared:
        ahead = [mine - theirs for mine, theirs in zip(best.folds, setting.folds, strict=True)]
        name = f"rank {setting.rank}, job {setting.jobs[0].number}"
        drawn.add_box(
            x=ahead,
            name=name,
            boxpoints="all",
            pointpos=0,
            jitter=0.4,
            marker={"color": colours(ranking)[setting.jobs[0].number], "size": 6},
            fillcolor="rgba(0,0,0,0.06)",
            hovertemplate=f"{text(setting.label)}: %{{x:.4f}}<extra></extra>",
        )
    drawn.add_vline(x=0, line={"color": "#444444", "width": 1})
    drawn.update_xaxes(title="accuracy ahead, by fold")
    drawn.update_yaxes(autorange="reversed")
    return drawn


def label_of(job: Job) -> str:
    return ", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in job.axes.items()) or f"job {job.number}"


def finite(value: float) -> float | None:
    return value if math.isfinite(value) and abs(value) < NOT_NUMBERS else None


def in_order(values: set[str]) -> list[str]:
    """Numbers by size, else by the alphabet."""
    try:
        return sorted(values, key=float)
    except ValueError:
        return sorted(values)


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


def all_figures(ranking: Ranking, curves: Mapping[str, Curves]) -> dict[str, go.Figure]:
    """Heading -> picture, in the order of the page, without those that this sweep has nothing for."""
    study, axes = ranking.study, axes_to_draw(ranking)
    over = " and ".join(axes[:2]) + (", the best of the others" if len(axes) > 2 else "")
    drawn = {
        f"{study.metric} by {over}": heat_map(ranking) or effect(ranking),
        **{f"Learning curves: {metric}": learning_curves(ranking, metric, each) for metric, each in curves.items()},
        "Parallel coordinates": parallel_coordinates(ranking),
        "Fold by fold against the best": fold_differences(ranking),
    }
    return {heading: each for heading, each in drawn.items() if each is not None}
