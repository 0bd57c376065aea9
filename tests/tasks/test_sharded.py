"""Whole runs with a head that is spread over processes."""

from __future__ import annotations

import json

import pytest

from facenet.engine import checkpoint

DENSE = ("loss=arcface", "loss.terms.arcface.loss.scale=8.0")
SHARDED = ("loss=arcface_sharded", "loss.terms.arcface.loss.scale=8.0")
SAMPLED = (*SHARDED, "loss.terms.arcface.loss.sample=0.25")
MANY = ("data.num_identities=96", "data.images_per_identity=3", "sampler=shuffle", "trainer.clip_grad_norm=2.0")
TWO = (*MANY, "distributed=ddp", "distributed.num_processes=2", "trainer.log_every=1")


def shapes(tree):
    if isinstance(tree, dict):
        return {key: shapes(value) for key, value in tree.items()}
    return tuple(getattr(tree, "shape", ()))


@pytest.mark.slow
def test_two_processes_train_as_with_whole_heads_and_leave_the_same_kind_of_file(
    facenet_train, facenet_evaluate, tmp_path
):
    # Two steps: batch statistics of six images of 32 pixels make a hundred times as much of a rounding in each further one.
    short, runs = ("trainer.max_steps=2",), {}
    for name, options in {
        "dense": (*DENSE, *short),
        "sharded": (*SHARDED, *short),
        "sampled": (*SAMPLED, "trainer.epochs=1"),
    }.items():
        runs[name] = facenet_train(*options, *TWO, run_dir=tmp_path / name)
        assert runs[name].code == 0, runs[name].err
    first = {name: json.loads((done.run_dir / "history.json").read_text())[0] for name, done in runs.items()}
    for figure in ("train/arcface", "train/arcface/accuracy"):
        assert first["sharded"][figure] == pytest.approx(first["dense"][figure], rel=1e-5)
    assert first["sampled"]["train/arcface"] < 0.9 * first["dense"]["train/arcface"]  # 12 + 12 identities of 64
    files = {name: checkpoint.load(done.run_dir / "checkpoints" / "last.pt") for name, done in runs.items()}
    dense, sharded, sampled = files["dense"], files["sharded"], files["sampled"]
    for part in ("loss", "training"):
        assert shapes(sharded[part]) == shapes(dense[part])
    assert shapes(sampled["training"]["optimizer"]) == shapes(dense["training"]["optimizer"])
    head = "terms.arcface.weight"
    assert (sharded["loss"][head] - dense["loss"][head]).abs().max() < 1e-4
    assert set(sampled["loss"]) - set(dense["loss"]) == {"terms.arcface.rows.key", "terms.arcface.rows.num_draws"}
    steps, epochs = sampled["step"], sampled["epoch"]
    assert sampled["loss"]["terms.arcface.rows.num_draws"].item() == steps

    tested = facenet_evaluate(f"checkpoint={runs['sampled'].run_dir / 'checkpoints' / 'last.pt'}", "benchmark=heldout")
    assert tested.code == 0, tested.err

    # One process goes on with what two had, from the same weights.
    run_dir = runs["sampled"].run_dir
    again = (*SAMPLED, *MANY, "distributed=single", "trainer.log_every=1", f"trainer.epochs={epochs + 1}")
    done = facenet_train(*again, f"resume={run_dir}", "resume_changed=true", run_dir=run_dir)
    assert done.code == 0, done.err
    assert f"goes on at step {steps}, in epoch {epochs + 1}" in done.err
    last = checkpoint.load(run_dir / "checkpoints" / "last.pt")
    assert last["step"] > steps and shapes(last["loss"]) == shapes(sampled["loss"])
    assert 0 < (last["loss"][head] - sampled["loss"][head]).abs().max() < 0.1
