"""From embeddings to verified pairs: how an image's embedding is made and how far apart two of them are. NumPy alone.

Letters: P pairs, K folds, N unique images, D numbers per embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from facenet.evaluation.verification import (
    Bools,
    Distance,
    Flip,
    Floats,
    Integers,
    Thresholds,
    Verification,
    evaluate_pairs,
)

AT_A_TIME = 1 << 14  # pairs


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How embeddings become distances and distances become decisions.

    distance: between unit vectors, `l2` in [0, 2], `squared_l2` in [0, 4] or `cosine` = 1 - similarity in [0, 2].
    flip: what represents an image: its embedding alone (`none`), beside its mirror image's (`concat`) or added to it
    (`sum`), scaled to unit length. subtract_mean: for each fold, take away the mean embedding of the other folds'
    pairs, left and right together, and scale to unit length again. thresholds: `exact` considers every one that tells
    pairs apart, `reference` a grid of 0.01 (of 0.001 at a given false-accept rate)."""

    distance: Distance = "l2"
    flip: Flip = "none"
    subtract_mean: bool = False
    thresholds: Thresholds = "exact"


def verify(
    embeddings: NDArray[np.float32], left: Integers, right: Integers, same: Bools, folds: Integers, protocol: Protocol
) -> Verification:
    """Judge the pairs (left[i], right[i]) of rows of `embeddings` (N, D), each scaled to unit length first."""
    rows = embeddings.astype(np.float64)  # float32 dot products err by 1e-7, an l2 distance near 0 then by 3e-4
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosine = multiply_pairs(rows, left, right)
    apart, filled = distance_from_cosine(cosine, "l2"), np.count_nonzero(rows, axis=1) > 0
    apart[~(filled[left] | filled[right])] = 0  # of zeros: a product of 0 is that of right angles, too
    spread = float(np.median(apart[~same]))
    mean = None
    if protocol.subtract_mean:
        sums, counts = fold_sums(rows, left, right, folds)
        cosine = centred_cosine(rows, left, right, cosine, (sums.sum(axis=0) - sums) / (counts.sum() - counts)[:, None])
        mean = tuple(float(value) for value in sums.sum(axis=0) / counts.sum())
    result = evaluate_pairs(
        distance_from_cosine(cosine, protocol.distance),
        same,
        folds,
        distance=protocol.distance,
        thresholds=protocol.thresholds,
    )
    return replace(result, threshold=replace(result.threshold, flip=protocol.flip, mean=mean), spread=spread)


def multiply_pairs(rows: Floats, left: Integers, right: Integers) -> Floats:
    """Products (P,) of the rows of each pair, some pairs at a time: their embeddings side by side are many times the images'."""
    parts = [slice(start, start + AT_A_TIME) for start in range(0, len(left), AT_A_TIME)]
    return np.concatenate([np.einsum("pd,pd->p", rows[left[part]], rows[right[part]]) for part in parts])


def fold_sums(rows: Floats, left: Integers, right: Integers, folds: Integers) -> tuple[Floats, Integers]:
    """Sum (K, D) and number (K,) of the embeddings in each fold's pairs; an image counts once per pair it is in."""
    names, numbered = np.unique(folds, return_inverse=True)
    both, of_fold = np.concatenate([left, right]), np.concatenate([numbered, numbered])
    times = np.bincount(of_fold * len(rows) + both, minlength=len(names) * len(rows)).reshape(len(names), len(rows))
    return times.astype(np.float64) @ rows, times.sum(axis=1)


def centred_cosine(rows: Floats, left: Integers, right: Integers, cosine: Floats, means: Floats) -> Floats:
    """Cosine similarities (K, P) after each of the means (K, D) is taken from the unit rows.

    (a - m)(b - m) = ab - am - bm + mm: one small product in place of K subtractions over all rows."""
    along = means @ rows.T  # (K, N)
    size = np.square(means).sum(axis=1, keepdims=True)  # (K, 1)
    length: Floats = np.sqrt(np.maximum(1 - 2 * along + size, 1e-24))
    product: Floats = cosine - along[:, left] - along[:, right] + size
    return product / (length[:, left] * length[:, right])


def distance_from_cosine(cosine: Floats, distance: Distance) -> Floats:
    """Distances between unit vectors of known cosine similarity, of any shape."""
    apart: Floats = np.clip(1 - cosine, 0.0, 2.0)
    if distance == "cosine":
        return apart
    squared = 2 * apart
    return squared if distance == "squared_l2" else np.asarray(np.sqrt(squared))
