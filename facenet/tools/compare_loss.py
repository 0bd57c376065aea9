"""The losses of two runs, iteration by iteration: the vendor's signed figures and absolute ones."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facenet.errors import UserError, check_least, in_picture, shown
from facenet.files.run_dir import RunDir
from facenet.tracking.dllogger import read_metric
from facenet.tracking.reading import history
from facenet.tracking.store import where

VENDOR_RELATIVE, VENDOR_ABSOLUTE = 0.05, 0.0002  # of the vendor's rule for 100 iterations; either is enough
RUN_ID = re.compile(r"(?:runs:/)?([0-9a-f]{32})")


def run_compare_loss(
    *, a: str, b: str, steps: int | None, metric: str, tolerance: float, uri: str | None, plot: str | None, json: bool
) -> tuple[str, bool]:
    """Returns what to print, and whether the mean of |A - B| / |B| is within the tolerance."""
    check_least("--steps", 1 if steps is None else steps)
    if not tolerance >= 0:
        raise UserError(f"--tolerance: expected 0 or more, got {tolerance}")
    curves = align((a, b), (read(a, metric, uri), read(b, metric, uri)), steps)
    figures = {"a": a, "b": b, "metric": metric, **compare(curves, tolerance)}
    if plot is not None:
        draw(Path(plot), curves, figures)
    return (as_json(figures) if json else as_text(figures)), figures["absolute"]["passed"]


@dataclass(frozen=True)
class Curves:
    """Both runs at their common iterations; float64 (N,)."""

    iterations: NDArray[np.int64]
    a: NDArray[np.float64]
    b: NDArray[np.float64]


def read(source: str, metric: str, uri: str | None) -> dict[int, float]:
    """Iteration -> value, from a log, a run directory or an MLflow run."""
    path, run = Path(source), RUN_ID.fullmatch(source)
    if os.path.isdir(path):
        path = RunDir(path).vendor_log(0)
        if not os.path.isfile(path):
            raise UserError(f"{source}: no {path.name} in it; the run needs tracking.dllogger=true")
    if os.path.exists(path):
        return by_iteration(read_metric(path, metric if "/" not in metric else metric.replace("/", ".")))
    if run is None:
        raise UserError(f"{source}: no such file, and no MLflow run (32 hexadecimal digits, or runs:/ and these)")
    name = metric if "/" in metric else metric.replace(".", "/")
    return by_iteration([(0, step, value) for step, value in history(where(uri), run[1], name)])


def by_iteration(points: list[tuple[int, int, float]]) -> dict[int, float]:
    """Iterations counted from 1 over the whole run, whether a log counts from 0 or 1, over the run or in each epoch.

    A point that goes back replaces what followed it: there a run was resumed or repeated."""
    kept: list[tuple[int, int, float]] = []
    for point in points:
        while kept and kept[-1][:2] >= point[:2]:
            kept.pop()
        kept.append(point)
    first = 1 if any(iteration == 0 for _, iteration, _ in kept) else 0
    values: dict[int, float] = {}
    offset = done = 0
    previous = -1
    for _, iteration, value in kept:
        if iteration <= previous:
            offset = done
        done, previous = offset + iteration + first, iteration
        values[done] = value
    return values


def align(names: tuple[str, str], values: tuple[dict[int, float], dict[int, float]], steps: int | None) -> Curves:
    """The first `steps` iterations that both have; all for None. Raises UserError for none, and for a value that is no number there."""
    common = sorted(values[0].keys() & values[1].keys())[:steps]
    if not common:
        spans = [
            f"{name} has {len(points)} from {min(points)} to {max(points)}"
            for name, points in zip(names, values, strict=True)
        ]
        raise UserError(f"no iteration in common: {', '.join(spans)}; log both with the same trainer.log_every")
    for name, points in zip(names, values, strict=True):
        for count, iteration in enumerate(common):
            if not abs(points[iteration]) < 1e300:  # MLflow keeps an infinity as the largest double
                way_out = f"; --steps {count} compares what came before" if count else ""
                raise UserError(
                    f"{name}: the loss is not finite at iteration {iteration} ({points[iteration]:g}){way_out}"
                )
    a, b = (np.array([points[iteration] for iteration in common]) for points in values)
    return Curves(np.array(common), a, b)


def compare(curves: Curves, tolerance: float) -> dict[str, Any]:
    """The figures, as plain values. A relative difference from 0 is infinite, or 0 where both are."""
    difference = curves.a - curves.b
    signed = float(relative(curves).mean()), float(difference.mean())
    absolute = float(np.abs(relative(curves)).mean())
    largest = int(np.abs(difference).argmax())
    return {
        "num_iterations": len(curves.iterations),
        "first_iteration": int(curves.iterations[0]),
        "last_iteration": int(curves.iterations[-1]),
        "vendor": {
            "mean_relative": signed[0],
            "mean": signed[1],
            "passed": signed[0] <= VENDOR_RELATIVE or signed[1] <= VENDOR_ABSOLUTE,
        },
        "absolute": {
            "mean_relative": absolute,
            "mean": float(np.abs(difference).mean()),
            "max": float(np.abs(difference[largest])),
            "max_iteration": int(curves.iterations[largest]),
            "tolerance": tolerance,
            "passed": absolute <= tolerance,
        },
        "final": {"a": float(curves.a[-1]), "b": float(curves.b[-1])},
    }


def relative(curves: Curves) -> NDArray[np.float64]:
    difference = curves.a - curves.b
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / curves.b)


def as_json(figures: dict[str, Any]) -> str:
    """JSON knows no infinity: null there."""
    return json.dumps(json.loads(json.dumps(figures), parse_constant=lambda _: None), indent=1)


def as_text(figures: dict[str, Any]) -> str:
    vendor, absolute, final = figures["vendor"], figures["absolute"], figures["final"]
    verdict = {True: "pass", False: "FAIL"}
    span = f"{figures['num_iterations']} common iterations, {figures['first_iteration']} to {figures['last_iteration']}"
    return "\n".join(
        [
            f"{shown(figures['metric'])}: {span}",
            f"  A  {shown(figures['a'])}",
            f"  B  {shown(figures['b'])} (reference)",
            f"  mean (A - B) / B       {vendor['mean_relative']:+.6f}",
            f"  mean  A - B            {vendor['mean']:+.6f}",
            f"  vendor's rule          {verdict[vendor['passed']]}: the first <= {VENDOR_RELATIVE} or the second <= {VENDOR_ABSOLUTE}; "
            "they are signed, so a lower loss always passes",
            f"  mean |A - B| / |B|      {absolute['mean_relative']:.6f}",
            f"  mean |A - B|            {absolute['mean']:.6f}",
            f"  largest |A - B|         {absolute['max']:.6f} at iteration {absolute['max_iteration']}",
            f"  last                    {final['a']:.6f} and {final['b']:.6f}",
            f"  verdict                {verdict[absolute['passed']]}: mean |A - B| / |B| <= {absolute['tolerance']:g} (--tolerance)",
        ]
    )


def draw(path: Path, curves: Curves, figures: dict[str, Any]) -> None:
    """A PNG: the two curves above, their relative difference below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window, and pyplot's global state left alone
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    above.plot(curves.iterations, curves.a, linewidth=1, label=in_picture(f"A {figures['a']}"))
    above.plot(curves.iterations, curves.b, "--", linewidth=1, label=in_picture(f"B {figures['b']}"))
    above.set(ylabel=in_picture(figures["metric"]))
    above.legend(fontsize=8)
    below.plot(curves.iterations, 100 * relative(curves), color="tab:red", linewidth=1)
    below.set(xlabel="iteration", ylabel="(A - B) / B, %")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=110, format="png")
    except OSError as error:
        raise UserError(f"--plot {path}: cannot be written ({error.strerror})") from None
