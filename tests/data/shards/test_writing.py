from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facenet.data.files.annotation import annotate
from facenet.data.files.pack import pack_folder
from facenet.data.identities import FolderFaces
from facenet.data.shards.faces import ShardFaces
from facenet.data.shards.writing import write_shards
from facenet.errors import UserError
from facenet.tools.shard import open_faces, run_shard

from .conftest import PEOPLE

webdataset = pytest.importorskip("webdataset", reason="needs facenet[shards]")
COMMAND = [sys.executable, "-c", "from facenet.commands.flags import data; data()", "shard"]


def by_library(folder: Path) -> list[tuple[str, bytes, int]]:
    """(key, bytes of the image, label), as WebDataset reads them."""
    return [
        (sample["__key__"], sample.get("jpg") or sample["png"], int(sample["cls"]))
        for path in sorted(folder.glob("*.tar"))
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    ]


def test_every_file_is_in_the_shards_byte_by_byte_with_its_label(people: Path, written: Path) -> None:
    samples = by_library(written)
    assert [key for key, _, _ in samples] == [f"{number:09d}" for number in range(30)]
    faces = FolderFaces(people)
    expected = sorted((Path(faces.name(index)).read_bytes(), int(faces.labels[index])) for index in range(30))
    assert sorted((data, label) for _, data, label in samples) == expected
    assert [label for _, _, label in samples] != sorted(label for _, _, label in samples), "not mixed"


def test_lists_and_packs_give_the_same_files_and_a_second_writing_the_same_bytes(
    people: Path, written: Path, tmp_path: Path
) -> None:
    annotate(people, tmp_path / "list.txt")
    pack_folder(FolderFaces(people), tmp_path / "pack")
    for source in (people, tmp_path / "list.txt", tmp_path / "pack", tmp_path / "pack" / "train.rec"):
        out = tmp_path / f"out-{source.name}"
        write_shards(open_faces(str(source)), out, images_per_shard=8)
        assert by_library(out) == by_library(written)
        assert ShardFaces(str(out)).identities == tuple(PEOPLE)
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / "out-people" / path.name).read_bytes()


def test_files_of_a_list_may_be_called_anything_and_folders_say_what_they_leave_out(tmp_path: Path) -> None:
    for name, kind in (("a/one", "JPEG"), ("a/two.image", "PNG"), ("b/three.GIF", "GIF"), ("b/note.txt", None)):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
        if kind:
            Image.new("RGB", (4, 4)).save(tmp_path / "in" / name, kind)
    (tmp_path / "in" / "list.txt").write_text("0;a/one\n0;a/two.image\n1;b/three.GIF\n")
    said = run_shard(str(tmp_path / "in" / "list.txt"), str(tmp_path / "listed"), images_per_shard=9)
    faces = ShardFaces(str(tmp_path / "listed"))
    assert [faces.load(index).shape for index in range(3)] == [(4, 4, 3)] * 3 and "left out" not in said
    Image.new("RGB", (4, 4)).save(tmp_path / "in" / "a" / "0.pgm", "PPM")
    said = run_shard(str(tmp_path / "in"), str(tmp_path / "out"), images_per_shard=9)
    assert "2 images of 2 identities" in said and "; left out: 1 .image, 2 .txt, 1 other; train on them" in said


def test_what_exists_or_cannot_be_read_leaves_nothing(people: Path, written: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="written: exists; choose another place"):
        write_shards(FolderFaces(people), written, images_per_shard=8)
    for name in "ab":
        (tmp_path / "root" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "root" / name / "0.png")
    faces = FolderFaces(tmp_path / "root")
    (tmp_path / "root" / "b" / "0.png").unlink()
    with pytest.raises(UserError, match="b/0.png: cannot be read .No such file.*; mend or remove it, then write again"):
        write_shards(faces, tmp_path / "out", images_per_shard=8)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_the_command_says_what_it_wrote(people: Path, tmp_path: Path) -> None:
    said = run_shard(str(people), str(tmp_path / "out"), images_per_shard=20)
    assert "30 images of 4 identities in 2 shards" in said and f"data=shards data.shards={tmp_path / 'out'}" in said
    done = subprocess.run(
        [*COMMAND, str(people), str(tmp_path / "x"), "--images-per-shard", "0"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "--images-per-shard: expected 1 or more, got 0" in done.stderr


def test_without_the_library_the_extra_is_named(people: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['webdataset'] = None; sys.argv[0] = 'facenet-data'; from facenet.commands.flags import data; data()"
    done = subprocess.run(
        [sys.executable, "-c", code, "shard", str(people), str(tmp_path / "x")], capture_output=True, text=True
    )
    assert done.returncode == 2 and "comes with an extra: pip install 'facenet[shards]'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_command_leaves_no_shards_and_the_next_one_writes_them(
    tmp_path: Path, how: int, code: int
) -> None:
    root, out = tmp_path / "people", tmp_path / "out"
    for name in "ab":
        (root / name).mkdir(parents=True)
        for number in range(30):
            noise = np.random.default_rng(number).integers(0, 255, (1000, 1000, 3), np.uint8)
            Image.fromarray(noise).save(root / name / f"{number}.bmp")
    command = [*COMMAND, str(root), str(out), "--images-per-shard", "20"]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".out.facenet-partial/shard-000001.tar")):
        assert first.poll() is None
        time.sleep(0.002)
    first.send_signal(how)
    assert first.communicate()[1].endswith("interrupted\n" if how == signal.SIGINT else "")
    assert first.returncode == code
    assert not out.exists() and (how == signal.SIGKILL or not list(tmp_path.glob(".*")))
    subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(ShardFaces(str(out))) == 60 and not list(tmp_path.glob(".*"))
