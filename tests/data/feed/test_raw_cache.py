"""The cache shows the pixels of the exact way, is made once, and never shows damage."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.feed.buffers import Buffers
from facenet.data.feed.cached_loader import CachedLoader, MappedImages, ResidentImages, rows_in
from facenet.data.feed.choice import Need, Room, choose, free_disk, free_memory
from facenet.data.feed.loader import Loader, mirror_rows
from facenet.data.feed.raw_cache import RawCache, Stopped, cache_place, exists_or_comes, open_cache
from facenet.data.identities import FolderFaces, Subset
from facenet.data.transforms import Augment, Preprocess
from facenet.errors import UserError
from facenet.files.folders import MARK, partial_of

from ..conftest import MakeFolder, NumberedFaces


class Stamped(NumberedFaces):
    def stamp(self) -> str:
        return "1" * 16


def made(faces: Any, preprocess: Preprocess, folder: Path, **options: Any) -> RawCache:
    return open_cache(faces, preprocess, cache_place(faces, preprocess, folder), **{"num_threads": 2, **options})


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> FolderFaces:
    """40 JPEGs of 61 x 75 pixels, of 8 identities."""
    root = tmp_path_factory.mktemp("people")
    faces = SyntheticFaces(num_identities=8, images_per_identity=5, size=75)
    for index in range(40):
        folder = root / f"p{faces.labels[index]}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(faces.load(index)[:61]).save(folder / f"{index}.jpg", quality=90)
    return FolderFaces(root)


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(size=[48, 40]),
        Preprocess(size=[48, 48], fit="centre_crop", crop=0.8),
        Preprocess(size=[32, 56], fit="resize", interpolation="bilinear", mean=[0.5] * 3),
    ],
)
@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_the_files_to_the_last_bit(
    photographs: FolderFaces, tmp_path: Path, preprocess: Preprocess, resident: bool, num_workers: int
) -> None:
    training = Subset(Subset(photographs, np.arange(39, 3, -1)), np.arange(0, 36, 2), keep_labels=True)
    options: dict[str, Any] = {"num_workers": num_workers, "seed": 5}
    augment = Augment(flip=0.5)
    cache = made(photographs, preprocess, tmp_path)
    images = ResidentImages(cache, torch.device("cpu"), num_threads=2) if resident else MappedImages(cache, Buffers())
    exact = Loader(training, preprocess, augment, **options)
    cached = CachedLoader(training, preprocess, augment, source=photographs, images=images, **options)
    draws = [np.random.default_rng(number).integers(0, 18, 12) for number in range(6)]
    pairs = list(zip(exact.epoch(draws, epoch=3, rank=1), cached.epoch(draws, epoch=3, rank=1), strict=True))
    assert len(pairs) == 6
    for left, right in pairs:
        assert left.images.shape == (12, *preprocess.size, 3)
        assert torch.equal(left.images, right.images)
        assert torch.equal(left.labels, right.labels)
        assert np.array_equal(left.indices, right.indices)
    assert not torch.equal(pairs[0][0].images, pairs[1][0].images)


def test_an_unreadable_image_is_replaced_as_from_files(tmp_path: Path) -> None:
    faces, preprocess = Stamped([0, 1, 1, 1, 2], broken=(1, 2)), Preprocess(size=[4, 4])
    cache = made(faces, preprocess, tmp_path)
    assert cache.unreadable == {1: "truncated", 2: "truncated"}
    images = MappedImages(cache, Buffers())
    loader = CachedLoader(faces, preprocess, source=faces, images=images, max_unreadable=0.5)
    first, second = loader.epoch([np.array([0, 1, 2]), np.array([1, 1, 4])])
    assert first.indices.tolist() == [0, 3, 3] and second.indices.tolist() == [3, 3, 4]
    assert first.images[:, 0, 0, 0].tolist() == [0, 3, 3]
    assert loader.unreadable == {"face1": "truncated", "face2": "truncated"}
    with pytest.raises(UserError, match=r"data: 1 of 5 images cannot be read"):
        CachedLoader(faces, preprocess, source=faces, images=images, max_unreadable=0.1)


def test_another_cache_for_other_pixels(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": 2, "b": 1})
    faces, preprocess = FolderFaces(root), Preprocess(size=[8, 8])
    place = cache_place(faces, preprocess, tmp_path)
    assert cache_place(FolderFaces(root), Preprocess(size=[8, 8], mean=[0.5] * 3), tmp_path) == place
    others = [Preprocess(size=[8, 9]), Preprocess(size=[8, 8], crop=0.9), Preprocess(size=[8, 8], fit="resize")]
    assert len({place, *(cache_place(faces, other, tmp_path) for other in others)}) == 4
    Image.new("RGB", (6, 8), (9, 9, 9)).save(root / "a" / "0.png", compress_level=0)  # same name, other pixels
    assert cache_place(FolderFaces(root), preprocess, tmp_path) != place


def write(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_damage_is_never_shown(tmp_path: Path) -> None:
    faces, preprocess = Stamped([0, 1, 1, 2]), Preprocess(size=[4, 4])
    place = made(faces, preprocess, tmp_path).place
    write(place / "images", 2 * 48 + 5, b"\xff")
    cache, out = RawCache(place), np.zeros((2, 4, 4, 3), np.uint8)
    cache.take(np.array([0, 1]), out)
    assert out[:, 0, 0, 0].tolist() == [0, 1]
    with pytest.raises(UserError, match=rf"{place}: damaged \(image 2 has another checksum\); remove this folder"):
        cache.take(np.array([3, 2]), out)
    with pytest.raises(UserError, match="image 2 has another checksum"):
        RawCache(place).read_all(lambda start, images: None, num_threads=2)
    write(place / "checksums", 0, b"\xff")
    with pytest.raises(UserError, match="do not belong together"):
        RawCache(place)
    (place / "about.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        RawCache(place)


def test_it_is_made_once_and_what_a_killed_process_left_is_made_anew(tmp_path: Path) -> None:
    faces, preprocess = Stamped([0, 1, 1, 2]), Preprocess(size=[4, 4])
    place = cache_place(faces, preprocess, tmp_path)
    partial = partial_of(place)
    partial.mkdir()
    (partial / MARK).touch()
    (partial / "images").write_bytes(b"left")
    assert exists_or_comes(place)
    assert made(faces, preprocess, tmp_path).images[3].max() == 3
    times = {path.name: path.stat().st_mtime_ns for path in place.iterdir()}
    assert set(times) == {"images", "checksums", "about.json"}
    made(faces, preprocess, tmp_path)
    assert times == {path.name: path.stat().st_mtime_ns for path in place.iterdir()}
    assert list(tmp_path.iterdir()) == [place]


def test_a_stop_signal_ends_the_making_and_leaves_nothing(tmp_path: Path) -> None:
    faces = Stamped([0, *[1] * 999])
    with pytest.raises(Stopped):
        made(faces, Preprocess(size=[4, 4]), tmp_path, stop=lambda: True)
    assert not list(tmp_path.iterdir())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("facenet-cache")]


RANK = """
import sys, time
from pathlib import Path
from facenet.data.feed.raw_cache import cache_place, open_cache
from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.transforms import Preprocess
class Counted(SyntheticFaces):
    drawn = 0
    def load(self, index):
        Counted.drawn += 1
        time.sleep(0.002)
        return super().load(index)
faces, preprocess = Counted(num_identities=20, images_per_identity=10, size=16), Preprocess(size=[16, 16])
cache = open_cache(faces, preprocess, cache_place(faces, preprocess, Path(sys.argv[1])), num_threads=1)
print(Counted.drawn, int(cache.images.sum()))
"""


@pytest.mark.slow
def test_ranks_share_one(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    told = [rank.communicate(timeout=300)[0].split() for rank in ranks]
    assert sorted(int(drawn) for drawn, _ in told) == [0, 200], "one draws all of them, the other none"
    assert told[0][1] == told[1][1]


NEED, GB = Need(num_bytes=10 * 10**9, passes=5.0, kept=False, obstacle=None), 10**9


@pytest.mark.parametrize(
    ("need", "room", "kind", "why"),
    [
        ({}, (100, 64, 78), "device", "10 GB of images fit into half of the 78 GB free on the device"),
        ({}, (100, 64, 12), "ram", "10 GB of images fit into half of the 64 GB of free memory"),
        ({}, (100, 64, None), "ram", "free memory"),
        ({}, (100, 16, None), "disk", "10 GB of images are more than half of the 16 GB of free memory"),
        ({}, (15, 64, 78), "files", "more than half of the 15 GB free on the cache's disk"),
        ({"kept": True}, (0, 64, None), "ram", "fit"),
        ({"passes": 1.0}, (100, 64, 78), "files", "shows its images 1.0 times"),
        ({"passes": 0.1, "kept": True}, (100, 64, 78), "device", "fit"),
        ({"obstacle": "x comes first"}, (100, 64, 78), "files", "x comes first"),
    ],
)  # fmt: skip
def test_auto_picks_by_size(need: dict[str, Any], room: tuple[Any, Any, Any], kind: str, why: str) -> None:
    sizes = Room(*[None if free is None else free * GB for free in room])
    chosen, reason = choose("auto", Need(**{**vars(NEED), **need}), sizes)
    assert chosen == kind and why in reason


def test_what_was_asked_for_is_taken_or_refused() -> None:
    small = Room(disk=5 * GB, ram=5 * GB, device=5 * GB)
    assert choose("files", NEED, small) == ("files", "asked for")
    assert choose("ram", Need(10 * GB, 0.1, True, None), small)[0] == "ram"
    with pytest.raises(
        UserError, match=r"data.feed=disk: 10 GB of images, but 5 GB free for the cache; set data.cache_dir"
    ):
        choose("disk", NEED, small)
    with pytest.raises(UserError, match=r"data.feed=device: 10 GB of images, but 5 GB free on the device"):
        choose("device", Need(10 * GB, 5.0, True, None), small)
    with pytest.raises(UserError, match=r"data.feed=ram: x comes first; set data.feed=files"):
        choose("ram", Need(10 * GB, 5.0, True, "x comes first"), small)


def test_what_is_free_is_that_of_this_machine(tmp_path: Path) -> None:
    assert 0 < free_memory() < 1 << 50
    assert free_disk(tmp_path / "not" / "yet") == pytest.approx(free_disk(tmp_path), rel=0.05)


def test_memory_of_a_batch_is_used_again_only_when_nobody_holds_it() -> None:
    new = Buffers()
    first = new(2, 3)
    view, address = first[1], first.data_ptr()
    del first
    assert new(2, 3).data_ptr() != address, "a view still shows it"
    view.fill_(7)
    del view
    again = [new(2, 3), new(1, 2)]
    assert address in [tensor.data_ptr() for tensor in again]
    assert new(50, 2).shape == (50, 2)


def test_rows_are_mirrored_in_place() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 7, 3), dtype=np.uint8)
    before = images.copy()
    mirror_rows(images, np.array([True, False, True, False]))
    assert np.array_equal(images[[1, 3]], before[[1, 3]])
    assert np.array_equal(images[[0, 2]], before[[0, 2], :, ::-1])


def test_rows_are_found_through_subsets() -> None:
    faces = NumberedFaces([0, 1, 1, 2, 2])
    assert rows_in(Subset(Subset(faces, [4, 3, 1]), [2, 0]), faces).tolist() == [1, 4]
    with pytest.raises(ValueError, match="no part"):
        rows_in(NumberedFaces([0, 1]), faces)


def test_a_cache_that_is_cut_while_it_is_in_use_is_told(tmp_path: Path) -> None:
    """Without a look at its size, the kernel ends the process."""
    cache = made(Stamped(list(range(200))), Preprocess(size=[64, 64]), tmp_path)
    out = np.empty((2, 64, 64, 3), np.uint8)
    cache.take(np.array([0, 199]), out)
    os.truncate(cache.place / "images", 4096)
    with pytest.raises(
        UserError, match=r"damaged \(it was cut while it was in use\); remove this folder, it is made again"
    ):
        cache.take(np.array([0, 199]), out)
    with pytest.raises(UserError, match="cut while it was in use"):
        cache.read_all(lambda *_: None, num_threads=2)
    with pytest.raises(UserError, match="damaged"):
        RawCache(cache.place)
