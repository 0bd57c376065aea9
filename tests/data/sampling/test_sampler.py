from __future__ import annotations

import hashlib
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facenet.data.sampling.sampler import IdentitySampler, Sampler, ShuffleSampler, TripletSampler
from facenet.errors import UserError

LABELS = np.repeat(np.arange(30), np.arange(1, 31))  # identity i has i + 1 images: one has a single image
SAMPLERS = [TripletSampler(), IdentitySampler(images_per_identity=4), ShuffleSampler()]


def drawn(sampler: Sampler, labels: NDArray[np.int64] = LABELS, **changes: int) -> list[NDArray[np.int64]]:
    values: dict[str, Any] = {"batch_size": 24, "num_batches": 12, "epoch": 0, "seed": 0, "rank": 0, "world_size": 1}
    return list(sampler.batches(labels, **{**values, **changes}))


def digest(batches: list[NDArray[np.int64]]) -> str:
    return hashlib.sha256(np.stack(batches).astype("<i8").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("labels", "seed", "epoch", "first", "all_of_them"),
    [
        (LABELS, 0, 0, [335, 43, 12, 45, 344, 39, 11, 52, 451, 16, 356, 2], "e46ae277bf44fdd6"),
        (LABELS, 11, 3, [420, 283, 142, 14, 413, 295, 136, 12, 7, 162, 71, 27], "bebde6f5dca1c8c0"),
        (np.array([1, 1, 4, 4, 4, 6]), 5, 2, [4, 0, 0, 3, 2, 1, 1, 4, 5, 5, 2, 5], "0bc9b02d2efb68d1"),
    ],
)
def test_one_process_draws_what_the_results_on_record_were_drawn_with(
    labels: NDArray[np.int64], seed: int, epoch: int, first: list[int], all_of_them: str
) -> None:
    batches = drawn(TripletSampler(), labels, batch_size=12, num_batches=50, seed=seed, epoch=epoch)
    assert batches[0].tolist() == first
    assert digest(batches) == all_of_them


@pytest.mark.parametrize(
    ("sampler", "of_one", "of_the_second"),
    [
        (IdentitySampler(images_per_identity=4), "865016ab02ccecea", "346af5c3648c5780"),
        (ShuffleSampler(), "004ecc2cf15d60fd", "81f7534e33692be2"),
    ],
)
def test_other_samplers_too(sampler: Sampler, of_one: str, of_the_second: str) -> None:
    assert digest(drawn(sampler, num_batches=15, epoch=1, seed=3)) == of_one
    assert digest(drawn(sampler, num_batches=15, epoch=1, seed=3, rank=1, world_size=2)) == of_the_second


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_two_ranks_epochs_or_seeds_repeat_a_batch(sampler: Sampler) -> None:
    """The reference's workers and epochs repeat each other: 45 steps held 12 distinct batches. Compared as sets: order
    is no difference.
    """
    seen = [
        tuple(sorted(batch.tolist()))
        for seed, epoch, rank in product(range(3), range(4), range(2))
        for batch in drawn(sampler, seed=seed, epoch=epoch, rank=rank, world_size=2)
    ]
    assert len(seen) == 3 * 4 * 2 * 12
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_keys_draw_equal_batches_of_the_right_kind(sampler: Sampler) -> None:
    first, again = drawn(sampler, epoch=3, rank=1, world_size=2), drawn(sampler, epoch=3, rank=1, world_size=2)
    assert np.array_equal(first, again)
    assert np.shape(first) == (12, 12)
    assert first[0].dtype == np.int64
    assert min(map(min, first)) >= 0
    assert max(map(max, first)) < len(LABELS)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_streams_are_not_shifted_copies_of_each_other(sampler: Sampler) -> None:
    """No stretch of one epoch's stream may turn up in another's (a seed of the kind seed + epoch + rank would do
    that).
    """
    streams = [
        np.concatenate(drawn(sampler, epoch=epoch, rank=rank, world_size=2)) for epoch in range(3) for rank in range(2)
    ]
    windows = [tuple(stream[at : at + 6].tolist()) for stream in streams for at in range(len(stream) - 5)]
    assert len(set(windows)) == len(windows)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=12).filter(lambda counts: max(counts) > 1), st.integers(0, 2**40)
)
def test_every_triplet_is_valid(counts: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    for batch in drawn(TripletSampler(), labels, seed=seed, num_batches=3):
        anchor, positive, negative = batch.reshape(3, -1)
        assert (anchor != positive).all()
        assert (labels[anchor] == labels[positive]).all()
        assert (labels[anchor] != labels[negative]).all()


def test_triplets_are_uniform_over_identities_and_over_their_images() -> None:
    """Expected: anchors over the 29 identities with two images, negatives over all, whatever their numbers of
    images.
    """
    anchor, positive, negative = np.concatenate(
        [batch.reshape(3, -1) for batch in drawn(TripletSampler(), batch_size=2997, num_batches=60)], axis=1
    )  # fmt: skip
    anchors = np.bincount(LABELS[anchor], minlength=30)
    assert anchors[0] == 0
    assert np.allclose(anchors[1:] / len(anchor), 1 / 29, rtol=0.1)
    assert np.allclose(np.bincount(LABELS[negative], minlength=30) / len(negative), 1 / 30, rtol=0.15)
    offset = (positive - anchor)[LABELS[anchor] == 2]  # three images: the two others equally often
    assert abs(np.isin(offset, [1, -2]).mean() - 0.5) < 0.03
    of_last = np.bincount(anchor[LABELS[anchor] == 29] - 29 * 30 // 2, minlength=30)
    assert np.allclose(of_last / of_last.sum(), 1 / 30, rtol=0.4)


def test_label_gaps_are_never_drawn() -> None:
    """Labels of a validation split: some identities of the training set have no image here."""
    labels = np.array([1, 1, 4, 4, 4, 6])
    for batch in drawn(TripletSampler(), labels, num_batches=20):
        anchor, positive, negative = labels[batch].reshape(3, -1)
        assert (anchor == positive).all()
        assert (anchor != negative).all()
        assert set(anchor) <= {1, 4}
    assert len(drawn(IdentitySampler(images_per_identity=2), labels, batch_size=4, num_batches=5)) == 5


def shares(epoch: int, world_size: int, labels: NDArray[np.int64] = LABELS) -> list[set[int]]:
    """The identities of each process; enough batches that each of them is drawn."""
    size = {"batch_size": 72, "num_batches": 60, "epoch": epoch, "world_size": world_size}
    streams = [np.concatenate(drawn(TripletSampler(), labels, rank=rank, **size)) for rank in range(world_size)]
    return [set(labels[stream].tolist()) for stream in streams]


@pytest.mark.parametrize(("world_size", "sizes"), [(1, [30]), (2, [15, 15]), (3, [10, 10, 10]), (4, [7, 7, 8, 8])])
def test_each_process_draws_triplets_from_its_own_identities(world_size: int, sizes: list[int]) -> None:
    """Anchors, positives and negatives: a face that is in two processes' batches of one step counts twice in it."""
    seen = shares(0, world_size)
    assert set.union(*seen) == set(range(30))
    assert sorted(len(share) for share in seen) == sizes
    assert sum(len(share) for share in seen) == 30, "an identity is in two shares"
    if world_size > 1:
        assert seen != shares(1, world_size), "dealt anew in every epoch"


def test_identities_with_a_pair_and_those_without_are_dealt_evenly() -> None:
    """7 of each over 3 processes: every one has an anchor's identity, and no kind is uneven by more than one."""
    labels = np.array([*np.repeat(np.arange(7), 2), *range(7, 14)])
    for epoch in range(5):
        seen = shares(epoch, 3, labels)
        assert sorted(sum(label < 7 for label in share) for share in seen) == [2, 2, 3]
        assert sorted(sum(label >= 7 for label in share) for share in seen) == [2, 2, 3]
        assert sorted(len(share) for share in seen) == [4, 5, 5]


def test_anchors_of_several_processes_are_uniform_over_the_epochs() -> None:
    """Expected of the deal: an identity's share of anchors does not depend on the process it falls to."""
    anchors = np.concatenate(
        [
            batch.reshape(3, -1)[0]
            for epoch, rank in product(range(100), range(3))
            for batch in drawn(TripletSampler(), batch_size=297, num_batches=2, epoch=epoch, rank=rank, world_size=3)
        ]
    )
    counts = np.bincount(LABELS[anchors], minlength=30)
    assert counts[0] == 0
    assert np.allclose(counts[1:] / len(anchors), 1 / 29, rtol=0.15)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_processes_share_no_image_of_a_step(sampler: Sampler, world_size: int) -> None:
    size = {"batch_size": 72, "num_batches": len(LABELS) // 72, "world_size": world_size}
    ranks = [drawn(sampler, rank=rank, **size) for rank in range(world_size)]
    for parts in zip(*ranks, strict=True):
        assert sum(len(part) for part in parts) == 72
        assert sum(len(set(part.tolist())) for part in parts) == len(set(np.concatenate(parts).tolist()))


@pytest.mark.parametrize(("world_size", "per_step", "each"), [(1, 96, 96), (2, 96, 48), (3, 90, 30), (5, 90, 18)])
def test_what_does_not_divide_can_be_left_out(world_size: int, per_step: int, each: int) -> None:
    """The reference's rule: 96 over 3 processes are 32 each, of which 10 triplets are made."""
    sampler = TripletSampler(drop_remainder=True)
    assert sampler.images_per_step(96, world_size) == per_step
    batches = drawn(sampler, batch_size=96, rank=world_size - 1, world_size=world_size)
    assert {len(batch) for batch in batches} == {each} == {96 // world_size // 3 * 3}
    asked = drawn(TripletSampler(), batch_size=per_step, rank=world_size - 1, world_size=world_size)
    assert np.array_equal(batches, asked), "the same draws as when asked for"


def test_parts_of_a_step_are_whole_triplets() -> None:
    assert TripletSampler(drop_remainder=True).images_per_step(96, 3, accumulate=2) == 90  # 5 triplets a part
    assert TripletSampler(drop_remainder=True).images_per_step(96, 3, accumulate=4) == 72  # 2 triplets a part
    assert IdentitySampler(images_per_identity=4).images_per_step(96, 3, accumulate=2) == 96
    with pytest.raises(
        UserError, match=r"batch_size=96: must be a multiple of 18 .* nearest valid values are 90 or 108"
    ):
        TripletSampler().images_per_step(96, 3, accumulate=2)


def test_identity_batches_are_p_by_k_with_distinct_images() -> None:
    for batch in drawn(IdentitySampler(images_per_identity=4)):
        groups = LABELS[batch].reshape(6, 4)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == 6
        for label, images in zip(groups[:, 0], batch.reshape(6, 4), strict=True):
            assert label > 0
            assert len(set(images)) == min(4, label + 1)


def test_ranks_share_no_identity_within_a_batch_and_cover_all() -> None:
    ranks = [
        drawn(IdentitySampler(images_per_identity=3), rank=rank, world_size=4, num_batches=30) for rank in range(4)
    ]
    for parts in zip(*ranks, strict=True):
        identities = [identity for part in parts for identity in set(LABELS[part].tolist())]
        assert len(identities) == len(set(identities)) == 8
    assert set(LABELS[np.concatenate([batch for rank in ranks for batch in rank])]) == set(range(1, 30))


@pytest.mark.parametrize("world_size", [1, 3, 5])
def test_shuffle_shows_each_image_once_per_epoch(world_size: int) -> None:
    num_batches = len(LABELS) // 15
    shown = [
        drawn(ShuffleSampler(), batch_size=15, num_batches=num_batches, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert sorted(np.concatenate([batch for rank in shown for batch in rank])) == list(range(len(LABELS)))


def test_shuffle_goes_round_again() -> None:
    batches = drawn(ShuffleSampler(), np.array([0, 1, 1]), batch_size=4, num_batches=6)
    assert np.bincount(np.concatenate(batches)).tolist() == [8, 8, 8]


@pytest.mark.parametrize(
    ("sampler", "labels", "changes", "message"),
    [
        (TripletSampler(), [0, 1, 2], {}, "no identity has two images"),
        (TripletSampler(), [0, 0, 0], {}, "1 identities among the training images"),
        (IdentitySampler(), [0, 0, 0], {}, "1 identities"),
        (IdentitySampler(), [0, 0, 1, 1, 2], {}, "holds 6 identities of 4 images, but only 2 of 3"),
        (ShuffleSampler(), [], {}, "no images"),
        (TripletSampler(), [0, 0, 1], {"batch_size": 32}, "a multiple of 3 .*values are 30 or 33$"),
        (TripletSampler(), [0, 0, 1], {"batch_size": 96, "world_size": 5}, "of 15 \\(5 process.*values are 90 or 105$"),
        (TripletSampler(), [0, 0, 1], {"batch_size": 2}, "values are 3$"),
        (TripletSampler(drop_remainder=True), [0, 0, 1], {"batch_size": 8, "world_size": 3}, "values are 9$"),
        (TripletSampler(), [0, 0, 1, 1, 2, 2], {"world_size": 4}, "4 processes need .* there are 3, 3 of them .*num_proc"),
        (TripletSampler(), [0, 0, 1, 2, 3, 4], {"world_size": 2}, "2 processes need .* there are 5, 1 of them with two"),
        (TripletSampler(), [0, 0, 1, 1, 2], {"world_size": 2}, "2 processes need .* there are 3, 2 of them with two"),
        (IdentitySampler(images_per_identity=5), [0, 0, 1], {"batch_size": 12}, "multiple of 5 .* are 10 or 15$"),
        (ShuffleSampler(), [0, 0, 1], {"batch_size": 3, "world_size": 2}, "multiple of 2 .* are 2 or 4$"),
    ],
)  # fmt: skip
def test_impossible_requests(sampler: Sampler, labels: list[int], changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        drawn(sampler, np.array(labels, dtype=np.int64), **changes)


def test_images_per_identity_must_be_positive() -> None:
    with pytest.raises(UserError, match="images_per_identity"):
        IdentitySampler(images_per_identity=0)


def test_work_does_not_grow_with_the_number_of_images() -> None:
    """A reference epoch scans all labels three times per item; here only the index, made once per epoch, depends on
    N.
    """
    labels = np.repeat(np.arange(10_000), 50)
    batches = TripletSampler().batches(labels, batch_size=96, num_batches=2000, epoch=0, seed=0, rank=0, world_size=1)
    next(batches)  # makes the index
    import time

    start = time.process_time()
    for _ in range(500):
        next(batches)
    assert (time.process_time() - start) / 500 / 96 < 20e-6  # seconds per image; measured 0.5e-6
