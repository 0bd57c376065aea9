from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facenet.data.feed.loader import Batch, Loader, Share
from facenet.data.identities import FolderFaces, Subset
from facenet.data.sampling.sampler import ShuffleSampler
from facenet.data.shards.faces import ShardFaces
from facenet.data.shards.loader import ShardLoader, Stream, draw_moved_order, stretch
from facenet.data.shards.places import Shard
from facenet.data.shards.writing import ORDER_SEED, write_shards
from facenet.data.transforms import Augment, Preprocess
from facenet.errors import UserError

from .conftest import Server

pytest.importorskip("webdataset", reason="needs facenet[shards]")
PREPROCESS = Preprocess(size=[16, 16])


class Opened(ShardFaces):
    """Remembers which shards were opened, in order."""

    def __init__(self, shards: str) -> None:
        super().__init__(shards)
        self.seen: list[int] = []

    def open(self, shard: int) -> Shard:
        self.seen.append(shard)
        return super().open(shard)


def loader(shards: str, *, faces: ShardFaces | None = None, keep: slice = slice(None), **options: Any) -> ShardLoader:
    source = faces or ShardFaces(shards)
    part = Subset(source, np.arange(len(source))[keep], keep_labels=True)
    prefetch = options.pop("prefetch", 2)
    made = ShardLoader(part, PREPROCESS, Augment(flip=0.5), **{"window": 10, "num_workers": 2, **options})
    made.prefetch = prefetch
    return made


def batches(
    made: ShardLoader, *, epoch: int = 0, rank: int = 0, world_size: int = 1, first: int = 0, size: int = 6
) -> list[Batch]:
    num = len(made.faces) // size
    sizes = {"batch_size": size, "num_batches": num}
    return list(made.draw(ShuffleSampler(), Share(**sizes, epoch=epoch, rank=rank, world_size=world_size, first=first)))


def shown(found: list[Batch]) -> list[int]:
    return [index for batch in found for index in batch.indices.tolist()]


def reading_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(("facenet-shards", "facenet-decode"))]


@settings(max_examples=200, deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    world_size=st.integers(1, 5),
    window=st.integers(0, 20),
    seed=st.integers(0, 99),
)
def test_processes_share_the_images_evenly_and_hold_few(
    counts: list[int], world_size: int, window: int, seed: int
) -> None:
    bounds = np.concatenate([[0], np.cumsum(counts)])
    order = np.random.default_rng(seed).permutation(len(counts))
    parts = [stretch(bounds, order, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(sum(counts)))
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1 and min(sizes) == sum(counts) // world_size
    places = draw_moved_order(len(parts[0]), window, np.random.default_rng(seed))
    assert sorted(places.tolist()) == list(range(len(parts[0])))
    assert all(place <= p + window for p, place in enumerate(places.tolist()))
    assert window or places.tolist() == sorted(places.tolist())


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_image_comes_once_an_epoch(written: Path, world_size: int) -> None:
    found = [batches(loader(str(written)), rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [len(each) for each in found] == [5] * world_size
    assert sorted(index for each in found for index in shown(each)) == list(range(30))
    dropped = [batches(loader(str(written)), rank=rank, world_size=2, size=8) for rank in range(2)]
    seen = [index for each in dropped for index in shown(each)]
    assert [len(each) for each in dropped] == [3, 3] and len(set(seen)) == len(seen) == 24


def test_an_order_belongs_to_its_key(written: Path) -> None:
    def order(seed: int = 0, **options: int) -> list[int]:
        return shown(batches(loader(str(written), seed=seed), **options))

    assert order() == order() != sorted(order())
    different = [order(), order(epoch=1), order(seed=1), order(epoch=2)]
    assert len({tuple(each) for each in different}) == 4
    unmixed = shown(batches(loader(str(written), window=1), epoch=1))
    starts = [index for index in unmixed if index in (0, 8, 16, 24)]
    assert unmixed == [index for at in starts for index in range(at, min(at + 8, 30))] and starts != sorted(starts)
    still = loader(str(written), window=0)
    assert shown(batches(still)) == shown(batches(still, epoch=1)) == list(range(30)), "validation reads as it lies"


def test_images_and_labels_are_those_of_the_folder_to_the_last_bit(people: Path, written: Path) -> None:
    order = np.random.default_rng(ORDER_SEED).permutation(30)
    folder = FolderFaces(people)
    for workers in (0, 1, 3):
        made = batches(loader(str(written), num_workers=workers), epoch=3)
        rows = [batch.indices for batch in made]
        relabelled = Subset(folder, order)
        expected = list(Loader(relabelled, PREPROCESS, Augment(flip=0.5), num_workers=0).epoch(rows, epoch=3))
        for left, right in zip(made, expected, strict=True):
            assert torch.equal(left.images, right.images) and torch.equal(left.labels, right.labels)
    assert not reading_threads()


@pytest.mark.parametrize("first", [1, 4, 5])
def test_going_on_gives_the_rest_and_reads_only_that(written: Path, first: int) -> None:
    whole = batches(loader(str(written)), epoch=1)
    faces = Opened(str(written))
    rest = batches(loader("", faces=faces), epoch=1, first=first)
    assert len(rest) == 5 - first
    for left, right in zip(whole[first:], rest, strict=True):
        assert torch.equal(left.images, right.images) and np.array_equal(left.indices, right.indices)
    needed = {faces.shard_of(index) for index in shown(rest)}
    assert set(faces.seen) == needed and len(faces.seen) == len(needed)


def test_only_shards_that_hold_wanted_images_are_opened_and_by_few(written: Path) -> None:
    faces = Opened(str(written))
    batches(loader("", faces=faces, keep=slice(24, 30)))
    assert faces.seen == [3]
    both = [Opened(str(written)) for _ in range(2)]
    for rank in range(2):
        batches(loader("", faces=both[rank]), rank=rank, world_size=2)
    assert len(both[0].seen) + len(both[1].seen) <= 5, "one shard is shared, the others are not"


def test_no_more_than_the_buffer_is_held(written: Path) -> None:
    faces = ShardFaces(str(written))
    with Stream(faces, np.arange(30), limit=7) as stream:
        for row in range(30):
            time.sleep(0.002)
            assert len(stream.held) <= 7
            with faces.open(faces.shard_of(row)) as shard:
                assert stream.take(row) == faces.read(shard, row)
    with Stream(faces, np.arange(30), limit=2):
        pass  # full, and closed by somebody who takes nothing
    assert not reading_threads()


@pytest.mark.parametrize("num_workers", [0, 4])
def test_every_buffer_is_large_enough_not_to_wait_for_itself(written: Path, num_workers: int) -> None:
    for window in (0, 1, 29, 1000):
        for size in (1, 30):
            made = loader(str(written), window=window, num_workers=num_workers, prefetch=0)
            assert sorted(shown(batches(made, size=size))) == list(range(30))


def test_unreadable_images_are_replaced_counted_and_limited(
    people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = shutil.copytree(people, tmp_path / "people")
    (root / "Ann" / "0.jpg").write_bytes(b"\xff\xd8 broken")
    write_shards(FolderFaces(root), tmp_path / "out", images_per_shard=8)
    made = loader(str(tmp_path / "out"), max_unreadable=0.05)
    with caplog.at_level(logging.WARNING):
        first, second = batches(made, epoch=0), batches(made, epoch=1)
    faces = made.source
    (name,) = made.unreadable
    assert name.startswith(f"{tmp_path}/out/shard-") and "@" in name and name in caplog.text
    for found in (first, second):
        missing = set(range(30)) - set(shown(found))
        twice = {index for index in shown(found) if shown(found).count(index) == 2}
        assert {faces.name(index) for index in missing} == {name} and len(twice) == 1
        assert {faces.labels[index] for index in missing | twice} == {0}, "by another of the same identity"
    with pytest.raises(
        UserError, match=r"1 of 30 images cannot be read, more than data.max_unreadable=0 allows; .*shard-"
    ):
        batches(loader(str(tmp_path / "out")))
    assert not reading_threads()


def test_what_breaks_while_it_is_read_ends_the_epoch_and_its_threads(written: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(written, tmp_path / "copied")
    made = loader(str(copied), window=0)
    (copied / "shard-000002.tar").unlink()
    with pytest.raises(UserError, match="shard-000002.tar: cannot be read .No such file or directory"):
        batches(made)
    shutil.copy(written / "shard-000001.tar", copied / "shard-000002.tar")
    with pytest.raises(UserError, match=r"shard-000002.tar@1536 \(not the bytes that the index says; copy"):
        batches(made)  # of the same length, with other labels
    (copied / "shard-000002.tar").write_bytes((written / "shard-000002.tar").read_bytes()[:-512])
    with pytest.raises(UserError, match="shard-000002.tar: has .* bytes, the index says .*another file"):
        batches(made)
    passage = loader(str(written)).draw(ShuffleSampler(), Share(batch_size=6, num_batches=5))
    next(passage)
    passage.close()  # type: ignore[attr-defined]
    assert not reading_threads()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_gives_the_batches_of_the_files(written: Path, server: Server, ranges: bool) -> None:
    server.ranges, server.cut, server.cuts = ranges, 1 << 60, 0
    far = loader(f"{server.address}/written")
    server.asked.clear()
    near = loader(str(written))
    for epoch, first in ((0, 0), (1, 3)):
        pairs = zip(batches(far, epoch=epoch, first=first), batches(near, epoch=epoch, first=first), strict=True)
        assert all(torch.equal(left.images, right.images) for left, right in pairs)
    assert sum(path.endswith(".tar") for path, _ in server.asked) <= 8, "one request a shard and epoch"
