"""Which setting of a sweep is best, and whether that is more than chance. Pure functions of a study; NumPy alone.

The test is Fisher's randomisation test for pairs (The Design of Experiments, 1935, section 21): if two settings were equally
good, the sign of their difference on a fold would be a coin's, so the observed sum of differences is judged among those of all
2^K signs. It is exact, assumes no distribution, and cannot give less than 2 / 2^K: 0.002 with LFW's 10 folds, 0.25 with 3.

What it can and cannot say. Folds share the pairs that their thresholds were chosen on, so they are not quite independent and the
test is slightly optimistic (Dietterich 1998 on resampled tests). It compares trained networks: with one seed per setting it does not
know how another seed would have come out, so where seeds were swept a difference must also pass twice its standard error
over seeds. That the best was picked for being best favours no verdict on the second: the gap between the first two of many is smaller
than between two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facenet.errors import shown
from facenet.evaluation.report import digits
from facenet.reports.study import Job, Study
from facenet.tracking.names import axes_name

ALPHA = 0.05
COMPARED = 10  # the best and nine others: against 26, Holm's factor would leave 10 folds without any p below ALPHA
MOST_SIGNS = 20  # more folds are averaged into so many groups, whose differences have coins for signs as well


@dataclass(frozen=True)
class Setting:
    """Jobs that differ in nothing but the seed. `std` over seeds is the sample's, None for one. `folds` are averaged over seeds."""

    axes: dict[str, str]
    jobs: tuple[Job, ...]
    rank: int
    mean: float
    std: float | None
    folds: tuple[float, ...]

    @property
    def label(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.axes.items()) or f"job {self.jobs[0].number}"

    @property
    def name(self) -> str:
        """In the words of MLflow's table: `lr 2e-3 · bs 96`."""
        number = self.jobs[0].number
        return axes_name(self.axes, f"#{number}") if self.axes else f"job {number}"

    @property
    def interval(self) -> str:
        """Of one job, where its accuracy is with a chance of 95 %; empty for several, whose spread stands beside their mean."""
        return self.jobs[0].interval if len(self.jobs) == 1 else ""

    @property
    def value(self) -> str:
        if self.std is None:
            return digits(self.mean)
        return f"{digits(self.mean)} ± {digits(self.std)} ({len(self.jobs)} {'seeds' if 'seed' in self.jobs[0].axes else 'runs'})"


@dataclass(frozen=True)
class Comparison:
    """The best with another: by how much it is better, and how often chance gives as much (p, after Holm)."""

    difference: float  # of the means; not negative
    num_folds: int
    p: float
    within_seeds: bool  # the difference is less than twice its standard error over seeds

    @property
    def apart(self) -> bool:
        return self.p < ALPHA and not self.within_seeds


@dataclass(frozen=True)
class Ranking:
    """Settings, best first. `comparisons[i]` is the best with `settings[i]`: None for itself, beyond COMPARED, and where the two
    have no folds in common."""

    study: Study
    settings: tuple[Setting, ...]
    comparisons: tuple[Comparison | None, ...]
    unranked: tuple[Job, ...]


def rank(study: Study) -> Ranking:
    """Only finished jobs with a finite value have a rank; equal means share one."""
    groups: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    for job in study.jobs:
        if job.ranked:
            groups.setdefault(tuple((key, value) for key, value in job.axes.items() if key != "seed"), []).append(job)
    sign = -1.0 if study.lower_is_better else 1.0
    means = {key: mean_of([job.value for job in jobs if job.value is not None]) for key, jobs in groups.items()}
    order = sorted(groups, key=lambda key: -sign * means[key])
    settings = [
        setting(dict(key), groups[key], 1 + sum(sign * (other - means[key]) > 1e-12 for other in means.values()))
        for key in order
    ]
    unranked = tuple(job for job in study.jobs if not job.ranked)
    return Ranking(study, tuple(settings), tuple(compare_to_best(settings)), unranked)


def setting(axes: dict[str, str], jobs: list[Job], place: int) -> Setting:
    values = [job.value for job in jobs if job.value is not None]
    same = len({(job.pairs, len(job.folds)) for job in jobs}) == 1
    folds = tuple(np.mean([job.folds for job in jobs], axis=0).tolist()) if same else ()
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Setting(axes, tuple(jobs), place, mean_of(values), std, folds)


def mean_of(values: Sequence[float]) -> float:
    return float(np.mean(values))


def compare_to_best(settings: list[Setting]) -> list[Comparison | None]:
    best = settings[0] if settings else None
    tested = [other for other in settings[1:COMPARED] if best is not None and comparable(best, other)]
    if best is None or not tested:
        return [None] * len(settings)
    raw = [sign_flip_p(np.subtract(best.folds, other.folds)) for other in tested]
    found = {
        id(other): Comparison(abs(best.mean - other.mean), len(best.folds), p, within_seeds(best, other))
        for other, p in zip(tested, holm(raw), strict=True)
    }
    return [found.get(id(other)) for other in settings]


def comparable(one: Setting, other: Setting) -> bool:
    """Whether both were judged on the same folds of the same pairs, of people enough."""
    same = len(one.folds) == len(other.folds) and one.jobs[0].pairs == other.jobs[0].pairs
    return same and len(one.folds) > 1 and not too_few(one)


def too_few(setting: Setting) -> bool:
    """Whether the folds hold the same few people over again: fewer held-out identities than folds. Two of 24 images made p 0.008 of a difference that
    twelve people did not show."""
    heldout = setting.jobs[0].ran.heldout
    return heldout is not None and heldout < len(setting.folds)


def why_untested(setting: Setting, metric: str) -> str:
    """Why the best setting is not compared with another."""
    if not too_few(setting):
        return f"the two share no folds of {metric}"
    people = f"{setting.jobs[0].ran.heldout} held-out identities are fewer than its {len(setting.folds)} folds"
    return f"{people}, which all hold the same people; raise data.val_identities"


def within_seeds(one: Setting, other: Setting) -> bool:
    """Of a setting of which one seed alone is left, seeds are taken to lie apart as far as those of the other."""
    spread = [each.std for each in (one, other) if each.std is not None]
    if not spread:
        return False
    error = math.sqrt(sum((spread[0] if each.std is None else each.std) ** 2 / len(each.jobs) for each in (one, other)))
    return abs(one.mean - other.mean) < 2 * error


def sign_flip_p(differences: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Two-sided p of the mean of K paired differences: the share of all 2^K choices of signs whose sum is as far from zero."""
    values = np.asarray(differences, dtype=np.float64)
    if len(values) > MOST_SIGNS:
        values = np.array([group.mean() for group in np.array_split(values, MOST_SIGNS)])
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    tolerance = 1e-9 * max(float(np.abs(values).sum()), 1e-300)  # sums of the same numbers in another order
    return float(np.mean(np.abs(sums) >= abs(float(values.sum())) - tolerance))


def least_p(num_folds: int) -> float:
    """Smallest p that `sign_flip_p` can give: where all folds agree."""
    return float(2.0 ** (1 - min(num_folds, MOST_SIGNS)))


def holm(raw: Sequence[float]) -> list[float]:
    """Adjusted p in the given order: all of them below ALPHA are true together with a chance of 1 - ALPHA (Holm 1979)."""
    adjusted, largest = [0.0] * len(raw), 0.0
    for place, index in enumerate(sorted(range(len(raw)), key=lambda index: raw[index])):
        largest = max(largest, min(1.0, raw[index] * (len(raw) - place)))
        adjusted[index] = largest
    return adjusted


def verdict(ranking: Ranking) -> str:
    """The answer in one sentence: which setting is best, by how much, and whether that is more than chance."""
    study, settings = ranking.study, ranking.settings
    if not settings:
        return f"No job of {study.sweep_id} finished with a finite {study.metric}."
    best = settings[0]
    if len(settings) == 1:
        return f"{best.label} is the only setting with a {study.metric}: {best.value}."
    second, comparison = settings[1], ranking.comparisons[1]
    if second.rank == 1:
        tied = sum(setting.rank == 1 for setting in settings)
        return f"{tied} settings are equal at the top with {study.metric} {best.value}, {best.label} among them."
    gap = f"{best.label} has the {'lowest' if study.lower_is_better else 'highest'} {study.metric}, {best.value}"
    gap += f", {digits(abs(best.mean - second.mean))} {'below' if study.lower_is_better else 'above'} {second.label}"
    if comparison is None:
        return f"{gap}; whether that is more than chance cannot be told, since {why_untested(best, study.metric)}."
    seeds = ", one seed each" if best.std is None and second.std is None else ""
    proof = f"p = {comparison.p:.2g} over {comparison.num_folds} folds{seeds}"
    if comparison.apart:
        return f"{gap}: significantly different ({proof})."
    if comparison.p < ALPHA:
        return f"{gap}: not significantly different, since other seeds move them as much ({proof})."
    least = least_p(comparison.num_folds)
    if least >= ALPHA:
        proof += f", which cannot give less than {least:.2g}; a list in more folds can, 10 are usual"
    return f"{gap}: not significantly different ({proof})."


def add_sign(gap: float) -> str:
    return f"{'-' if gap < 0 else '+'}{digits(abs(gap))}"


def ranked_table(study: Study) -> str:
    """Lines for a terminal: the verdict, a row per setting, then the jobs that have no rank and why."""
    ranking = rank(study)
    axes = [key for key in study.axes if key != "seed"]
    rows = [["rank", *axes, study.metric, "to the best", "p"]]
    for setting, comparison in zip(ranking.settings, ranking.comparisons, strict=True):
        gap = setting.mean - ranking.settings[0].mean
        tested = (
            ""
            if comparison is None
            else f"{comparison.p:.2g}" + ("" if comparison.apart else "  not significantly different")
        )
        behind = add_sign(gap) if setting is not ranking.settings[0] else ""
        rows.append([str(setting.rank), *(setting.axes[key] for key in axes), setting.value, behind, tested])
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    left_out = [
        f"  job {job.number} ({shown(', '.join(job.axes.values()))}) {shown(job.why_unranked)}"
        for job in ranking.unranked
    ]
    settings = "1 setting" if len(ranking.settings) == 1 else f"{len(ranking.settings)} settings"
    return "\n".join(
        [
            f"sweep {shown(study.sweep_id)}: {settings} of {len(study.jobs)} jobs",
            *(f"  {line}" for line in lines[: len(rows) if ranking.settings else 0]),
            *left_out,
            *(f"  {shown(line)}" for line in study.left_out),
            shown(verdict(ranking)),
        ]
    )
