"""What a run keeps when it is killed between any two of its writes, or goes back to an earlier checkpoint."""

import os
import threading

import pytest
import torch

from facenet.engine import checkpoint
from facenet.engine.checkpoint import Keeper
from facenet.engine.writer import Writer
from facenet.errors import UserError

SCORES = [0.5, 0.9, 0.3, 0.95, 0.7]
NAMES = ("link", "unlink", "replace")


class Killed(BaseException):
    """Nothing in the code catches it, and nothing after it is written."""


def contents(scores):
    """What `Epochs` saves after each epoch: (content, score)."""
    best, row = None, {}
    for epoch, score in enumerate(scores, start=1):
        metrics = {"lfw/accuracy": score, "val/loss": float("nan"), "epoch": float(epoch)}
        if best is None or score > best:
            best, row = score, dict(metrics)
        yield (
            {
                **{"config": {}, "identities": [], "loss": {}, "embedder": {"weight": torch.full((3,), float(epoch))}},
                **{"epoch": epoch, "step": epoch, "metrics": metrics, "best": {"score": best, "row": row}},
            },
            score,
        )


def epochs_in(directory):
    return {path.name: checkpoint.load(path)["epoch"] for path in sorted(directory.glob("*.pt"))}


def kept_after(scores, keep):
    best = scores.index(max(scores)) + 1
    numbered = {f"epoch-{epoch:03d}.pt": epoch for epoch in range(max(1, len(scores) - keep + 1), len(scores) + 1)}
    return {"best.pt": best, "last.pt": len(scores), **(numbered if keep else {})}


def killed_at(monkeypatch, instant):
    """The process ends before its change number `instant` of a directory."""
    count = 0

    def counted(change):
        def wrapped(*arguments, **options):
            nonlocal count
            if count == instant:
                raise Killed
            count += 1
            return change(*arguments, **options)

        return wrapped

    for name in NAMES:
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


def train(directory, scores, keep, content=None, source=None):
    """Goes on from a checkpoint, or begins."""
    keeper, done = Keeper(directory, keep=keep), 0
    if content is not None:
        done = content["epoch"]
        assert keeper.restore(content, source)
    for content, score in list(contents(scores))[done:]:
        keeper.save(content, score=score, finished_epoch=True)


def run_on(directory, scores, keep):
    last = directory / "last.pt"
    train(directory, scores, keep, checkpoint.load(last) if last.exists() else None, last)


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_killed_at_any_instant_and_resumed_the_files_are_those_of_a_run_that_was_not(tmp_path, monkeypatch, keep):
    instant, ended = 0, False
    while not ended:
        directory = tmp_path / str(instant)
        directory.mkdir()
        with monkeypatch.context() as patch:
            killed_at(patch, instant)
            try:
                train(directory, SCORES, keep)
                ended = True
            except Killed:
                instant += 1
        run_on(directory, SCORES, keep)
        for leftover in directory.glob(".*.partial"):
            leftover.unlink()
        assert epochs_in(directory) == kept_after(SCORES, keep), f"killed before change {instant}"
    assert instant > 5


@pytest.mark.nightly
def test_killed_again_and_again(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)

    def draw(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    for number in range(200):
        scores, keep = [draw(0, 6) / 10 for _ in range(draw(1, 8))], draw(0, 4)
        directory = tmp_path / str(number)
        directory.mkdir()
        for _ in range(draw(1, 4)):
            with monkeypatch.context() as patch:
                killed_at(patch, draw(0, 30))
                try:
                    run_on(directory, scores, keep)
                except Killed:
                    continue
        run_on(directory, scores, keep)
        assert epochs_in(directory) == kept_after(scores, keep), (number, scores, keep)


def test_a_link_that_fails_is_made_when_the_write_is_tried_again(tmp_path, monkeypatch):
    keeper, (content, score) = Keeper(tmp_path, keep=1), next(contents(SCORES))
    with monkeypatch.context() as patch:
        refused = iter([OSError("full")])
        patch.setattr(checkpoint, "link", lambda *_: (_ for _ in ()).throw(UserError(str(next(refused)))))
        with pytest.raises(UserError):
            keeper.save(content, score=score, finished_epoch=True)
    assert not (tmp_path / "best.pt").exists()
    keeper.save(content, score=score, finished_epoch=True)
    assert epochs_in(tmp_path) == {"best.pt": 1, "last.pt": 1, "epoch-001.pt": 1}


def test_a_run_that_goes_back_keeps_what_was_best_after(tmp_path, caplog):
    train(tmp_path, SCORES, 4)
    source = tmp_path / "epoch-003.pt"
    other = [*SCORES[:3], 0.2, 0.1]
    train(tmp_path, other, 4, checkpoint.load(source), source)
    found = epochs_in(tmp_path)
    assert found.pop("best-epoch-004.pt") == 4 and "best-epoch-004.pt" in caplog.text
    assert found == {"best.pt": 2, "last.pt": 5, **{f"epoch-{n:03d}.pt": n for n in (2, 3, 4, 5)}}
    assert checkpoint.load(tmp_path / "epoch-004.pt")["metrics"]["lfw/accuracy"] == 0.2  # this run's, not the other's


def test_a_best_network_that_is_nowhere_is_told(tmp_path):
    train(tmp_path, [0.9, 0.1, 0.2], 1)
    (tmp_path / "best.pt").unlink()
    keeper, last = Keeper(tmp_path, keep=1), tmp_path / "last.pt"
    assert not keeper.restore(checkpoint.load(last), last) and keeper.best is None
    content, score = list(contents([0.9, 0.1, 0.2, 0.3]))[-1]
    keeper.save(content, score=score, finished_epoch=True)
    assert epochs_in(tmp_path)["best.pt"] == 4


def test_numbers_beyond_999_and_files_of_the_user(tmp_path):
    (tmp_path / "epoch-mine.pt").write_text("the user's")
    keeper = Keeper(tmp_path, keep=2)
    content, _ = next(contents([0.5]))
    for epoch in (998, 999, 1000):
        keeper.save({**content, "epoch": epoch}, score=None, finished_epoch=True)
    resumed = Keeper(tmp_path, keep=2)
    resumed.restore({**content, "epoch": 1000}, tmp_path / "last.pt")
    resumed.save({**content, "epoch": 1001}, score=None, finished_epoch=True)
    names = sorted(path.name for path in tmp_path.glob("epoch-*"))
    assert names == ["epoch-1000.pt", "epoch-1001.pt", "epoch-mine.pt"]


def test_a_write_that_holds_more_takes_the_place_of_one_that_fails(caplog):
    done, failing = [], threading.Event()

    def fails():
        failing.set()
        raise UserError("full")

    with Writer() as background:
        background.start(fails)
        assert failing.wait(10)
        background.start(lambda: done.append("tested"), instead=True)  # raises nothing: the first is given up
    assert done == ["tested"] and "written after all" in caplog.text


def test_a_write_that_holds_more_follows_one_that_is_done():
    done = []
    with Writer() as background:
        background.start(lambda: done.append("untested"))
        while background.pending is not None and not background.pending.done():
            threading.Event().wait(0.01)
        background.start(lambda: done.append("tested"), instead=True)
    assert done == ["untested", "tested"]
