"""Whether a job of a sweep is worth going on with, by what the sweep's other runs have reached."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from facenet.errors import UserError
from facenet.evaluation.report import collapse_in, digits
from facenet.tracking import reading
from facenet.tracking.facts import planned, safe_name

log = logging.getLogger(__name__)
LARGEST = 1e308  # MLflow stores an infinity as the largest float
Curve = Sequence[tuple[float, float]]  # (images seen, score: higher is better), in the order of training


def behind(own: Curve, others: Sequence[Curve], *, tolerance: float, min_jobs: int) -> tuple[float, float, int] | None:
    """(best score, median, number of others) where the median stopping rule ends a run at its newest point, else None.

    The rule of Google Vizier (Golovin et al., KDD 2017): a run is hopeless if its best score so far is strictly worse than the median
    of the running averages of the others up to the same point. Others that have not come as far do not count, and fewer than `min_jobs`
    decide nothing. Points count as equally far within `tolerance` images, since batches of other sizes leave out other remainders."""
    images = own[-1][0]
    as_far = [curve for curve in others if curve and curve[-1][0] >= images - tolerance]
    until = [[score for seen, score in curve if seen <= images + tolerance] for curve in as_far]
    averages = [statistics.fmean(scores) for scores in until if scores]
    if len(averages) < max(1, min_jobs):
        return None
    best, median = max(score for _, score in own), statistics.median(averages)
    return (best, median, len(averages)) if best < median else None


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """Asks MLflow at `uri` about the other jobs of a sweep, which runs in `directory`. No job ends before `warmup_epochs`."""

    uri: str
    sweep_id: str
    job_num: str
    min_jobs: int
    warmup_epochs: int
    directory: str = ""

    def hopeless(
        self, history: Sequence[dict[str, float]], select: str, images_per_epoch: int, *, lower: bool
    ) -> str | None:
        """Why a run with these rows of finished epochs should end; None to go on, also where the last epoch did not measure `select`
        and where MLflow does not answer. `lower`: whether that is better. An epoch whose network had collapsed is worse than any other."""
        epoch = len(history)
        scores = [score_of(row, select, lower) for row in history]
        if epoch < self.warmup_epochs or scores[-1] is None:
            return None
        images = [row["epoch"] * images_per_epoch for row in history]
        own = [(seen, score) for seen, score in zip(images, scores, strict=True) if score is not None]
        try:
            others = self.others(select, lower)
        except UserError as error:
            log.warning("sweep.prune: %s; the run goes on", error)
            return None
        found = behind(own, others, tolerance=images_per_epoch / 2, min_jobs=self.min_jobs)
        if found is None:
            return None
        best, median, count = found
        sign, worse = (-1, "above") if lower else (1, "below")
        if (why := collapse_in(history[-1])) and best == -math.inf:
            return f"epoch {epoch}: {why}, and the median of {count} others is {digits(sign * median)}"
        return f"epoch {epoch}: {select} {digits(sign * best)} at best is {worse} {digits(sign * median)}, the median of {count} others"

    def others(self, select: str, lower: bool) -> list[Curve]:
        """Returns the scores of the other jobs that finished or run."""
        name = safe_name(f"epoch/{select}" if select.startswith("train/") else select)  # train/...: of some steps each
        return [
            [
                (step * float(planned(run.params, "images_per_step")), score_or_worst(value, lower))
                for step, value in points
            ]
            for run in reading.runs_of_sweep(self.uri, self.sweep_id, directory=self.directory)
            if run.tags.get("job_num") != self.job_num and run.status in ("FINISHED", "RUNNING")
            if name in run.metrics and (points := reading.history(self.uri, run.id, name))
        ]


def score_of(row: dict[str, float], select: str, lower: bool) -> float | None:
    """None where the epoch did not measure it."""
    if collapse_in(row):
        return -math.inf
    return score_or_worst(row[select], lower) if select in row else None


def score_or_worst(value: float, lower: bool) -> float:
    """Higher is better, and the worst for a value that is no number: of a loss that left them behind."""
    if not math.isfinite(value) or abs(value) > LARGEST:
        return -math.inf
    return -value if lower else value
