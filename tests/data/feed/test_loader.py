from __future__ import annotations

import logging
import threading
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.feed.loader import Batch, Loader
from facenet.data.sampling.sampler import TripletSampler
from facenet.data.transforms import Augment, Preprocess
from facenet.errors import UserError

from ..conftest import NumberedFaces

PREPROCESS = Preprocess(size=[4, 4])


def batches_of(*rows: list[int]) -> list[NDArray[np.int64]]:
    return [np.array(row, dtype=np.int64) for row in rows]


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("facenet-decode")]


@pytest.mark.parametrize("num_workers", [0, 3])
def test_images_labels_and_indices_belong_together(num_workers: int) -> None:
    loader = Loader(NumberedFaces([0, 0, 1, 1, 2]), PREPROCESS, num_workers=num_workers)
    first, second = loader.epoch(batches_of([4, 0, 3], [2, 2]))
    assert first.images[:, 0, 0, 0].tolist() == [4, 0, 3]
    assert first.labels.tolist() == [2, 0, 1]
    assert first.images.shape == (3, 4, 4, 3)
    assert first.images.dtype == torch.uint8
    assert first.labels.dtype == torch.int64
    assert second.indices.tolist() == [2, 2]
    assert second.labels.tolist() == [1, 1]
    assert not list(loader.epoch([]))
    assert not decoding_threads()


def drawn_epoch(num_workers: int, epoch: int = 0, rank: int = 0, seed: int = 0) -> list[Batch]:
    albumentations = pytest.importorskip("albumentations")
    faces = SyntheticFaces(num_identities=6, images_per_identity=5, size=32)
    augment = Augment(flip=0.5, pipeline=[albumentations.GaussNoise(p=0.7), albumentations.CoarseDropout(p=0.7)])
    loader = Loader(faces, Preprocess(size=[24, 24]), augment, num_workers=num_workers, seed=seed)
    draws = TripletSampler().batches(faces.labels, batch_size=12, num_batches=10, epoch=0, seed=0, rank=0, world_size=1)
    return list(loader.epoch(draws, epoch=epoch, rank=rank))


def test_threads_do_not_change_a_pixel() -> None:
    inline, threaded = drawn_epoch(0), drawn_epoch(4)
    assert len(inline) == len(threaded) == 10
    for left, right in zip(inline, threaded, strict=True):
        assert torch.equal(left.images, right.images)
        assert torch.equal(left.labels, right.labels)
        assert np.array_equal(left.indices, right.indices)


def test_the_same_images_look_different_in_another_epoch_rank_or_seed() -> None:
    runs = [drawn_epoch(2), drawn_epoch(2, epoch=1), drawn_epoch(2, rank=1), drawn_epoch(2, seed=1)]
    for position in range(10):
        assert len({run[position].images.numpy().tobytes() for run in runs}) == 4
        assert all(np.array_equal(run[position].indices, runs[0][position].indices) for run in runs)


def test_one_image_twice_in_a_batch_is_augmented_twice() -> None:
    albumentations = pytest.importorskip("albumentations")
    loader = Loader(
        NumberedFaces([0, 1]), PREPROCESS, Augment(pipeline=[albumentations.GaussNoise(p=1.0)]), num_workers=0
    )
    (batch,) = loader.epoch(batches_of([1, 1, 1]))
    assert len({image.tobytes() for image in batch.images.numpy()}) == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_unreadable_image_is_replaced_within_its_identity_counted_and_named(
    num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    loader = Loader(
        NumberedFaces([0, 1, 1, 1, 2], broken=(1, 2)), PREPROCESS, num_workers=num_workers, max_unreadable=0.5
    )
    with caplog.at_level(logging.WARNING):
        shown = list(loader.epoch(batches_of([0, 1, 2], [1, 1, 4])))
    assert [batch.indices.tolist() for batch in shown] == [[0, 3, 3], [3, 3, 4]]
    assert shown[0].images[:, 0, 0, 0].tolist() == [0, 3, 3]
    assert shown[0].labels.tolist() == [0, 1, 1]
    assert loader.unreadable == {"face1": "truncated", "face2": "truncated"}
    assert sum("face1" in record.message for record in caplog.records) == 1


def test_an_identity_without_a_readable_image_gives_way_to_the_next() -> None:
    loader = Loader(NumberedFaces([0, 0, 1, 1, 2, 2], broken=(4, 5)), PREPROCESS, num_workers=0, max_unreadable=0.5)
    (batch,) = loader.epoch(batches_of([4, 5, 2]))
    assert batch.indices.tolist() == [0, 0, 2]
    assert batch.labels.tolist() == [0, 0, 1]


def test_only_the_first_few_are_named(caplog: pytest.LogCaptureFixture) -> None:
    loader = Loader(
        NumberedFaces([0] * 20 + [1], broken=tuple(range(10))), PREPROCESS, num_workers=0, max_unreadable=0.9
    )
    with caplog.at_level(logging.WARNING):
        list(loader.epoch(batches_of(list(range(20)))))
    assert len(loader.unreadable) == 10
    assert sum("unreadable image replaced" in record.message for record in caplog.records) == 5
    assert sum("counted without being named" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_unreadable_images_stop_the_run(num_workers: int) -> None:
    loader = Loader(
        NumberedFaces([0] * 50 + [1] * 50, broken=(7, 8, 9)), PREPROCESS, num_workers=num_workers, max_unreadable=0.02
    )
    with pytest.raises(
        UserError, match=r"3 of 100 images cannot be read, more than data.max_unreadable=0.02.*face\d \(truncated\)"
    ):
        list(loader.epoch(batches_of(*([index] for index in range(100)))))
    assert not decoding_threads()


def test_nothing_readable_at_all() -> None:
    loader = Loader(NumberedFaces([0, 1], broken=(0, 1)), PREPROCESS, num_workers=0, max_unreadable=1.0)
    with pytest.raises(UserError, match="none of the images can be read"):
        list(loader.epoch(batches_of([0])))


class SlowFaces(NumberedFaces):
    loaded = 0

    def load(self, index: int) -> NDArray[np.uint8]:
        self.loaded += 1
        time.sleep(0.005)
        return super().load(index)


def test_closing_early_ends_the_threads_and_the_work() -> None:
    faces = SlowFaces([0, 1])
    epoch = Loader(faces, PREPROCESS, num_workers=3).epoch(batches_of(*([0] * 20 for _ in range(50))))
    next(epoch)
    assert decoding_threads()
    epoch.close()  # type: ignore[attr-defined]
    assert not decoding_threads()
    assert faces.loaded < 200  # of 1,000


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_in_the_loop_leaves_no_thread(error: type[BaseException]) -> None:
    def loop() -> None:
        for _ in Loader(NumberedFaces([0, 1]), PREPROCESS, num_workers=2).epoch(batches_of(*([0] for _ in range(50)))):
            raise error

    with pytest.raises(error):
        loop()
    assert not decoding_threads()


def test_an_error_in_a_thread_or_in_the_sampler_reaches_the_caller() -> None:
    class Bug(NumberedFaces):
        def load(self, index: int) -> NDArray[np.uint8]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(Loader(Bug([0, 1]), PREPROCESS, num_workers=2).epoch(batches_of([0])))
    draws = TripletSampler().batches(np.arange(4), batch_size=3, num_batches=1, epoch=0, seed=0, rank=0, world_size=1)
    with pytest.raises(UserError, match="no identity has two"):
        list(Loader(NumberedFaces([0, 1]), PREPROCESS, num_workers=2).epoch(draws))
    assert not decoding_threads()


def test_no_more_is_prefetched_than_asked() -> None:
    taken = []

    def rows() -> object:
        for number in range(100):
            taken.append(number)
            yield np.array([0], dtype=np.int64)

    epoch = Loader(NumberedFaces([0, 1]), PREPROCESS, num_workers=2, prefetch=3).epoch(rows())  # type: ignore[arg-type]
    next(epoch)
    assert len(taken) == 2 + 3 + 1
    epoch.close()  # type: ignore[attr-defined]
