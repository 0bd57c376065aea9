import hashlib
import os
import pickle
import zipfile

import pytest
import torch

from facenet.engine import checkpoint
from facenet.engine.checkpoint import Keeper
from facenet.errors import UserError


@pytest.fixture
def content():
    return {
        "config": {"seed": 3, "data": {"list": [1, 2.5, None, "x"]}},
        "identities": ["Ada", "Bo"],
        "embedder": {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(7)},
        "loss": {},
        "epoch": 1,
        "step": 40,
        "metrics": {"lfw/accuracy": 0.75},
        "threshold": {"value": 1.1, "distance": "l2"},
    }


class Bomb:
    """Unpickles by creating a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_round_trip_loads_with_weights_only_and_says_its_format(tmp_path, content):
    path = tmp_path / "deep" / "er" / "a.pt"
    checkpoint.save(content, path)
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["embedder"].pop("weight"), content["embedder"].pop("weight"))
    assert loaded == {"format": "facenet-checkpoint", "version": 1, **content}
    assert torch.load(path, weights_only=True).keys() == loaded.keys()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, content):
    path = tmp_path / "last.pt"
    checkpoint.save(content, path)
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save({**content, "step": lambda: None}, path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_the_target_only_ever_holds_a_whole_file(tmp_path, content, monkeypatch):
    """At the moment of the rename the neighbour is complete and on disk, and the target still the old one."""
    path, seen, synced = tmp_path / "last.pt", [], []
    checkpoint.save({**content, "step": 1}, path)
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(number), fsync(number)))

    def look(source, target):
        seen.append((checkpoint.load(target)["step"], checkpoint.load(source)["step"], len(synced)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    checkpoint.save({**content, "step": 2}, path)
    assert seen == [(1, 2, 1)] and checkpoint.load(path)["step"] == 2


def test_unwritable_directory_is_one_line_with_a_way_out(tmp_path, content):
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(UserError, match=r"last\.pt cannot be written .*set hydra\.run\.dir") as raised:
        checkpoint.save(content, tmp_path / "file" / "checkpoints" / "last.pt")
    assert "\n" not in str(raised.value)


def test_keeper_keeps_the_newest_k_the_last_and_the_best(tmp_path, content):
    keeper = Keeper(tmp_path, keep=2)
    for epoch, score in enumerate([0.5, 0.9, None, 0.9, 0.7], start=1):
        path = keeper.save({**content, "epoch": epoch}, score=score, finished_epoch=True)
    assert path == tmp_path / "last.pt"
    assert {file.name: checkpoint.load(file)["epoch"] for file in tmp_path.iterdir()} == {
        "last.pt": 5,
        "best.pt": 2,  # an equal score later is no improvement
        "epoch-004.pt": 4,
        "epoch-005.pt": 5,
    }
    assert keeper.best == 0.9


def test_keeper_within_an_epoch_writes_last_only(tmp_path, content):
    keeper = Keeper(tmp_path, keep=2)
    keeper.save(content, score=None, finished_epoch=False)
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_keep_none(tmp_path, content):
    keeper = Keeper(tmp_path, keep=0)
    keeper.save(content, score=-1.0, finished_epoch=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_names_share_one_file_until_last_is_replaced(tmp_path, content):
    keeper = Keeper(tmp_path, keep=5)
    keeper.save({**content, "epoch": 1}, score=0.9, finished_epoch=True)
    files = {name: (tmp_path / name).stat().st_ino for name in ("last.pt", "best.pt", "epoch-001.pt")}
    assert len(set(files.values())) == 1
    keeper.save({**content, "epoch": 2}, score=0.1, finished_epoch=True)
    assert (tmp_path / "best.pt").stat().st_ino == files["last.pt"] != (tmp_path / "last.pt").stat().st_ino
    assert checkpoint.load(tmp_path / "best.pt")["epoch"] == 1


def test_a_file_system_without_hard_links_gets_copies(tmp_path, content, monkeypatch):
    def refuse(*_):
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    Keeper(tmp_path, keep=1).save(content, score=1.0, finished_epoch=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "epoch-001.pt", "last.pt"]
    assert (tmp_path / "best.pt").read_bytes() == (tmp_path / "last.pt").read_bytes()


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"checkpoint=.*nowhere\.pt: no such file"):
        checkpoint.load(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("inside", ["checkpoints", "."])
def test_a_directory_is_told_with_the_file_in_it(tmp_path, inside):
    with pytest.raises(UserError, match=r"a directory; name a file in it$"):
        checkpoint.load(tmp_path)
    best = tmp_path / inside / "best.pt"
    best.parent.mkdir(exist_ok=True)
    best.touch()
    with pytest.raises(UserError, match=rf"name a file in it: checkpoint={best}$"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
def test_truncated_file(tmp_path, content, share):
    path = tmp_path / "a.pt"
    checkpoint.save(content, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match="damaged") as raised:
        checkpoint.load(path)
    assert "\n" not in str(raised.value)


def test_any_damaged_byte_is_an_error_of_the_user_or_harmless(tmp_path, content):
    path = tmp_path / "a.pt"
    checkpoint.save(content, path)
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 37):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x5A]) + whole[position + 1 :])
        try:
            checkpoint.load(path)
        except UserError as error:
            refused += "\n" not in str(error)
    assert refused > 10


def test_no_damaged_byte_gives_other_content(tmp_path, content):
    """Each byte of the weights, and every third of the rest: torch.load alone takes changed weights without a word."""
    path = tmp_path / "a.pt"
    content["embedder"]["weight"] = torch.arange(64.0)
    checkpoint.save(content, path)
    whole = path.read_bytes()
    weights = whole.index(content["embedder"]["weight"].numpy().tobytes())
    inside = range(weights, weights + 256)
    refused = set()
    for position in [*inside, *range(0, len(whole), 3)]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            loaded = checkpoint.load(path)
        except UserError as error:
            assert "\n" not in str(error)
            refused.add(position)
            continue
        assert torch.equal(loaded["embedder"].pop("weight"), content["embedder"]["weight"]), position
        rest = {**content, "embedder": {"count": content["embedder"]["count"]}}
        assert loaded == {"format": "facenet-checkpoint", "version": 1, **rest}, position
    assert refused >= set(inside)
    path.write_bytes(whole[:weights] + bytes(256) + whole[weights + 256 :])  # a page that never reached the disk
    with pytest.raises(UserError, match=r"a.pt: damaged, or no checkpoint .its checksum is wrong"):
        checkpoint.load(path)


def test_the_checksum_is_in_the_file_and_other_programs_read_it_as_before(tmp_path, content):
    path = tmp_path / "a.pt"
    checkpoint.save(content, path)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None and file.comment.startswith(b"facenet sha256 ")
        length = len(file.comment)
        assert file.comment[-64:].decode() == hashlib.sha256(path.read_bytes()[: -2 - length]).hexdigest()
    assert torch.equal(torch.load(path, weights_only=True)["embedder"]["weight"], content["embedder"]["weight"])
    torch.save({"format": "facenet-checkpoint", "version": 1, **content}, path)  # as an earlier facenet did
    assert checkpoint.load(path)["step"] == 40


def test_a_directory_that_has_vanished_is_not_made_anew(tmp_path, content):
    """Below the place of a mount lies another disk."""
    keeper = Keeper(tmp_path / "checkpoints", keep=1)
    keeper.open()
    keeper.save(content, score=None, finished_epoch=True)
    (tmp_path / "checkpoints").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"last\.pt cannot be written .No such file.*checkpoints is not there"):
        keeper.save({**content, "epoch": 2}, score=None, finished_epoch=True)
    assert [path.name for path in tmp_path.iterdir()] == ["away"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/checkpoints/last\.pt cannot be written .Not a directory"):
        Keeper(tmp_path / "file" / "checkpoints", keep=1).open()


@pytest.mark.parametrize("junk", [b"\x89PNG\r\n", b"<html>404</html>", b"\x80\x02.", b"PK\x03\x04", b"\x80\x02}q\x00K"])
def test_foreign_bytes(tmp_path, junk):
    path = tmp_path / "a.pt"
    path.write_bytes(junk * 50)
    with pytest.raises(UserError, match=r"a\.pt: damaged, or no checkpoint"):
        checkpoint.load(path)


@pytest.mark.parametrize("write", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))])
def test_nothing_in_the_file_is_executed(tmp_path, write, content):
    path, trace = tmp_path / "a.pt", tmp_path / "executed"
    write({"format": "facenet-checkpoint", "version": 1, **content, "config": {"x": Bomb(trace)}}, path)
    with pytest.raises(UserError, match="damaged, or no checkpoint"):
        checkpoint.load(path)
    assert not trace.exists()


def test_bare_weights_are_told_apart(tmp_path, content):
    path = tmp_path / "a.pt"
    torch.save(content["embedder"], path)
    with pytest.raises(UserError, match=r"holds bare weights; give it as weights=.*a\.pt with backbone="):
        checkpoint.load(path)


def test_another_version_is_refused(tmp_path, content):
    path = tmp_path / "a.pt"
    torch.save({"format": "facenet-checkpoint", **content, "version": 2}, path)
    with pytest.raises(UserError, match="format version 2, this facenet reads 1"):
        checkpoint.load(path)


@pytest.mark.parametrize(("field", "value"), [("config", "x"), ("embedder", None), ("epoch", "1"), ("identities", {})])
def test_missing_and_mistyped_fields_are_named(tmp_path, content, field, value):
    path = tmp_path / "a.pt"
    checkpoint.save({**content, field: value}, path)
    with pytest.raises(UserError, match=f"damaged, '{field}' is missing or of another type"):
        checkpoint.load(path)
