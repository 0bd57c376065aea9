"""A verification as metrics, as text, as JSON and as a picture. Nothing is written here except the picture's file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facenet.errors import in_picture
from facenet.evaluation.contract import Outcome
from facenet.evaluation.verification import FAR_TARGETS, Roc, Verification, unresolved
from facenet.files.picture import drawn
from facenet.files.run_dir import is_of_run

# Of pairs, the figures that tell better from worse, and whether lower is better.
MEASURES = {"accuracy": False, "auc": False, **{f"tar_at_far_{each:g}": False for each in FAR_TARGETS}, "eer": True}
TURNED = 0.25  # AUC; a network that has learned nothing is at 0.5
Z = 1.959964  # of a normal distribution: 2.5 % lie above
LOWEST = 1e-4  # false-accept rate on a logarithmic axis
ROC_POINTS = 400  # of a saved curve: it has one per pair, and a screen shows no more


def outcome(name: str, result: Verification) -> Outcome:
    """All that a run keeps of a verification. Of a collapsed network no accuracies of folds and no threshold."""
    collapsed = collapse_of(name, metrics(name, result))
    return Outcome(
        metrics=figures(result),
        files={f"{name}.json": as_dict(name, result)},
        threshold=None if collapsed else result.threshold,
        folds=() if collapsed else result.fold_accuracies,
        roc=result.roc,
        operating=() if collapsed else operating_points(result),
        said=summarize(result),
        text=table(name, result),
        collapsed=collapsed,
    )


def operating_points(result: Verification) -> tuple[tuple[float, float], ...]:
    """(false accepts, true accepts) at the targets that so many pairs can resolve."""
    blurred = unresolved(result.num_different)
    return tuple((at.far, at.tar) for target, at in result.tar_at_far.items() if target not in blurred)


def metrics(name: str, result: Verification) -> dict[str, float]:
    """Flat numbers for a tracker, named `lfw/accuracy`, `lfw/tar_at_far_0.001`, ...: letters that MLflow allows."""
    return {f"{name}/{figure}": value for figure, value in figures(result).items()}


def figures(result: Verification) -> dict[str, float]:
    """Of a collapsed network the spread alone: what is not measured is not ranked."""
    spread = {} if result.spread is None else {"spread": result.spread}
    if result.collapsed:
        return spread
    values = {
        "accuracy": result.accuracy,
        "accuracy_std": result.accuracy_std,
        "auc": result.auc,
        "eer": result.eer,
        "threshold": result.threshold.value,
        **{f"tar_at_far_{target:g}": at.tar for target, at in result.tar_at_far.items()},
    }
    return {**{key: float(value) for key, value in values.items()}, **spread}


def collapse_of(name: str, row: Mapping[str, float]) -> str | None:
    """Why an epoch with these metrics has no accuracy, or None where it has one or was not tested."""
    if f"{name}/spread" not in row or f"{name}/accuracy" in row:
        return None
    return f"embeddings collapsed: two identities are {row[f'{name}/spread']:.2g} apart (median, L2 from 0 to 2), so {name} would measure rounding"


def collapsed(outcomes: Mapping[str, Outcome]) -> str | None:
    """Why a network is worth nothing that was tested so: images of one benchmark that are all alike are no collapse of the network."""
    reasons = [each.collapsed for each in outcomes.values()]
    return reasons[0] if reasons and all(reasons) else None


def collapse_in(row: Mapping[str, float]) -> str | None:
    """That of the tests with figures in the row, by the same rule."""
    found = [collapse_of(key.removesuffix("/spread"), row) for key in row if key.endswith("/spread")]
    return found[0] if all(found) and found else None


def lower_is_better(metric: str) -> bool:
    """Of a loss: `val/loss`, `train/ce` (a term's own), and how far apart a term finds one identity. Of a benchmark by the figures of pairs, for
    runs that are recorded without its own word on it."""
    source, _, figure = metric.partition("/")
    if source not in ("train", "val") or not MEASURES.get(figure, True):  # a set may be called val.bin
        return MEASURES.get(figure, False)
    return "/" not in figure or figure.rsplit("/", 1)[-1] in ("active", "active_triplets", "positive_distance")


def digits(value: float) -> str:
    """Four decimals, and four significant digits where those are more: a threshold of 0.0000 says nothing."""
    text = f"{value:.4f}"
    return text if abs(value) >= 0.01 or abs(float(text) - value) <= 5e-4 * abs(value) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """`75 s`, `2.3 min`, `12 min`, `1.6 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.{1 if seconds < 570 else 0}f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def tags(name: str, outcome: Outcome) -> dict[str, str]:
    """`folds.lfw`: the accuracies that a paired test of two runs needs, as JSON; `interval.lfw`: where the accuracy is with a chance of 95 %."""
    counts = [each["num_pairs"] for each in outcome.files.values() if isinstance(each, dict) and "num_pairs" in each]
    accuracy = outcome.metrics.get("accuracy")
    found = {f"interval.{name}": interval(accuracy, counts[0])} if counts and accuracy is not None else {}
    folds = {f"folds.{name}": json.dumps([round(float(each), 6) for each in outcome.folds])} if outcome.folds else {}
    return {**folds, **found}


def kept(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """What stays of the benchmarks as JSON, by file name: of each NAME.json, with its figures at least, and what else it keeps. A file that would be
    the run's or another's is called after its benchmark, too."""
    found: dict[str, Any] = {}
    for name, each in outcomes.items():
        numbers = {figure: float(value) for figure, value in each.metrics.items()}  # a stranger's may be numpy's
        for file, content in {f"{name}.json": {"benchmark": name, **numbers}, **each.files}.items():
            taken = file in found or is_of_run(file)
            found[f"{name}-{file}" if taken else file] = content
    return found


def interval(share: float, count: int) -> str:
    """`0.9886 – 0.9932`: Wilson's 95 % interval of a share of so many pairs, as if they were independent (J. Am. Stat. Assoc. 22, 1927)."""
    return " – ".join(map(digits, wilson(share, count)))


def wilson(share: float, count: int) -> tuple[float, float]:
    middle, width = share + Z**2 / (2 * count), Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return (middle - width) / (1 + Z**2 / count), (middle + width) / (1 + Z**2 / count)


def is_chance(accuracy: float, num_pairs: int) -> bool:
    """Whether the 95 % interval of an accuracy holds one half, or lies below it: of as many pairs of each kind guessing has as much."""
    return wilson(accuracy, num_pairs)[0] <= 0.5


def as_dict(name: str, result: Verification) -> dict[str, Any]:
    """Everything, as plain values that JSON can hold; the ROC is thinned. The rates of a collapsed network are null. `unresolved`: false-accept rates
    below the step of so few pairs, at which what stands under `tar_at_far` is the share accepted before the first mistake."""
    roc = thin(result.roc)
    rates = {
        "accuracy": result.accuracy,
        "accuracy_std": result.accuracy_std,
        "fold_accuracies": list(result.fold_accuracies),
        "fold_thresholds": list(result.fold_thresholds),
        "threshold": result.threshold.as_dict(),
        "auc": result.auc,
        "eer": result.eer,
        "tar_at_far": {f"{target:g}": at._asdict() for target, at in result.tar_at_far.items()},
        "unresolved": [f"{target:g}" for target in unresolved(result.num_different)],
        "roc": {"fpr": roc.fpr.tolist(), "tpr": roc.tpr.tolist()},
    }
    told = {"benchmark": name, "num_pairs": result.num_pairs, "spread": result.spread, "collapsed": result.collapsed}
    return {**told, **(dict.fromkeys(rates) if result.collapsed else rates)}


def table(name: str, result: Verification) -> str:
    """Lines for a terminal."""
    threshold = result.threshold
    head = f"{name}: {result.num_pairs:,} pairs, {len(result.fold_accuracies)} folds"
    if why := collapse_of(name, metrics(name, result)):
        return f"{head}\n  no accuracy: {why}"
    lines = [
        head,
        f"  accuracy         {percent(result.accuracy)} ± {percent(result.accuracy_std)}   (other folds' thresholds)",
        f"  by fold          {' '.join(f'{100 * accuracy:.2f}' for accuracy in result.fold_accuracies)}",
        f"  AUC              {result.auc:.5f}",
        f"  EER              {percent(result.eer)}",
    ]
    for target, at in result.tar_at_far.items():
        if target in unresolved(result.num_different):
            few = (
                f"{result.num_different:,} pairs of two identities give steps of {1 / max(result.num_different, 1):.2g}"
            )
            lines.append(
                f"  TAR @ FAR {target:<6g} cannot be resolved: {few}; {percent(at.tar)} before the first false accept"
            )
            continue
        lines.append(f"  TAR @ FAR {target:<6g} {percent(at.tar)} ± {percent(at.std)}   (measured FAR {at.far:.4f})")
    if is_chance(result.accuracy, result.num_pairs):
        lines.append(
            f"  not shown to be better than guessing: 95 % interval {interval(result.accuracy, result.num_pairs)}"
        )
    if result.auc < TURNED:
        lines.append("  nearer pairs are mostly different: the answers of the set seem to be the other way round")
    how = f"{threshold.distance} distance, flip {threshold.flip}" + (", mean subtracted" if threshold.mean else "")
    return "\n".join([*lines, f"  threshold        {digits(threshold.value)}   ({how}; from all pairs)"])


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def summarize(result: Verification) -> str:
    return "embeddings collapsed" if result.collapsed else f"{percent(result.accuracy)}, AUC {result.auc:.4f}"


def thin(roc: Roc) -> Roc:
    """At most ROC_POINTS points of the curve: half even in order, half in the logarithm of the false-accept rate."""
    last = len(roc.fpr) - 1
    even = np.linspace(0, last, ROC_POINTS // 2).round().astype(np.int64)
    rates = np.geomspace(max(roc.fpr[roc.fpr > 0].min(), 1e-9), 1.0, ROC_POINTS // 2)
    logarithmic = np.searchsorted(roc.fpr, rates, side="right") - 1
    kept = np.unique(np.concatenate([even, logarithmic]))
    return Roc(roc.fpr[kept], roc.tpr[kept])


def save_roc(path: Path, outcomes: Mapping[str, Outcome]) -> bool:
    """Draws the curve of each name that has one, on linear and on logarithmic false-accept rate, with the line of chance and the operating points.
    Returns False where none has one."""
    if all(each.roc is None for each in outcomes.values()):
        return False
    with drawn(path, 2, width=10) as both:
        for axes, scale in zip(both, ("linear", "log"), strict=True):
            rates = np.geomspace(LOWEST, 1, 100)
            axes.plot(rates, rates, "--", color="grey", linewidth=1, label="chance")
            for name, each in outcomes.items():
                if each.roc is not None:
                    (line,) = axes.plot(each.roc.fpr, each.roc.tpr, label=in_picture(f"{name}: {each.said}"))
                    far, tar = np.array(each.operating).reshape(-1, 2).T
                    axes.plot(far, tar, "o", color=line.get_color(), markersize=4)
            limits = (0, 1) if scale == "linear" else (LOWEST, 1)
            axes.set(xscale=scale, xlabel=f"false-accept rate ({scale})", xlim=limits, ylim=(0, 1.02))
        both[0].set_ylabel("true-accept rate")
        both[0].legend(loc="lower right", fontsize=8)
    return True
