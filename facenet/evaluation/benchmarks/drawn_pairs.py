"""Pairs drawn from labelled images: balanced, without repetition, a function of the labels and the seed alone.

N images, I identities, P pairs as two index arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Pairs = tuple[Integers, Integers]

ROUNDS = 50  # of drawing; where all different pairs are wanted each is then missed with chance < 1e-40


def draw_same(labels: Integers, num_pairs: int, rng: np.random.Generator) -> Pairs:
    """At most `num_pairs` distinct pairs of one identity, spread over identities as evenly as their images allow."""
    images = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    possible = np.array([len(held) * (len(held) - 1) // 2 for held in images])
    level = _level(possible, num_pairs)
    pairs = [_pairs_of(held, min(int(count), level), rng) for held, count in zip(images, possible, strict=True)]
    turn = np.concatenate([np.arange(len(left)) for left, _ in pairs])
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    shuffled = rng.permutation(len(left))
    kept = shuffled[np.argsort(turn[shuffled], kind="stable")[:num_pairs]]  # the last turn, if cut, is cut at random
    return left[kept], right[kept]


def _level(possible: Integers, wanted: int) -> int:
    """The fewest pairs per identity that give `wanted` in all, or as many as there are."""
    low, high = 0, max(1, int(possible.max()))
    while low < high:
        middle = (low + high) // 2
        enough = int(np.minimum(possible, middle).sum()) >= wanted
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _pairs_of(images: Integers, count: int, rng: np.random.Generator) -> Pairs:
    """`count` distinct pairs (a < b) among the images, by their rank: pair (a, b) has rank b (b - 1) / 2 + a."""
    possible = len(images) * (len(images) - 1) // 2
    ranks = rng.choice(possible, size=count, replace=False) if count else np.empty(0, np.int64)
    second = ((1 + np.sqrt(1 + 8 * ranks.astype(np.float64))) // 2).astype(np.int64)
    return images[ranks - second * (second - 1) // 2], images[second]


def draw_different(labels: Integers, num_pairs: int, rng: np.random.Generator) -> Pairs:
    """At most `num_pairs` distinct pairs of two identities, each drawn by identity first and image second."""
    order, count = np.argsort(labels, kind="stable"), np.bincount(labels)
    start = np.cumsum(count) - count
    found = np.empty(0, np.int64)  # codes a * N + b with a < b
    for _ in range(ROUNDS):
        first = rng.integers(len(count), size=2 * num_pairs)
        second = (first + rng.integers(1, len(count), size=2 * num_pairs)) % len(count)
        drawn = [order[start[who] + rng.integers(count[who])] for who in (first, second)]
        codes = np.concatenate([found, np.minimum(*drawn) * len(labels) + np.maximum(*drawn)])
        first_seen = np.sort(np.unique(codes, return_index=True)[1])
        found = codes[first_seen][:num_pairs]
        if len(found) == num_pairs:
            break
    return found // len(labels), found % len(labels)
