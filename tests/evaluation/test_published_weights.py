"""Two published networks on the whole of LFW must score what was measured for them elsewhere, fold by fold."""

import numpy as np
import pytest

from facenet.backbones.mobilefacenet import MobileFaceNet
from facenet.backbones.weights import load_weights
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import Precision
from facenet.evaluation.benchmarks.choice import Lfw
from facenet.evaluation.embed import embed
from facenet.evaluation.protocol import Protocol, verify

pytestmark = [pytest.mark.slow, pytest.mark.data]

BLOCKS = [[2, 64, 5, 2], [4, 128, 1, 2], [2, 128, 6, 1], [4, 128, 1, 2], [2, 128, 2, 1]]
POINTS = 0.002  # 0.2 points: threshold grids and resize filters differ by so much


@pytest.fixture(scope="module")
def pair_set(lfw_dir, shared_data):
    return Lfw(root=str(lfw_dir), pairs=str(shared_data / "lfw" / "pairs.txt"), protocol=Protocol()).open()


def embedded(pair_set, weights, size, fit, std, flip):
    """Embeddings of the 7,701 images by a published network, at `size` [H, W]."""
    network = MobileFaceNet(blocks=BLOCKS, input_size=size)
    load_weights(network, weights, whole=True)
    accelerator = Accelerator("cpu", Precision(), rank=0, local_rank=0, world_size=1)
    preprocess = Preprocess(size=size, fit=fit, interpolation="bilinear", mean=[0.5] * 3, std=[std] * 3)
    network = accelerator.prepare(network)
    return embed(network, pair_set.faces, preprocess, accelerator, batch_size=64, flip=flip, num_workers=1)


def judge(embeddings, pair_set, **settings):
    return verify(embeddings, pair_set.left, pair_set.right, pair_set.same, pair_set.folds, Protocol(**settings))


@pytest.fixture(scope="module")
def square(pair_set, shared_data):
    weights = shared_data / "weights" / "bubbliiiing_arcface_mobilefacenet_112x112.pth"
    return embedded(pair_set, weights, [112, 112], "resize", 0.5, "none")


@pytest.fixture(scope="module")
def narrow(pair_set, shared_data):
    """Columns 8 to 103 of the square crop, image and mirror image joined; pixels (x - 127.5) / 128."""
    weights = shared_data / "weights" / "xiaoccer_mobilefacenet_068_112x96.ckpt"
    return embedded(pair_set, weights, [112, 96], "centre_crop", 128 / 255, "concat")


@pytest.mark.parametrize("settings", [{}, {"distance": "cosine"}, {"thresholds": "reference"}])
def test_square_network_one_pass(square, pair_set, settings):
    result = judge(square, pair_set, **settings)
    folds = [97.83, 98.67, 98.83, 98.50, 97.83, 99.17, 98.33, 98.83, 99.50, 99.00]
    assert result.accuracy == pytest.approx(0.9865, abs=POINTS)
    assert 100 * np.array(result.fold_accuracies) == pytest.approx(folds, abs=0.51)
    assert result.tar_at_far[1e-3].tar == pytest.approx(0.90, abs=0.03)


@pytest.mark.nightly
def test_narrow_network_with_flip(narrow, pair_set):
    result = judge(narrow, pair_set, flip="concat")
    assert result.accuracy == pytest.approx(0.9900, abs=POINTS)


@pytest.mark.nightly
def test_narrow_network_with_flip_and_mean(narrow, pair_set):
    result = judge(narrow, pair_set, flip="concat", subtract_mean=True)
    folds = [98.83, 99.17, 99.17, 98.83, 98.67, 99.50, 99.17, 99.00, 99.83, 99.50]
    assert result.accuracy == pytest.approx(0.9917, abs=POINTS)
    assert 100 * np.array(result.fold_accuracies) == pytest.approx(folds, abs=0.51)
