import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from facenet.backbones.embedder import Embedder
from facenet.data.identities import Subset, UnreadableImage
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision
from facenet.errors import UserError
from facenet.evaluation.benchmarks.choice import HeldOut, PairSet
from facenet.evaluation.embed import Interrupted, embed, evaluating
from facenet.evaluation.protocol import Protocol
from facenet.evaluation.run import run_benchmarks

SIZE = 8
PREPROCESS = Preprocess(size=[SIZE, SIZE])


class Patches:
    """Images in memory: 8 identities of 6 images, a pattern each with noise on it."""

    def __init__(self, broken=()):
        rng = np.random.default_rng(0)
        self.labels = np.repeat(np.arange(8), 6)
        patterns = rng.integers(40, 216, size=(8, SIZE, SIZE, 3))
        self.images = (patterns[self.labels] + rng.integers(-40, 40, size=(48, SIZE, SIZE, 3))).astype(np.uint8)
        self.identities = tuple("abcdefgh")
        self.fingerprint = "0" * 16
        self.broken = set(broken)

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        return f"{self.identities[self.labels[index]]}/{index}.jpg"

    def load(self, index):
        if index in self.broken:
            raise UnreadableImage(self.name(index), "truncated")
        return self.images[index]


class Projection(Embedder):
    """Pixels through one matrix; counts what it is shown."""

    def __init__(self, size=16):
        super().__init__()
        torch.manual_seed(0)
        self.embedding_size = size
        self.layer = nn.Linear(3 * SIZE * SIZE, size)
        self.dropout = nn.Dropout(0.5)
        self.num_images = 0

    def features(self, images):
        self.num_images += len(images)
        return self.dropout(self.layer((images - 0.5).flatten(1)))


@pytest.fixture
def accelerator():
    return Accelerator("cpu", Precision(), rank=0, local_rank=0, world_size=1)


def expected(embedder, images, mirror=False):
    pixels = torch.from_numpy(images[:, :, ::-1].copy() if mirror else images)
    with torch.no_grad(), evaluating(embedder):
        return embedder(PREPROCESS.normalize(pixels)).numpy()


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_rows_are_the_networks_in_order(accelerator, num_workers):
    faces, embedder = Patches(), Projection()
    rows = embed(embedder, faces, PREPROCESS, accelerator, batch_size=7, num_workers=num_workers)
    assert rows.dtype == np.float32 and rows.shape == (48, 16)
    np.testing.assert_allclose(rows, expected(embedder, faces.images), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_flip_joins_or_adds_the_mirror_image(accelerator):
    faces, embedder = Patches(), Projection()
    plain, mirrored = expected(embedder, faces.images), expected(embedder, faces.images, mirror=True)
    joined = embed(embedder, faces, PREPROCESS, accelerator, batch_size=48, flip="concat")
    np.testing.assert_allclose(joined, unit(np.concatenate([plain, mirrored], axis=1)), atol=1e-6)
    added = embed(embedder, faces, PREPROCESS, accelerator, batch_size=48, flip="sum")
    np.testing.assert_allclose(added, unit(plain + mirrored), atol=1e-6)


def test_chosen_images_in_the_given_order_and_progress(accelerator):
    faces, embedder, seen = Patches(), Projection(), []
    chosen = np.array([40, 3, 17])
    options = {"progress": lambda done, total: seen.append((done, total))}
    rows = embed(embedder, Subset(faces, chosen), PREPROCESS, accelerator, batch_size=2, **options)
    np.testing.assert_allclose(rows, expected(embedder, faces.images[chosen]), atol=1e-6)
    assert seen == [(2, 3), (3, 3)]


def test_progress_that_says_so_ends_it(accelerator):
    embedder, seen = Projection(), []

    def progress(*now):
        seen.append(now)
        return len(seen) == 2

    with pytest.raises(Interrupted):
        embed(embedder, Patches(), PREPROCESS, accelerator, batch_size=9, progress=progress)
    assert embedder.num_images == 18


def test_sixteen_bit_forward_passes_give_float32_rows(accelerator):
    faces, embedder = Patches(), Projection()
    full = embed(embedder, faces, PREPROCESS, accelerator, batch_size=16, flip="concat")
    with Accelerator.start(DeviceChoice(name="cpu"), Precision(dtype="bf16")) as half:
        rows = embed(embedder, faces, PREPROCESS, half, batch_size=16, flip="concat")
    assert rows.dtype == np.float32 and (rows * full).sum(axis=1).min() > 0.999 and not np.array_equal(rows, full)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_training_goes_on_after_an_evaluation(accelerator):
    faces, embedder = Patches(), Projection()
    preprocess = Preprocess(
        size=[SIZE, SIZE], mean=[0.3] * 3
    )  # its constants are first used, and kept, in the evaluation
    embed(embedder, faces, preprocess, accelerator, batch_size=16)
    embedder(preprocess.normalize(torch.from_numpy(faces.images))).sum().backward()
    assert embedder.layer.weight.grad is not None


def test_nothing_to_embed_is_an_empty_array(accelerator):
    empty = np.empty(0, np.int64)
    rows = embed(Projection(), Subset(Patches(), empty), PREPROCESS, accelerator, batch_size=2, flip="concat")
    assert rows.shape == (0, 32)


def test_modes_are_left_as_they_were(accelerator):
    embedder = Projection().train()
    embedder.layer.eval()  # frozen in a training network
    embed(embedder, Patches(), PREPROCESS, accelerator, batch_size=16)
    assert embedder.training and embedder.dropout.training and not embedder.layer.training
    assert embedder.layer.weight.requires_grad and not embedder.layer.weight.is_inference()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_unreadable_image_is_named_and_no_thread_is_left(accelerator, num_workers):
    embedder, threads = Projection().train(), threading.active_count()
    with pytest.raises(UserError, match=r"b/9.jpg: cannot be read \(truncated\)"):
        embed(embedder, Patches(broken=[9]), PREPROCESS, accelerator, batch_size=4, num_workers=num_workers)
    assert threading.active_count() == threads and embedder.training


@pytest.mark.parametrize(("flip", "times"), [("none", 1), ("concat", 2), ("sum", 2)])
def test_a_benchmark_forwards_each_image_once(accelerator, flip, times):
    benchmark = HeldOut(num_pairs=100, num_folds=5, protocol=Protocol(flip=flip), batch_size=16)
    pair_set, embedder = benchmark.open(Patches()), Projection()
    result = run_benchmarks(embedder, [pair_set], PREPROCESS, accelerator)["heldout"]
    assert embedder.num_images == times * len(pair_set.faces) < 2 * len(pair_set.same)
    assert result.files["heldout.json"]["num_pairs"] == 100 and len(result.folds) == 5 and result.threshold.flip == flip
    assert result.metrics["accuracy"] > 0.95  # a random projection keeps patterns apart


def test_pairs_are_judged_on_their_own_images(accelerator):
    faces = Patches()
    left, right = np.array([0, 0, 6, 6, 1, 1, 7, 7]), np.array([1, 6, 7, 12, 2, 8, 8, 13])
    same, folds = np.array([True, False] * 4), np.repeat([0, 1], 4)
    shown = PairSet(
        name="x", faces=faces, left=left, right=right, same=same, folds=folds, protocol=Protocol(), batch_size=9
    )
    result = run_benchmarks(Projection(), [shown], PREPROCESS, accelerator)["x"]
    assert result.metrics["accuracy"] == 1.0 and 0 < result.threshold.value < 2


def test_embeddings_that_are_not_finite_are_refused(accelerator):
    embedder = Projection()
    with torch.no_grad():
        embedder.layer.bias[3] = float("nan")
    pair_set = HeldOut(num_pairs=40, num_folds=4, protocol=Protocol()).open(Patches())
    with pytest.raises(UserError, match=r"heldout: \d+ of \d+ embeddings are not finite, first that of \w/\d+.jpg"):
        run_benchmarks(embedder, [pair_set], PREPROCESS, accelerator)


SHARED = """
import sys
import numpy as np
sys.path.insert(0, "{here}")
from test_embed import PREPROCESS, Patches, Projection, Subset, embed
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision
alone = Accelerator("cpu", Precision(), rank=0, local_rank=0, world_size=1)
with Accelerator.start(DeviceChoice(name="cpu"), Precision(), timeout_s=300) as device:
    # 6 batches over the processes, the last of 3 images; 1 batch, so that some process has none; none at all
    few, none = Subset(Patches(), [5, 3, 40]), Subset(Patches(), np.array([], np.int64))
    for faces, options in ((Patches(), {{}}), (Patches(), {{"flip": "concat"}}), (few, {{}}), (none, {{}})):
        network, done = Projection(), []
        ours = embed(network, faces, PREPROCESS, device, batch_size=9, progress=lambda *now: done.append(now), **options)
        shared = network.num_images
        whole = embed(Projection(), faces, PREPROCESS, alone, batch_size=9, **options)
        assert ours.dtype == np.float32 and np.array_equal(ours, whole), options
        if len(faces) == 48 and not options:
            assert shared == ([27, 21] if device.world_size == 2 else [18, 18, 12])[device.rank]
            assert done[-1][0] in (48, 42, 36) and done[-1][1] == 48
"""


@pytest.mark.parametrize("num_processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_share_the_images_and_each_gets_what_one_would(together, num_processes):
    together(SHARED.format(here=Path(__file__).parent), num_processes)
