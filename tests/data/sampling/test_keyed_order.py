"""An order that is nowhere held is still an order, and a random one."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from facenet.data.identities import identity_index
from facenet.data.sampling import sampler as samplers
from facenet.data.sampling.keyed_order import KeyedOrder
from facenet.data.sampling.sampler import ShuffleSampler, TripletSampler


@pytest.mark.parametrize("num_items", [1, 2, 3, 5, 16, 17, 100, 255, 257, 1000, 4097, 65_537])
def test_everything_stands_in_it_once(num_items: int) -> None:
    for key in range(5):
        assert sorted(KeyedOrder(num_items, (key,))[0:num_items]) == list(range(num_items))


def test_parts_are_those_of_the_whole_and_keys_make_orders() -> None:
    order, again = KeyedOrder(5000, (1, 2)), KeyedOrder(5000, (1, 2))
    parts = [again[start : start + 333] for start in range(0, 5000, 333)]
    assert np.array_equal(order[0:5000], np.concatenate(parts))
    assert len(order[4990:6000]) == 10
    other = KeyedOrder(5000, (1, 3))[0:5000]
    assert (other == order[0:5000]).sum() < 10  # one match is expected of two random orders


def test_places_and_values_do_not_depend_on_each_other() -> None:
    """Chi-squared over 20 x 20 fields of 2,000 orders of 1,000: 361 degrees of freedom, standard deviation 27."""
    fields = np.zeros((20, 20))
    for key in range(2000):
        values = KeyedOrder(1000, (key,))[0:1000]
        np.add.at(fields, (np.arange(1000) // 50, values // 50), 1)
    expected = 1000 * 2000 / 400
    assert abs(((fields - expected) ** 2 / expected).sum() - 361) < 5 * 27
    steps = np.diff(KeyedOrder(1 << 20, (0,))[0 : 1 << 20])
    assert abs(np.corrcoef(steps[:-1], steps[1:])[0, 1] + 0.5) < 0.01  # of independent values


def test_large_sets_are_shuffled_without_holding_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "HELD", 10)
    labels, size = np.zeros(465, np.int64), {"batch_size": 15, "seed": 3}

    def drawn(epoch: int, rank: int, num_batches: int = 31) -> list[int]:
        options = {"rank": rank, "world_size": 3, "num_batches": num_batches, "epoch": epoch}
        return np.concatenate(list(ShuffleSampler().batches(labels, **size, **options))).tolist()

    first = [drawn(0, rank) for rank in range(3)]
    assert sorted([*first[0], *first[1], *first[2]]) == list(range(465))
    assert drawn(1, 0) != first[0]
    assert sorted(image for rank in range(3) for image in drawn(0, rank, 62)) == sorted([*range(465), *range(465)])


@pytest.mark.slow
def test_a_hundred_million_images_of_a_million_identities() -> None:
    """What a process pays for an index without pixels. Limits are some four times what was measured (experiments/results)."""
    labels = np.repeat(np.arange(1_000_000, dtype=np.int64), 100)
    tracemalloc.start()
    began = time.process_time()
    order, start, count = identity_index(labels)
    assert (order[-1], start[-1], count[-1]) == (99_999_999, 99_999_900, 100)
    assert time.process_time() - began < 8
    del order
    options = {"batch_size": 960, "epoch": 0, "seed": 0, "rank": 0, "world_size": 1}
    for sampler, peak_bytes_per_image in ((TripletSampler(), 9), (ShuffleSampler(), 0.1)):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        batches = sampler.batches(labels, num_batches=201, **options)
        next(batches)
        began = time.process_time()
        drawn = np.concatenate(list(batches))
        assert (time.process_time() - began) / len(drawn) < 10e-6, type(sampler).__name__
        assert (tracemalloc.get_traced_memory()[1] - before) / len(labels) < peak_bytes_per_image
        assert 0.45e8 < drawn.mean() < 0.55e8 and drawn.max() > 0.99e8
    tracemalloc.stop()
