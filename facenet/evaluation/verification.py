"""Face verification on labelled pairs: accuracy over folds, ROC, acceptance at a given false-accept rate. NumPy alone.

A pair counts as one identity where its distance is strictly below the threshold. For each fold the threshold is chosen
on the other folds (Huang et al. 2007, LFW View 2). Letters: P pairs, K folds, T thresholds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
Distance = Literal["l2", "squared_l2", "cosine"]
Flip = Literal["none", "concat", "sum"]
Thresholds = Literal["exact", "reference"]

FAR_TARGETS = (1e-1, 1e-2, 1e-3)
# The reference implementation's; half of each is out of reach of unit vectors.
ACCURACY_GRID = np.arange(0.0, 4.0, 0.01)
FAR_GRID = np.arange(0.0, 4.0, 0.001)


@dataclass(frozen=True)
class Threshold:
    """A decision to store: one identity where embeddings made with `flip`, less `mean`, are nearer than `value`."""

    value: float
    distance: Distance
    flip: Flip = "none"
    mean: tuple[float, ...] | None = None

    def as_dict(self) -> dict[str, object]:
        """Plain values for a checkpoint or JSON; `Threshold(**values)` turns them back."""
        return asdict(self)


class TarAtFar(NamedTuple):
    """Rates at the thresholds that the other folds give for a target: true accepts (mean and standard deviation over
    folds) and false accepts (mean)."""

    tar: float
    std: float
    far: float


class Roc(NamedTuple):
    """False- and true-accept rate at every threshold that tells pairs apart, from (0, 0) to (1, 1)."""

    fpr: Floats
    tpr: Floats


@dataclass(frozen=True)
class Verification:
    """Rates in [0, 1], population standard deviations over folds, thresholds in the unit `threshold.distance`."""

    num_pairs: int
    accuracy: float
    accuracy_std: float
    fold_accuracies: tuple[float, ...]
    fold_thresholds: tuple[float, ...]
    threshold: Threshold  # chosen on all pairs: the one to store, never the one behind `accuracy`
    auc: float
    eer: float
    tar_at_far: dict[float, TarAtFar]
    roc: Roc


class Ranked(NamedTuple):
    """Pairs in order of distance."""

    distances: Floats
    same: Bools
    folds: Integers

    def others(self, fold: int) -> Ranked:
        keep = np.flatnonzero(self.folds != fold)  # half the time of a mask
        return Ranked(self.distances[keep], self.same[keep], self.folds[keep])


class Rule(NamedTuple):
    best: Callable[[Ranked], float]
    at_far: Callable[[Ranked, tuple[float, ...]], list[float]]


def exact_best(pairs: Ranked) -> float:
    """The lowest threshold of greatest accuracy, half-way between the distances it parts."""
    distances = pairs.distances
    surplus = np.cumsum(np.where(pairs.same, 1, -1))  # (P,) correct decisions gained by accepting up to here
    surplus[:-1][distances[1:] == distances[:-1]] = -len(distances)  # no threshold parts equal distances
    at = int(surplus.argmax())
    if surplus[at] <= 0:
        return float(distances[0])
    if at == len(distances) - 1:
        return float(np.nextafter(distances[at], np.inf))
    middle = float((distances[at] + distances[at + 1]) / 2)
    return middle if middle > distances[at] else float(distances[at + 1])  # neighbours in float64 have no middle


def exact_at_far(pairs: Ranked, targets: tuple[float, ...]) -> list[float]:
    """The highest thresholds whose false-accept rates do not pass the targets."""
    different = pairs.distances[~pairs.same]
    allowed = [int(target * len(different) + 1e-9) for target in targets]
    return [float(different[count]) if count < len(different) else np.inf for count in allowed]


def reference_best(pairs: Ranked) -> float:
    """The first grid point of greatest accuracy."""
    accepted = np.searchsorted(pairs.distances[pairs.same], ACCURACY_GRID)  # (T,) strictly below each threshold
    mistaken = np.searchsorted(pairs.distances[~pairs.same], ACCURACY_GRID)
    return float(ACCURACY_GRID[(accepted - mistaken).argmax()])


def reference_at_far(pairs: Ranked, targets: tuple[float, ...]) -> list[float]:
    """Linear in FAR between the last grid point not above the target and the next; 0 where none reaches the target."""
    different = pairs.distances[~pairs.same]
    return [_interpolated(different, target) for target in targets]


def _interpolated(different: Floats, target: float) -> float:
    """The rate is looked up beside the target alone: the whole grid would be 4,000 searches per fold."""
    count = len(different)
    if np.searchsorted(different, FAR_GRID[-1]) / count < target:
        return 0.0
    allowed = int(target * count)  # false accepts; the division rounds
    while allowed < count and (allowed + 1) / count <= target:
        allowed += 1
    while allowed / count > target:
        allowed -= 1
    above = len(FAR_GRID) if allowed == count else int(np.searchsorted(FAR_GRID, different[allowed], side="right"))
    if above == len(FAR_GRID):
        return float(FAR_GRID[-1])
    low, high = np.searchsorted(different, FAR_GRID[above - 1 : above + 1]) / count
    share = (target - low) / (high - low)
    return float(FAR_GRID[above - 1] + share * (FAR_GRID[above] - FAR_GRID[above - 1]))


RULES = {"exact": Rule(exact_best, exact_at_far), "reference": Rule(reference_best, reference_at_far)}


def evaluate_pairs(
    distances: Floats,
    same: Bools,
    folds: Integers,
    *,
    distance: Distance = "l2",
    thresholds: Thresholds = "exact",
) -> Verification:
    """All rates of pairs with distances (P,), or (K, P) where each fold measures every pair in its own way.

    ROC, AUC, EER and the stored threshold pool the pairs, each at the distance its own fold gives it.
    ValueError for fewer than two folds, a fold without both kinds of pairs, or a distance that is not finite.
    """
    num_folds, folds = _numbered(distances, same, folds)
    rule = RULES[thresholds]
    pooled = distances if distances.ndim == 1 else distances[folds, np.arange(len(same))]
    ranked = _rank(pooled, same, folds)
    chosen, accuracies, tars, fars = [], [], [], []
    members = np.split(np.argsort(folds, kind="stable"), np.cumsum(np.bincount(folds))[:-1])
    for fold in range(num_folds):
        training = (ranked if distances.ndim == 1 else _rank(distances[fold], same, folds)).others(fold)
        own, own_same = pooled[members[fold]], same[members[fold]]
        ours, theirs = own[own_same], own[~own_same]  # distances of same and of different pairs
        chosen.append(rule.best(training))
        correct = np.count_nonzero(ours < chosen[-1]) + np.count_nonzero(theirs >= chosen[-1])
        accuracies.append(float(correct / (len(ours) + len(theirs))))
        limits = np.array(rule.at_far(training, FAR_TARGETS))[:, None]  # (targets, 1)
        tars.append((ours < limits).mean(axis=1))
        fars.append((theirs < limits).mean(axis=1))
    roc = roc_curve(ranked)
    return Verification(
        num_pairs=len(same),
        accuracy=float(np.mean(accuracies)),
        accuracy_std=float(np.std(accuracies)),
        fold_accuracies=tuple(accuracies),
        fold_thresholds=tuple(chosen),
        threshold=Threshold(rule.best(ranked), distance),
        auc=area(roc),
        eer=equal_error_rate(roc),
        tar_at_far=_by_target(np.array(tars), np.array(fars)),
        roc=roc,
    )


def _numbered(distances: Floats, same: Bools, folds: Integers) -> tuple[int, Integers]:
    """(K, folds renumbered from 0 to K-1) of pairs that can be judged."""
    names, numbered = np.unique(folds, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"{len(names)} fold(s) of pairs: a threshold needs at least one fold beside the tested one")
    for wanted in (True, False):
        held = np.bincount(numbered[same == wanted], minlength=len(names))
        if held.min() == 0:
            kind = "the same identity" if wanted else "different identities"
            raise ValueError(f"fold {names[held.argmin()]} holds no pair of {kind}")
    if not np.isfinite(distances).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(distances))} of {distances.size} distances are not finite")
    return len(names), numbered.astype(np.int64)


def _rank(distances: Floats, same: Bools, folds: Integers) -> Ranked:
    order = np.argsort(distances)  # no result depends on the order of equal distances
    return Ranked(distances[order], same[order], folds[order])


def _by_target(tars: Floats, fars: Floats) -> dict[float, TarAtFar]:
    """From (K, targets) rates."""
    columns = zip(FAR_TARGETS, tars.mean(axis=0), tars.std(axis=0), fars.mean(axis=0), strict=True)
    return {target: TarAtFar(float(tar), float(std), float(far)) for target, tar, std, far in columns}


def roc_curve(pairs: Ranked) -> Roc:
    """One point per distinct distance."""
    last_of_equals = np.append(pairs.distances[1:] > pairs.distances[:-1], True)
    accepted = np.cumsum(pairs.same)[last_of_equals]
    mistaken = np.cumsum(~pairs.same)[last_of_equals]
    return Roc(np.append(0.0, mistaken / mistaken[-1]), np.append(0.0, accepted / accepted[-1]))


def area(roc: Roc) -> float:
    """Area under the curve by trapezoids: the chance that a same pair is nearer than a different one, ties half."""
    return float(np.sum(np.diff(roc.fpr) * (roc.tpr[1:] + roc.tpr[:-1])) / 2)


def equal_error_rate(roc: Roc) -> float:
    """The false-accept rate that equals the false-reject rate, linear between the two points around it."""
    excess = roc.fpr + roc.tpr - 1  # false accepts less false rejects: from -1 to 1, never falling
    after = int(np.argmax(excess >= 0))
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(roc.fpr[after - 1] + share * (roc.fpr[after] - roc.fpr[after - 1]))
