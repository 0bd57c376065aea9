from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facenet.data.feed.loader import Loader
from facenet.data.sampling.reference_sampler import ReferenceSampler
from facenet.data.transforms import Augment, Preprocess
from facenet.errors import UserError

from ..conftest import NumberedFaces

LABELS = np.repeat(np.arange(30), np.arange(1, 31))  # identity i has i + 1 images: one has a single image


def drawn(sampler: ReferenceSampler, **changes: Any) -> list[NDArray[np.int64]]:
    values = {"batch_size": 24, "num_batches": 45, "epoch": 0, "seed": 11, "rank": 0, "world_size": 1, **changes}
    return list(sampler.batches(values.pop("labels", LABELS), **values))


def different(batches: list[NDArray[np.int64]]) -> int:
    return len({batch.tobytes() for batch in batches})


def test_four_workers_repeat_each_batch_four_times_and_every_epoch() -> None:
    """As measured on the reference: 45 steps with 4 workers hold 12 batches, and epoch 2 is epoch 1."""
    sampler = ReferenceSampler(repeat_batches=True, num_workers=4)
    first, second = drawn(sampler), drawn(sampler, epoch=1)
    assert len(first) == 45
    assert different(first) == 12
    for at in range(0, 44, 4):
        assert different(first[at : at + 4]) == 1
    assert np.array_equal(first, second)


def test_one_worker_repeats_epochs_only() -> None:
    sampler = ReferenceSampler(repeat_batches=True, num_workers=1)
    first, second = drawn(sampler), drawn(sampler, epoch=1)
    assert different(first) == 45
    assert np.array_equal(first, second)


def test_processes_and_seeds_differ_where_batches_repeat() -> None:
    sampler = ReferenceSampler(repeat_batches=True, num_workers=4)
    runs = [drawn(sampler, rank=rank, seed=seed, world_size=2) for rank in range(2) for seed in range(3)]
    assert different([batch for run in runs for batch in run]) == 6 * 12


def test_without_repeats_the_drawing_is_the_same() -> None:
    """The switch changes how often a batch comes, and nothing else: what is compared is the repetition."""
    mended = ReferenceSampler(repeat_batches=False, num_workers=4)
    first = drawn(mended)
    assert different(first + drawn(mended, epoch=1) + drawn(mended, rank=1, world_size=2, batch_size=48)) == 3 * 45
    assert np.array_equal(first[:12], drawn(ReferenceSampler(repeat_batches=True, num_workers=4))[::4])


def test_identities_are_uniform_and_positives_any_image_of_theirs() -> None:
    sampler = ReferenceSampler(repeat_batches=False, num_workers=1)
    batches = [batch.reshape(3, -1) for batch in drawn(sampler, batch_size=2997, num_batches=60)]
    anchor, positive, negative = np.concatenate(batches, axis=1)
    assert (LABELS[anchor] == LABELS[positive]).all()
    assert (LABELS[anchor] != LABELS[negative]).all()
    anchors = np.bincount(LABELS[anchor], minlength=30)
    assert anchors[0] == 0
    assert np.allclose(anchors[1:] / len(anchor), 1 / 29, rtol=0.1)
    assert np.allclose(np.bincount(LABELS[negative], minlength=30) / len(negative), 1 / 30, rtol=0.15)
    for label in (1, 4, 29):  # the anchor's own file as often as any other
        same = (positive == anchor)[LABELS[anchor] == label].mean()
        assert same == pytest.approx(1 / (label + 1), rel=0.25)


def test_processes_draw_from_all_identities() -> None:
    sampler = ReferenceSampler(repeat_batches=False, num_workers=1)
    for rank in range(3):
        batches = drawn(sampler, rank=rank, world_size=3, num_batches=100)
        assert set(LABELS[np.concatenate(batches)].tolist()) == set(range(30))


def test_what_does_not_divide_is_left_out() -> None:
    sampler = ReferenceSampler(repeat_batches=True, num_workers=4)
    assert sampler.images_per_step(96, 3) == 90
    assert {len(batch) for batch in drawn(sampler, batch_size=96, world_size=3)} == {30}


def test_label_gaps_are_never_drawn() -> None:
    labels = np.array([1, 1, 4, 4, 4, 6])
    for batch in drawn(ReferenceSampler(repeat_batches=False, num_workers=1), labels=labels):
        anchor, positive, negative = labels[batch].reshape(3, -1)
        assert (anchor == positive).all() and (anchor != negative).all() and set(anchor) <= {1, 4}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_flips_of_a_batch_repeat_with_it(num_workers: int) -> None:
    """In the reference they come from the generator that draws the images. A mended run flips anew."""

    def pixels(sampler: ReferenceSampler, epoch: int) -> list[bytes]:
        loader = Loader(faces, Preprocess(size=[4, 4]), Augment(flip=0.5), num_workers=num_workers)
        batches = drawn(sampler, labels=faces.labels, num_batches=8, epoch=epoch)
        return [batch.images.numpy().tobytes() for batch in loader.epoch(batches, epoch=epoch, origin=sampler.origin)]

    faces = SidedFaces([0, 0, 1, 1])
    repeating = ReferenceSampler(repeat_batches=True, num_workers=4)
    first = pixels(repeating, 0)
    assert first == pixels(repeating, 3)
    assert first == [first[0]] * 4 + [first[4]] * 4
    mended = ReferenceSampler(repeat_batches=False, num_workers=4)
    assert len(set(pixels(mended, 0) + pixels(mended, 1))) == 16


class SidedFaces(NumberedFaces):
    """The right half is brighter, so that a mirrored image is another one."""

    def load(self, index: int) -> NDArray[np.uint8]:
        return np.concatenate([np.full((4, 2, 3), index, np.uint8), np.full((4, 2, 3), 100 + index, np.uint8)], axis=1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 1, 2], "no identity has two images"), ([0, 0, 0], "1 identities among the training images")],
)
def test_faces_that_make_no_triplet(labels: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        drawn(ReferenceSampler(repeat_batches=True, num_workers=4), labels=np.array(labels))


def test_at_least_one_worker() -> None:
    with pytest.raises(UserError, match="sampler.num_workers: expected 1 or more, got 0"):
        ReferenceSampler(repeat_batches=True, num_workers=0)
