"""Groups of images that are the same by content, or nearly so by appearance. N is the number of images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Codes = NDArray[np.uint64]
BANDS = 4
# Of 24,060 aligned faces, 1,435 pairs of two identities agree in the first code alone (one pose, one light), 5 in both. Those 5 are the ones whose
# pictures of 32 x 32 correlate at 0.98 or more; of the others none does at 0.95.
NEAR_BITS = BANDS - 1, 5  # of each code; two that differ in fewer bits than there are bands agree in one band
CELLS = 4_000_000  # of a table of distances at once: 32 MB
ONES = np.array([value.bit_count() for value in range(256)], np.uint8)


def same_groups(codes: Codes, chosen: NDArray[np.bool_]) -> list[Indices]:
    """Positions of equal codes among the chosen ones, for each code that occurs twice or more."""
    positions = np.flatnonzero(chosen)
    order = positions[np.argsort(codes[positions], kind="stable")]
    return runs(order, codes)


def near_groups(appearance: Codes, chosen: NDArray[np.bool_]) -> list[Indices]:
    """Positions of chosen images that differ from another of their group in at most NEAR_BITS of the codes (N, 2)."""
    parent = np.arange(len(appearance))

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = int(parent[position])
        return position

    for left, right in near_pairs(appearance, np.flatnonzero(chosen)):
        parent[root(right)] = root(left)
    roots = np.array([root(position) for position in range(len(parent))], np.uint64)
    return same_groups(roots, chosen)


def near_pairs(appearance: Codes, positions: Indices) -> Iterator[tuple[int, int]]:
    """Each pair at least once; equal ones are linked in a chain, so that copies do not make a pair each with each."""
    _, inverse = np.unique(appearance, axis=0, return_inverse=True)
    codes: Codes = inverse.reshape(-1).astype(np.uint64)
    first = []
    for group in runs(positions[np.argsort(codes[positions], kind="stable")], codes, shortest=1):
        first.append(group[0])
        yield from zip(group.tolist(), group[1:].tolist(), strict=False)
    distinct = np.array(first, np.int64)
    for band in range(BANDS):
        part = (appearance[:, 0] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        for bucket in runs(distinct[np.argsort(part[distinct], kind="stable")], part):
            yield from near_in(bucket, appearance)


def near_in(bucket: Indices, appearance: Codes) -> Iterator[tuple[int, int]]:
    rows = max(1, CELLS // len(bucket))
    for start in range(0, len(bucket), rows):
        block = bucket[start : start + rows]
        near = np.triu(distances(appearance[block, 0], appearance[bucket, 0]) <= NEAR_BITS[0], k=start + 1)
        for left, right in np.argwhere(near).tolist():
            a, b = int(block[left]), int(bucket[right])
            if (int(appearance[a, 1]) ^ int(appearance[b, 1])).bit_count() <= NEAR_BITS[1]:
                yield a, b


def distances(left: Codes, right: Codes) -> NDArray[np.uint8]:
    """Numbers of different bits (L, R)."""
    difference = left[:, None] ^ right[None]
    counts: NDArray[np.uint8] = (
        ONES[difference.view(np.uint8)].reshape(*difference.shape, 8).sum(axis=2, dtype=np.uint8)
    )
    return counts


def runs(order: Indices, codes: Codes, *, shortest: int = 2) -> list[Indices]:
    """The sorted positions cut where the code changes."""
    if not len(order):
        return []
    cuts = np.flatnonzero(np.diff(codes[order])) + 1
    return [group for group in np.split(order, cuts) if len(group) >= shortest]
