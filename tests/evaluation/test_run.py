"""Benchmarks that share images: each image is read and passed through the network once, and each benchmark gets the rows that it would get alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from facenet.backbones.embedder import Embedder
from facenet.data.identities import ImageList, Subset
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision
from facenet.errors import UserError
from facenet.evaluation.benchmarks.choice import Bin, HeldOut, Lfw, NoBenchmark
from facenet.evaluation.benchmarks.pair_set import PairSet
from facenet.evaluation.benchmarks.together import together
from facenet.evaluation.contract import Opened, Outcome
from facenet.evaluation.protocol import Protocol
from facenet.evaluation.run import flips, image_keys, run_benchmarks

PREPROCESS = Preprocess(size=[8, 8], fit="resize")


class Patches:
    """24 images of 6 identities, which counts how often each is read."""

    fingerprint, identities = "patches", tuple("abcdef")

    def __init__(self):
        rng = np.random.default_rng(0)
        base = rng.integers(60, 190, (6, 8, 8, 3))
        self.labels = np.arange(24) % 6
        self.images = (base[self.labels] + rng.integers(-40, 40, (24, 8, 8, 3))).astype(np.uint8)
        self.read = np.zeros(24, int)

    def __len__(self):
        return 24

    def name(self, index):
        return f"{index}.jpg"

    def stamp(self):
        return ""

    def contents(self, index):
        return None

    def load(self, index):
        self.read[index] += 1
        return self.images[index]


class Projection(Embedder):
    def __init__(self):
        super().__init__()
        self.embedding_size = 16
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(8 * 8 * 3, 16)
        self.num_images = 0

    def forward(self, images):
        self.num_images += len(images)
        return torch.nn.functional.normalize(self.layer(images.flatten(1)), dim=1)


@pytest.fixture(scope="module")
def accelerator():
    with Accelerator.start(DeviceChoice(name="cpu"), Precision(), alone=True) as started:
        yield started


def pairs(name, faces, start, *, flip="none", subtract_mean=False):
    """16 pairs over 12 images from `start` on, half of them of one identity."""
    left = np.tile(np.arange(6), 4)[:16]
    same = np.arange(16) % 2 == 0
    right = np.where(same, left + 6, (left + 1) % 6 + 6)
    return PairSet(
        name=name,
        faces=Subset(faces, np.arange(start, start + 12)),
        left=left,
        right=right,
        same=same,
        folds=np.arange(16) // 8,
        protocol=Protocol(flip=flip, subtract_mean=subtract_mean),
        batch_size=5,
    )


@pytest.mark.parametrize(
    ("second", "read", "forwards"),
    [
        ({"start": 0}, 12, 12),  # one set, judged twice
        ({"start": 6, "subtract_mean": True}, 18, 18),  # half of it shared
        ({"start": 12}, 24, 24),  # nothing
        ({"start": 0, "flip": "concat"}, 12, 24),  # with its mirror images too
        ({"start": 6, "flip": "sum"}, 18, 36),
        ({"start": 12, "flip": "concat"}, 24, 36),  # alone in having them
    ],
)
def test_what_two_benchmarks_share_is_embedded_once(accelerator, second, read, forwards):
    faces, embedder, seen = Patches(), Projection(), []
    sets = [pairs("one", faces, 0), pairs("two", faces, **second)]
    found = run_benchmarks(
        embedder, sets, PREPROCESS, accelerator, num_workers=0, progress=lambda *now: seen.append(now)
    )
    assert (faces.read <= 1).all() and faces.read.sum() == read and embedder.num_images == forwards
    assert seen[-1] == (read, read) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    for each in sets:
        alone = run_benchmarks(Projection(), [each], PREPROCESS, accelerator, num_workers=0)[each.name]
        assert found[each.name].metrics == pytest.approx(alone.metrics, abs=1e-6)
        assert found[each.name].threshold.flip == each.flip


def test_a_flip_that_others_share_only_through_a_third_is_seen(accelerator):
    """One and three share nothing, but both share with two, which has another flip."""
    faces = Patches()
    sets = [pairs("one", faces, 0), pairs("two", faces, 6, flip="sum"), pairs("three", faces, 12)]
    assert flips(sets, image_keys(sets)) == ["both", "both", "both"]
    assert flips(sets[::2], image_keys(sets[::2])) == ["none", "none"]
    found = run_benchmarks(Projection(), sets, PREPROCESS, accelerator, num_workers=0)
    assert list(found) == ["one", "two", "three"] and (faces.read == 1).all()


def test_files_of_two_lists_are_known_by_their_paths():
    first = ImageList(["a/1", "b/1"], [0, 1], ["a", "b"])
    second = ImageList(["b/1", "c/1"], [0, 1], ["b", "c"])
    sets = [Count(name="one", faces=first), Count(name="two", faces=Subset(second, [1, 0]))]
    keys = image_keys(sets)
    assert keys[0][1] == keys[1][1] and len({*keys[0], *keys[1]}) == 3


class Count(Opened):
    """A stranger's: how many rows there are. Lower is better."""

    @property
    def measures(self):
        return {"rows": True}

    def run(self, rows):
        return Outcome(metrics={"rows": float(len(rows)), "width": float(rows.shape[1])})


def test_a_strangers_benchmark_gets_its_rows_and_is_refused_unreadable_images(accelerator):
    faces = Patches()
    found = run_benchmarks(
        Projection(), [Count(name="mine", faces=faces), pairs("one", faces, 0)], PREPROCESS, accelerator, num_workers=0
    )
    assert found["mine"].metrics == {"rows": 24.0, "width": 16.0} and found["mine"].threshold is None
    with pytest.raises(
        UserError, match="mine: 1 of 24 images cannot be read, first 3.jpg: cut; mend .* or leave b.mine out"
    ):
        Count(name="mine", faces=faces, key="b.mine").without({3: "cut"})
    assert str(Count(name="mine", faces=faces)) == "mine: 24 images"


def test_benchmarks_of_a_run_and_their_names():
    lfw, held = Lfw(root="/lfw", protocol=Protocol()), HeldOut(num_pairs=60, protocol=Protocol())
    agedb = Bin(path="/sets/agedb_30.bin", protocol=Protocol())
    found = together(held, {"agedb": agedb, "lfw": lfw, "off": NoBenchmark()})
    assert [(each.name, each.key) for each in found] == [
        ("heldout", "benchmark"),
        ("agedb", "benchmarks.agedb"),
        ("lfw", "benchmarks.lfw"),
    ]
    assert agedb.name == "agedb_30"  # the one of the config is as it was
    assert [each.name for each in together(NoBenchmark(), {"agedb": agedb})] == ["agedb"]
    assert together(NoBenchmark(), {}) == []
    with pytest.raises(UserError, match=r"benchmarks\.lfw: benchmark= is called lfw, too; .* such as lfw_2"):
        together(lfw, {"lfw": agedb})
    for name in ("train", "history", "History", "dllogger-0", "failure-0", "a b", "ü/x"):
        with pytest.raises(UserError, match="give it another name"):
            together(lfw, {name: agedb})


@pytest.mark.parametrize(
    ("one", "two"), [("x", "hardest-x"), ("hardest-x", "x"), ("agedb", "AgeDB"), ("Hardest-X", "x")]
)
def test_no_two_benchmarks_write_one_file(one, two):
    agedb = Bin(path="/sets/agedb_30.bin", protocol=Protocol())
    with pytest.raises(UserError, match=rf"benchmarks\.{two}: benchmarks\.{one} writes .*\.json, too; give this one"):
        together(NoBenchmark(), {one: agedb, two: agedb})
    with pytest.raises(UserError, match=rf"benchmarks\.{two}: benchmark= writes .*\.json, too; give this one"):
        together(Bin(path=f"/sets/{one}.bin", protocol=Protocol()), {two: agedb})
    for name in (f"{one}-2", f"hardest-{two}-x", "dllogger"):
        assert [each.name for each in together(NoBenchmark(), {name: agedb, two: agedb})] == [name, two]


def test_the_name_of_the_short_one_takes_no_file_of_the_run():
    assert together(Bin(path="/sets/val.bin", protocol=Protocol()), {})[0].name == "val"
    for name in ("split", "tracking", "result"):
        with pytest.raises(UserError, match=f"benchmark: its name is '{name}'.*benchmarks.NAME="):
            together(Bin(path=f"/sets/{name}.bin", protocol=Protocol()), {})


def test_a_frozen_benchmark_of_ones_own_is_named_and_one_that_cannot_be_is_a_line():
    @dataclass(frozen=True)
    class Frozen:
        name: str = "x"
        key: str = "benchmark"

    class Fixed:
        name = property(lambda self: "x")

    (found,) = together(NoBenchmark(), {"mine": Frozen()})
    assert (found.name, found.key) == ("mine", "benchmarks.mine")
    with pytest.raises(UserError, match=r"benchmarks\.mine: Fixed lets no name and key be set"):
        together(NoBenchmark(), {"mine": Fixed()})


def test_a_named_one_is_told_by_its_own_key(tmp_path):
    (found,) = together(NoBenchmark(), {"faces": Lfw(root=str(tmp_path / "absent"), protocol=Protocol())})
    with pytest.raises(
        UserError,
        match=r"faces: .*absent is not a folder; set benchmarks\.faces\.root .* or leave benchmarks\.faces out",
    ):
        found.open()
