"""What an epoch has trained stays, whatever happens while it is tested; and images that cannot be read end no run that they need not end."""

import contextlib
import functools
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.identities import ImageList
from facenet.engine import checkpoint
from facenet.errors import UserError
from facenet.evaluation.benchmarks.pair_set import PairSet
from facenet.evaluation.benchmarks.readable import unreadable_in
from facenet.evaluation.protocol import Protocol
from facenet.launch.signals import StopFlag
from facenet.tasks import epochs
from facenet.tasks.job import run_job
from facenet.tasks.run import Run
from facenet.tasks.train import run

JOB = (
    "data=folder",
    "benchmark=heldout",
    "benchmark.num_pairs=8",
    "benchmark.num_folds=2",
    "sampler=shuffle",
    "loss=ce",
)
SHARES = ("data.val_identities=0.34", "data.val_images=0.2", "data.batch_size=8", "data.feed=files", "trainer.epochs=1")


def cut(path):
    """What it held."""
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    return whole


def drawn(root):
    """A folder of 6 identities x 8 images."""
    faces = SyntheticFaces(num_identities=6, images_per_identity=8, size=32, seed=0)
    for index in range(len(faces)):
        path = root / f"id {faces.labels[index]}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.load(index)).save(path, quality=95)
    return root


@pytest.fixture
def people(tmp_path):
    return drawn(tmp_path / "people")


@pytest.fixture(scope="module")
def trained(compose):
    """trained(people, directory, *overrides): the result and the last checkpoint of the job in this process."""

    def train(people, directory, *overrides, stop=None):
        directory.mkdir(exist_ok=True)
        config = compose(*JOB, *SHARES, f"data.root={people}", *overrides)
        with contextlib.closing(StopFlag(30.0) if stop is None else stop) as flag:
            result = run(Run(directory, config, None, flag))
        return result, checkpoint.load(directory / "checkpoints" / "last.pt")

    return train


@pytest.fixture
def train(trained, people, tmp_path):
    return functools.partial(trained, people, tmp_path / "run")


@pytest.fixture(scope="module")
def undisturbed(trained, tmp_path_factory):
    place = tmp_path_factory.mktemp("undisturbed")
    return trained(drawn(place / "people"), place / "run")


def same(first, second):
    """Networks, figures and what training goes on with."""
    assert first["metrics"] == second["metrics"] and first["threshold"] == second["threshold"]
    assert all(torch.equal(value, second["embedder"][name]) for name, value in first["embedder"].items())
    assert (
        first["training"]["history"] == second["training"]["history"]
        and first["untested"] is second["untested"] is None
    )
    assert torch.equal(first["training"]["rng"][0]["host"], second["training"]["rng"][0]["host"])


def test_an_epoch_whose_test_fails_is_kept_and_tested_when_the_run_goes_on(train, undisturbed, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise UserError("lfw: a disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(epochs, "run_benchmarks", fails)
        with pytest.raises(UserError, match="a disk is gone"):
            train()
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    kept = checkpoint.load(last)
    assert kept["epoch"] == 1 and kept["untested"]["train/loss"] > 0 and kept["training"]["history"] == []
    assert [path.name for path in last.parent.iterdir()] == ["last.pt"]
    result, content = train(f"resume={last}")
    assert result["objective"] == undisturbed[0]["objective"] is not None and result["checkpoint"].endswith("best.pt")
    same(content, undisturbed[1])
    assert {path.name for path in last.parent.iterdir()} == {"last.pt", "best.pt", "epoch-001.pt"}


@pytest.mark.parametrize("where", ["test", "validation"])
def test_a_stop_signal_ends_tests_between_two_batches(train, undisturbed, tmp_path, monkeypatch, where):
    stop, seen = StopFlag(30.0), []
    place, name = (epochs, "run_benchmarks") if where == "test" else (epochs.Trainer, "validate")
    real = getattr(place, name)

    def signalled(*arguments, **options):
        stop.set(signal.SIGTERM)
        seen.append(where)
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, signalled)
        result, kept = train(stop=stop)
    assert seen == [where] and result["objective"] is None and kept["untested"] is not None and kept["metrics"] == {}
    _, content = train(f"resume={tmp_path / 'run' / 'checkpoints' / 'last.pt'}")
    same(content, undisturbed[1])


def test_a_stop_before_the_first_step_waits_for_none(train):
    stop = StopFlag(30.0)
    stop.set(signal.SIGTERM)
    _, content = train(stop=stop)
    assert content["step"] == 0 and content["epoch"] == 0


def test_a_heldout_image_that_cannot_be_read_is_left_out_as_training_images_are(train, people, tmp_path, caplog):
    for folder in people.iterdir():  # one of each identity, so of held-out ones too
        cut(sorted(folder.iterdir())[0])
    result, _ = train("data.max_unreadable=0.2")
    assert result["objective"] is not None
    named = json.loads((tmp_path / "run" / "unreadable.json").read_text())
    assert 2 <= len(named) <= 6
    left_out = [record.getMessage() for record in caplog.records if "pairs are left out" in record.getMessage()]
    assert len(left_out) == 1 and left_out[0].startswith("heldout: ")


def test_one_image_of_few_that_validate_is_no_reason_to_stop(train, undisturbed, people):
    """One in a hundred images of all may be unreadable; of the ten that validate that would be none."""
    split = json.loads(Path(undisturbed[0]["checkpoint"]).parents[1].joinpath("split.json").read_text())
    (path,) = people.rglob(Path(split["val_images"][0]).name)
    cut(path)
    result, _ = train("data.max_unreadable=0.03")  # 1 of 48
    assert result["objective"] is not None


def pair_set(folder, *, max_unreadable=0.0, count=8):
    folder.mkdir(exist_ok=True)
    paths = []
    for index in range(count):
        paths.append(str(folder / f"{index}.jpg"))
        Image.fromarray(np.full((20, 20, 3), 30 * index, np.uint8)).save(paths[-1])
    left, right = np.arange(0, 8, 1), np.arange(1, 9, 1) % count
    return PairSet(
        name="lfw",
        faces=ImageList(paths, [index // 2 for index in range(count)], [str(number) for number in range(count // 2)]),
        left=left,
        right=right,
        same=np.array([True, False] * 4),
        folds=np.repeat([0, 1], 4),
        protocol=Protocol(),
        batch_size=4,
        max_unreadable=max_unreadable,
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_images_are_looked_at_and_what_is_cut_is_named(tmp_path, num_workers):
    pairs = pair_set(tmp_path / "faces")
    seen = []
    assert unreadable_in(pairs, num_workers=num_workers, progress=lambda *now: seen.append(now)) == {} and seen[-1] == (
        8,
        8,
    )
    cut(tmp_path / "faces" / "3.jpg")
    (tmp_path / "faces" / "5.jpg").write_bytes(b"")
    (tmp_path / "faces" / "6.jpg").unlink()
    found = unreadable_in(pairs, num_workers=num_workers)
    assert sorted(found) == [3, 5, 6] and found[6] == "No such file or directory"
    with pytest.raises(
        UserError, match=r"lfw: 3 of 8 images cannot be read, first .*/3\.jpg: .*; mend or replace them"
    ) as raised:
        pairs.without(found)
    assert "\n" not in str(raised.value)


def test_a_share_of_a_users_own_images_may_be_unreadable(tmp_path, caplog):
    pairs = pair_set(tmp_path / "faces", max_unreadable=0.2)
    fewer = pairs.without({7: "cut"})
    assert list(zip(fewer.left, fewer.right, strict=True)) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
    assert fewer.same.tolist() == [True, False] * 3 and fewer.folds.tolist() == [0, 0, 0, 0, 1, 1]
    assert "1 of 8 images cannot be read" in caplog.text and "2 of 8 pairs are left out" in caplog.text
    with pytest.raises(UserError, match=r"2 of 8 images .* that are more than data.max_unreadable=0.2 allows"):
        pairs.without({6: "cut", 7: "cut"})
    with pytest.raises(UserError, match="fold 1 has not both kinds"):
        pair_set(tmp_path / "faces", max_unreadable=0.5).without({5: "cut", 7: "cut"})
    assert pairs.without({}) is pairs


def test_a_benchmark_that_cannot_be_read_is_refused_before_anything_is_written(compose, people, tmp_path):
    for path in people.rglob("*.jpg"):
        cut(path)
    with pytest.raises(UserError, match="heldout: .* cannot be read"):
        run_job(compose(*JOB, *SHARES, f"data.root={people}"), run_dir=tmp_path / "run", overrides=[], tags={})
    assert not (tmp_path / "run").exists()
