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
Gains = NDArray[np.int8]
Distance = Literal["l2", "squared_l2", "cosine"]
Flip = Literal["none", "concat", "sum"]
Thresholds = Literal["exact", "reference"]

FAR_TARGETS = (1e-1, 1e-2, 1e-3)
# The reference implementation's; half of each is out of reach of unit vectors.
ACCURACY_GRID = np.arange(0.0, 4.0, 0.01)
FAR_GRID = np.arange(0.0, 4.0, 0.001)
# L2, of unit vectors. First weights give 0.2, trained ones 1.2 and more; bfloat16 moves one and the same image by 0.004.
COLLAPSED = 0.01


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
    """Rates in [0, 1], population standard deviations over folds, thresholds in the unit `threshold.distance`. `spread`: median L2 distance
    between the embeddings of two identities, None where only distances were given."""

    num_pairs: int
    fold_accuracies: tuple[float, ...]
    fold_thresholds: tuple[float, ...]
    threshold: Threshold  # chosen on all pairs: the one to store, never the one behind `accuracy`
    auc: float
    eer: float
    tar_at_far: dict[float, TarAtFar]
    roc: Roc
    spread: float | None = None
    num_different: int = (
        0  # pairs of two identities by which thresholds at a false-accept rate are chosen, in the fold that has fewest
    )
    distances: Floats | None = None  # (P,) of the pairs in their order, for pictures of them

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.fold_accuracies))

    @property
    def accuracy_std(self) -> float:
        return float(np.std(self.fold_accuracies))

    @property
    def collapsed(self) -> bool:
        """Whether all embeddings are about one, so that the rates are those of rounding."""
        return self.spread is not None and self.spread < COLLAPSED


def fewest_different(same: Bools, folds: Integers) -> int:
    """Pairs of two identities outside of a fold, of that which leaves fewest: they tell false-accept rates apart in steps of one of them."""
    outside = np.unique(folds[~same], return_counts=True)[1]
    return int(outside.sum() - outside.max(initial=0))


def unresolved(num_different: int) -> tuple[float, ...]:
    """The FAR_TARGETS that are smaller than one false accept of so many pairs."""
    return tuple(target for target in FAR_TARGETS if target * num_different + 1e-9 < 1)


class Ranked(NamedTuple):
    """Pairs in order of distance."""

    distances: Floats
    same: Bools
    folds: Integers


class Rule(NamedTuple):
    """How thresholds follow from distances in order. `best(distances, gains)`: a gain is 1 where accepting a pair is right, -1 where it is
    wrong, 0 where the pair does not count. `at_far(different, targets)`: one for each false-accept rate."""

    best: Callable[[Floats, Gains], float]
    at_far: Callable[[Floats, tuple[float, ...]], list[float]]


def exact_best(distances: Floats, gains: Gains) -> float:
    """The lowest threshold of greatest accuracy, half-way between the distances it parts."""
    surplus = gains.cumsum()  # correct decisions gained by accepting up to here
    surplus[:-1][distances[1:] == distances[:-1]] = -len(distances)  # no threshold parts equal distances
    at = int(surplus.argmax())
    if surplus[at] <= 0:
        return float(distances[gains.nonzero()[0][0]])
    after = distances[at + 1 :][gains[at + 1 :].nonzero()[0][:1]]
    if not len(after):
        return float(np.nextafter(distances[at], np.inf))
    middle = float((distances[at] + after[0]) / 2)
    return middle if middle > distances[at] else float(after[0])  # neighbours in float64 have no middle


def exact_at_far(different: Floats, targets: tuple[float, ...]) -> list[float]:
    """The highest thresholds whose false-accept rates do not pass the targets."""
    allowed = [int(target * len(different) + 1e-9) for target in targets]
    return [float(different[count]) if count < len(different) else np.inf for count in allowed]


def reference_best(distances: Floats, gains: Gains) -> float:
    """The first grid point of greatest accuracy."""
    below = distances.searchsorted(ACCURACY_GRID)  # (T,) distances strictly below each
    surplus = np.append(0, gains.cumsum())[below]
    return float(ACCURACY_GRID[surplus.argmax()])


def reference_at_far(different: Floats, targets: tuple[float, ...]) -> list[float]:
    """Linear in FAR between the last grid point not above the target and the next; 0 where none reaches the target."""
    most = different.searchsorted(FAR_GRID[-1]) / len(different)
    return [_interpolated(different, target) if target <= most else 0.0 for target in targets]


def _interpolated(different: Floats, target: float) -> float:
    """The rate is looked up beside the target alone: the whole grid would be 4,000 searches per fold."""
    count = len(different)
    allowed = int(target * count)  # false accepts; the division rounds
    while allowed < count and (allowed + 1) / count <= target:
        allowed += 1
    while allowed / count > target:
        allowed -= 1
    above = len(FAR_GRID) if allowed == count else int(FAR_GRID.searchsorted(different[allowed], side="right"))
    if above == len(FAR_GRID):
        return float(FAR_GRID[-1])
    low, high = (different.searchsorted(FAR_GRID[above - 1 : above + 1]) / count).tolist()
    share = (target - low) / (high - low)
    return float(FAR_GRID[above - 1] + share * (FAR_GRID[above] - FAR_GRID[above - 1]))


RULES = {"exact": Rule(exact_best, exact_at_far), "reference": Rule(reference_best, reference_at_far)}


def evaluate_pairs(
    distances: Floats, same: Bools, folds: Integers, *, distance: Distance = "l2", thresholds: Thresholds = "exact"
) -> Verification:
    """All rates of pairs with distances (P,), or (K, P) where each fold measures every pair in its own way.

    ROC, AUC, EER and the stored threshold pool the pairs, each at the distance its own fold gives it.
    ValueError for fewer than two folds, a fold without both kinds of pairs, or a distance that is not finite."""
    num_folds, folds = _numbered(distances, same, folds)
    rule = RULES[thresholds]
    pooled = distances if distances.ndim == 1 else distances[folds, np.arange(len(same))]
    ranked = _rank(pooled, same, folds)
    chosen, accuracies, tars, fars = [], [], [], []
    for fold in range(num_folds):
        view = ranked if distances.ndim == 1 else _rank(distances[fold], same, folds)
        tested = view.folds == fold
        chosen.append(rule.best(view.distances, _gains(view.same) * ~tested))
        # Distances of the fold's own pairs of either kind, and of the others' different ones; numbers take half the time of masks.
        kinds = (tested & view.same, tested & ~view.same, ~(tested | view.same))
        ours, theirs, others = (view.distances[np.flatnonzero(kept)] for kept in kinds)
        limits = [chosen[-1], *rule.at_far(others, FAR_TARGETS)]
        accepted, mistaken = ours.searchsorted(limits), theirs.searchsorted(limits)
        accuracies.append(float((accepted[0] + len(theirs) - mistaken[0]) / (len(ours) + len(theirs))))
        tars.append(accepted[1:] / len(ours))
        fars.append(mistaken[1:] / len(theirs))
    roc = roc_curve(ranked)
    return Verification(
        num_pairs=len(same),
        fold_accuracies=tuple(accuracies),
        fold_thresholds=tuple(chosen),
        threshold=Threshold(rule.best(ranked.distances, _gains(ranked.same)), distance),
        # By trapezoids: the chance that a same pair is nearer than a different one, ties half.
        auc=float(np.sum(np.diff(roc.fpr) * (roc.tpr[1:] + roc.tpr[:-1])) / 2),
        eer=equal_error_rate(roc),
        tar_at_far=_by_target(np.array(tars), np.array(fars)),
        roc=roc,
        num_different=fewest_different(same, folds),
        distances=pooled,
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


def _gains(same: Bools) -> Gains:
    return same.view(np.int8) * np.int8(2) - np.int8(1)


def _by_target(tars: Floats, fars: Floats) -> dict[float, TarAtFar]:
    """Turns (K, targets) rates into a dict by target."""
    columns = zip(FAR_TARGETS, tars.mean(axis=0), tars.std(axis=0), fars.mean(axis=0), strict=True)
    return {target: TarAtFar(float(tar), float(std), float(far)) for target, tar, std, far in columns}


def roc_curve(pairs: Ranked) -> Roc:
    """One point per distinct distance."""
    last_of_equals = np.append(pairs.distances[1:] > pairs.distances[:-1], True)
    accepted = np.cumsum(pairs.same)[last_of_equals]
    mistaken = np.cumsum(~pairs.same)[last_of_equals]
    return Roc(np.append(0.0, mistaken / mistaken[-1]), np.append(0.0, accepted / accepted[-1]))


def equal_error_rate(roc: Roc) -> float:
    """The false-accept rate that equals the false-reject rate, linear between the two points around it."""
    excess = roc.fpr + roc.tpr - 1  # false accepts less false rejects: from -1 to 1, never falling
    after = int(np.argmax(excess >= 0))
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(roc.fpr[after - 1] + share * (roc.fpr[after] - roc.fpr[after - 1]))
