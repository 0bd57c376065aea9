"""Runs over tar shards."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.identities import FolderFaces
from facenet.data.shards.writing import write_shards
from facenet.engine import checkpoint
from facenet.errors import UserError
from facenet.tasks.job import prepare

pytest.importorskip("webdataset", reason="needs facenet[shards]")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 identities x 8 drawn images in shards of 20."""
    from PIL import Image

    folder, faces = tmp_path_factory.mktemp("shards"), SyntheticFaces(num_identities=12, images_per_identity=8, size=32)
    for index, label in enumerate(faces.labels.tolist()):
        place = folder / "people" / f"p{label:02d}" / f"{index:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.load(index)).save(place)
    write_shards(FolderFaces(folder / "people"), folder / "out", images_per_shard=20)
    return folder / "out"


def overrides(shards: Path, *more: str) -> tuple[str, ...]:
    chosen = (
        "data=shards",
        f"data.shards={shards}",
        "sampler=shuffle",
        "loss=arcface",
        "data.shuffle_buffer=20",
        *more,
    )
    return ("data.num_workers=1", "benchmark=heldout", "benchmark.num_pairs=60", "benchmark.num_folds=3", *chosen)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("sampler=triplet",),
            "data=shards: triplet batches take images from anywhere, .*set sampler=shuffle with a loss",
        ),
        (("sampler=identity",), "data=shards: pk batches take images from anywhere"),
        (("sampler=reference",), "data=shards: triplet batches"),
        (("loss=triplet_semi_hard",), "loss.terms.triplet: needs several images of each identity .* set a loss over"),
        (("data.feed=disk",), "data.feed=disk: shards are read in order and not cached"),
        (("data.shards=pipe:cat",), "data.shards: pipe: runs a shell command"),
    ],
)
def test_what_shards_cannot_do_is_told_with_the_way_out(compose, shards, given, message):
    with pytest.raises(UserError, match=message):
        prepare(compose(*overrides(shards), *given))


def test_the_plan_takes_whole_shards_for_validation(compose, shards):
    material, plan = prepare(compose(*overrides(shards)))
    assert plan.images.num_images + plan.images.num_val_images + len(material.heldout) == 96
    assert plan.images.num_heldout_identities == 4 and plan.images.num_val_images == int(
        0.1 * (plan.images.num_images + plan.images.num_val_images)
    )
    assert set(material.val_indices) <= set(range(80, 96))
    held, _ = prepare(compose("data=folder", f"data.root={shards.parent}/people", "data.num_workers=1"))
    assert held.heldout.identities == material.heldout.identities, "the people that a folder holds out"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_trains_and_goes_on_bit_for_bit(started, finished, tiny, shards, tmp_path, processes):
    drawn = ("loss=", "sampler=", "data.num_i", "data.images_per", "data.num_w", "benchmark.")
    job = [
        *(item for item in tiny if not item.startswith(drawn)),
        *overrides(shards),
        "tracking=none",
        "trainer.epochs=3",
    ]
    job += ["trainer.log_every=1", "distributed=ddp"] if processes == 2 else ["trainer.log_every=1"]
    straight = finished(started("facenet-train", tmp_path / "straight", *job), tmp_path / "straight")
    assert straight.code == 0, straight.err
    assert "feed shards (read in order, 20 images held to mix them)" in straight.err
    rows = json.loads((straight.run_dir / "history.json").read_text())
    assert len(rows) == 3 and all({"train/loss", "val/loss", "heldout/accuracy"} <= set(row) for row in rows)

    broken = tmp_path / "broken"
    process = started("facenet-train", broken, *job)
    while not (broken / "train.log").exists() or "step 5 of" not in (broken / "train.log").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert finished(process, broken).code == 143
    done = finished(started("facenet-train", tmp_path / "other", f"resume={broken}"), broken)
    assert done.code == 0, done.err
    whole, resumed = (checkpoint.load(run / "checkpoints" / "last.pt") for run in (straight.run_dir, broken))
    for part in ("embedder", "loss"):
        assert all(torch.equal(tensor, resumed[part][name]) for name, tensor in whole[part].items())
    assert json.loads((broken / "history.json").read_text()) == rows
