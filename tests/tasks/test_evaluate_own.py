"""A test of the user's own run, by a file, a directory or an id of MLflow's, with nothing else said; and of a network that has collapsed."""

from __future__ import annotations

import json

import pytest
import torch

import facenet
from facenet.engine import checkpoint
from facenet.errors import UserError
from facenet.tasks.evaluate import run_evaluation
from facenet.tasks.restore import checkpoint_named


@pytest.fixture
def store(tiny_run, monkeypatch):
    address = f"sqlite:///{tiny_run.run_dir.parent}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return address


def row_of(tiny_run):
    return json.loads((tiny_run.run_dir / "history.json").read_text())[-1]


def test_a_run_is_named_by_its_directory_or_its_id(tiny_run, store, tmp_path):
    best = tiny_run.run_dir / "checkpoints" / "best.pt"
    run_id = checkpoint.load(best)["run_id"]
    assert checkpoint_named(tiny_run.run_dir) == checkpoint_named(run_id) == checkpoint_named(run_id, store) == best
    assert checkpoint_named(best) == best
    with pytest.raises(
        UserError,
        match="checkpoint=00.*00: no file or directory here, and no run in MLflow at sqlite:.*MLFLOW_TRACKING_URI",
    ):
        checkpoint_named("0" * 32)
    with pytest.raises(UserError, match="neither a checkpoint nor a run directory"):
        checkpoint_named(tmp_path)
    network = facenet.load(run_id, device="cpu")
    assert network.path == best and network.threshold is not None


def test_a_run_that_lies_elsewhere_now_is_told(tiny_run, store, monkeypatch):
    from facenet.tracking import reading

    record = reading.run(store, checkpoint.load(tiny_run.run_dir / "checkpoints" / "last.pt")["run_id"])
    record.tags["run_dir"] = "/not/here"
    monkeypatch.setattr(reading, "run", lambda *_: record)
    with pytest.raises(UserError, match="its run directory '/not/here' is not here; name the checkpoint's file"):
        checkpoint_named(record.id)


def test_with_nothing_said_it_repeats_the_runs_figures(tiny_run, compose_evaluate, tmp_path, capsys):
    said = f"checkpoint={tiny_run.run_dir / 'checkpoints' / 'last.pt'}"
    result = run_evaluation(compose_evaluate(said), run_dir=tmp_path / "e", overrides=[said])
    row = row_of(tiny_run)
    assert {name: result.metrics[name] for name in row if name.startswith("heldout/")} == {
        name: value for name, value in row.items() if name.startswith("heldout/")
    }
    assert result.objective == row["heldout/accuracy"] and result.collapsed is None
    assert result.checkpoint == tiny_run.run_dir / "checkpoints" / "last.pt"
    assert "\nheldout: 60 pairs, 3 folds" in "\n" + capsys.readouterr().out


def test_a_copy_is_of_the_same_run_and_one_that_was_changed_is_not(tiny_run, compose_evaluate, tmp_path):
    content = checkpoint.load(tiny_run.run_dir / "checkpoints" / "last.pt")
    content["config"]["data"]["size"] = 33
    checkpoint.save(content, tmp_path / "changed.pt")
    said = f"checkpoint={tmp_path}/changed.pt"
    with pytest.raises(UserError, match="benchmark: the checkpoint is of no run of yours on this machine"):
        run_evaluation(compose_evaluate(said), run_dir=tmp_path / "e", overrides=[said])
    assert not (tmp_path / "e").exists()


def test_two_benchmarks_give_two_tables_and_one_picture(tiny_run, compose_evaluate, tmp_path, capsys):
    said = [
        f"checkpoint={tiny_run.run_dir}",
        "+benchmark@benchmarks.flipped=heldout",
        "benchmarks.flipped.num_pairs=40",
    ]
    said += ["benchmarks.flipped.num_folds=2", "benchmark/protocol@benchmarks.flipped.protocol=flip"]
    result = run_evaluation(compose_evaluate(*said), run_dir=tmp_path / "e", overrides=said)
    told = capsys.readouterr().out
    assert told.index("heldout: 60 pairs, 3 folds") < told.index("flipped: 40 pairs, 2 folds")
    assert {path.name for path in (tmp_path / "e").iterdir()} >= {"flipped.json", "heldout.json", "roc.png"}
    assert result.objective == result.metrics["heldout/accuracy"] and "flipped/accuracy" in result.metrics
    assert json.loads((tmp_path / "e" / "flipped.json").read_text())["threshold"]["flip"] == "concat"


def collapsed(tiny_run, path):
    content = checkpoint.load(tiny_run.run_dir / "checkpoints" / "last.pt")
    name = next(key for key in content["embedder"] if key.endswith("last_bn.weight"))
    content["embedder"][name] = torch.zeros_like(content["embedder"][name])
    bias = name.replace("weight", "bias")
    content["embedder"][bias] = torch.ones_like(content["embedder"][bias])
    checkpoint.save(content, path)
    return path


def test_a_collapsed_network_is_said_and_has_no_objective(tiny_run, compose_evaluate, tmp_path):
    said = f"checkpoint={collapsed(tiny_run, tmp_path / 'flat.pt')}"
    result = run_evaluation(compose_evaluate(said), run_dir=tmp_path / "e", overrides=[said])
    assert result.objective != result.objective and "embeddings collapsed" in (result.collapsed or "")
    assert set(result.metrics) == {"heldout/spread"}


@pytest.mark.slow
def test_the_command_fails_for_a_collapsed_network(tiny_run, tmp_path, facenet_evaluate):
    flat = collapsed(tiny_run, tmp_path / "flat.pt")
    done = facenet_evaluate(f"checkpoint={flat}", "accelerator=cpu", "tracking=none")
    assert done.code == 1 and "no accuracy: embeddings collapsed" in done.out
    assert done.err.strip().splitlines()[-1].startswith(f"{flat}: embeddings collapsed")
    assert (done.run_dir / "heldout.json").is_file()
