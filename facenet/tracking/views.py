"""MLflow's pages of runs with the columns, order and charts that answer: MLflow keeps the state of a shared view in a tag of its experiment."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from facenet.tracking.facts import LOWER
from facenet.tracking.reading import RunRecord, reader
from facenet.tracking.store import pages, slug

TAG = "mlflow.sharedViewState."
SECTION = "facenet"  # of charts, before those that MLflow makes by itself
NAME, BEGAN, TOOK = (
    "attributes.`Run Name`",
    "runDateAndNestInfo",
    "duration",
)  # what MLflow's table calls its own columns
WIDTHS = {NAME: 210, BEGAN: 130, TOOK: 90}  # in pixels
NARROWEST = 100  # of the others: six digits
USUAL = ("optimizer.lr", "data.batch_size")


@dataclass(frozen=True, kw_only=True)
class View:
    """Runs that MLflow's `condition` finds, best by `select` first. `axes`: the params that are columns
    and axes. Runs that differ in nothing but the seed are one row if `seeds`, with their mean and `over_seeds`."""

    name: str
    condition: str
    select: str
    lower_is_better: bool = False
    axes: tuple[str, ...] = USUAL
    seeds: bool = False

    @property
    def key(self) -> str:
        return slug(self.name)

    def state(self) -> dict[str, Any]:
        """What MLflow's page has in its memory when it looks like this."""
        best, benchmark = f"best/{self.select}", self.select.partition("/")[0]
        axes = [axis for axis in self.axes if axis != "seed"]
        columns = [*(f"params.`{axis}`" for axis in self.axes), f"metrics.`{best}`"]
        columns.append(f"metrics.`{over_seeds(self.select)}`" if self.seeds else f"tags.`interval.{benchmark}`")
        grouped = {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": axis} for axis in axes],
        }
        section = {"uuid": SECTION, "name": SECTION, "display": True}
        section |= {"isReordered": False, "deleted": False, "isGenerated": False}
        chart = {"metricSectionId": SECTION, "isGenerated": False, "deleted": False, "runsCountToCompare": 100}
        parallel = {"type": "PARALLEL", "selectedParams": [*self.axes], "selectedMetrics": [best], "showAllRuns": True}
        line: dict[str, Any] = {"type": "LINE", "metricKey": self.select, "selectedMetricKeys": [self.select]}
        line |= {"xAxisKey": "step", "lineSmoothness": 0}  # unsaid, points are drawn where none was measured
        line["useGlobalLineSmoothing"] = False
        return {
            "searchFilter": self.condition,
            "orderByKey": f"metrics.`{best}`",
            "orderByAsc": self.lower_is_better,
            "selectedColumns": columns,
            "columnOrder": [NAME, *columns, TOOK, BEGAN],  # without an order, MLflow takes no widths
            "columnWidths": WIDTHS | {column: width_of(column) for column in columns},
            "runsHiddenMode": "SHOW_ALL",
            "groupBy": grouped if self.seeds and axes else None,
            "isAccordionReordered": True,  # else sections are sorted by name
            "compareRunSections": [section],
            "compareRunCharts": [
                {**chart, **parallel, "uuid": f"{SECTION}-0"},
                {**chart, **line, "uuid": f"{SECTION}-1"},
            ],
        }


def width_of(column: str) -> int:
    """Room for the name and the sign that a table is sorted by it."""
    return max(NARROWEST, 35 + 7 * len(column.partition("`")[2]))


def name_of_sweep(directory: Path, *, shared: bool) -> str:
    """Of the view of a sweep that ran there; `shared`: another one has its name, and its view stays that one's."""
    mark = f"-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:8]}" if shared else ""
    return f"sweep-{directory.name}{mark}"


def beside_others(run_tags: Mapping[str, str], select: str) -> View:
    """All runs of an experiment, the best first by what one of them was judged by."""
    return View(name=f"by-{select}", condition="", select=select, lower_is_better=LOWER in run_tags)


def over_seeds(select: str) -> str:
    """The metric that has how far the seeds of a run's setting lie apart, their standard deviation. MLflow's row of a group shows means alone; all of
    a group have the same here, which is its mean."""
    return f"over_seeds/{select}_std"


def share(uri: str, experiment_id: str, view: View) -> str:
    """The path of MLflow's table of these runs, whose state is told to the experiment. Its charts are the same with `charts`."""
    with reader(uri) as client:
        client.set_experiment_tag(experiment_id, f"{TAG}{view.key}", json.dumps(view.state()))
    return f"#/experiments/{quote(experiment_id)}/runs?{urlencode({'viewStateShareKey': view.key})}"


def charts(table: str) -> str:
    return f"{table}&compareRunsMode=CHART"


def compare_pages(uri: str, runs: Sequence[RunRecord], view: View) -> str:
    """How to open runs as a table, as charts and side by side, the best first. Raises UserError where the store cannot be written."""
    best, worst = f"best/{view.select}", math.inf if view.lower_is_better else -math.inf
    runs = sorted(runs, key=lambda run: run.metrics.get(best, worst), reverse=not view.lower_is_better)
    table = share(uri, runs[0].experiment_id, view)
    return pages(uri, {"as a table": table, "as charts": charts(table), "side by side": compare_path(runs)})


def compare_path(runs: Sequence[RunRecord]) -> str:
    """MLflow's page that has runs side by side."""
    chosen = json.dumps([run.id for run in runs], separators=(",", ":"))
    experiments = json.dumps(sorted({run.experiment_id for run in runs}), separators=(",", ":"))
    return f"#/compare-runs?runs={quote(chosen)}&experiments={quote(experiments)}"
