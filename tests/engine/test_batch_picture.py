"""The picture holds the batch's pixels, of triplets those that belong together side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from facenet.data.feed.loader import Batch
from facenet.engine.batch_picture import BatchPicture


def batch(size, seed):
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (size, 4, 5, 3), dtype=np.uint8))
    return Batch(images, torch.arange(size), np.arange(size))


@pytest.mark.parametrize(
    ("triplets", "order"),
    [(False, range(12)), (True, [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11])],
    ids=["rows", "triplets"],
)
def test_the_first_batch_is_drawn_and_all_pass_through(tmp_path, triplets, order):
    batches = [batch(12, seed) for seed in range(3)]
    observer = BatchPicture(tmp_path, triplets=triplets)
    with observer.watching(iter(batches)) as passing:
        assert list(passing) == batches
    picture = np.asarray(Image.open(tmp_path / "faces-batch.png"))
    assert picture.shape == (2 * 4, 6 * 5, 3)
    for place, row in enumerate(order):
        top, left = place // 6 * 4, place % 6 * 5
        assert np.array_equal(picture[top : top + 4, left : left + 5], batches[0].images[row].numpy())


def test_a_batch_of_huge_images_is_drawn_small(tmp_path):
    images = torch.arange(2 * 1100 * 4 * 3).reshape(2, 1100, 4, 3).to(torch.uint8)
    with BatchPicture(tmp_path, triplets=False).watching(
        iter([Batch(images, torch.arange(2), np.arange(2))])
    ) as passing:
        assert [each.images is images for each in passing] == [True]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "faces-batch.png"))[:, :2], images[0, ::3, ::3].numpy())
