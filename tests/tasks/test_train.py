import getpass
import json
import logging
import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facenet import config as configs
from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.engine import checkpoint
from facenet.errors import UserError
from facenet.tasks.job import prepare, run_job
from facenet.tasks.origin import git_state, origin
from facenet.tasks.run import Run
from facenet.tasks.train import run

IN_GROUPS = ["triplet_semi_hard", "triplet_all", "triplet_distance_weighted"]  # which only P x K batches have
SHARDED = ["ce_sharded", "arcface_sharded", "cosface_sharded"]
LOSSES = ["triplet_ce", "ce", "triplet", "cosface", "arcface", "cosface_triplet", "triplet_hard", *SHARDED, *IN_GROUPS]


class NeverStop:
    def __bool__(self):
        return False


@pytest.fixture
def trained(compose, tmp_path):
    """trained(*overrides): the result of the tiny job in this process, and its last checkpoint."""

    def train(*overrides, run_dir=None):
        directory = run_dir or tmp_path / "run"
        directory.mkdir(exist_ok=True)
        result = run(Run(directory, compose(*overrides), None, NeverStop()))
        return result, checkpoint.load(directory / "checkpoints" / "last.pt")

    return train


def read(path):
    return json.loads(path.read_text())


def tensors_equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_run_directory(tiny_run):
    files = {str(path.relative_to(tiny_run.run_dir)) for path in tiny_run.run_dir.rglob("*") if path.is_file()}
    curves = {
        "epoch_loss.png",
        "epoch_acc.png",
        "roc.png",
        "scores-heldout.png",
        "det-heldout.png",
        "projection-heldout.png",
    }
    pictures = curves | {"faces-batch.png", "faces-hardest-heldout.png"}
    records = {
        "resolved.yaml",
        "split.json",
        "history.json",
        "heldout.json",
        "hardest-heldout.json",
        "pairs-heldout.csv.gz",
        "result.json",
        "train.log",
    }
    checkpoints = {f"checkpoints/{name}.pt" for name in ("last", "best", "epoch-001", "epoch-002")}
    tracked = {"metrics.jsonl", "metrics.jsonl.sent", "tracking.json"}
    assert files - {"cli.log", ".lock"} == pictures | records | checkpoints | tracked
    for name in curves:
        with Image.open(tiny_run.run_dir / name) as image:
            assert image.format == "PNG" and image.width > 500


def test_what_the_command_says(tiny_run):
    assert tiny_run.out.startswith("plan\n") and "steps        4 an epoch, 2 epochs, 8 in all" in tiny_run.out
    assert f"checkpoint  {tiny_run.run_dir}/checkpoints/best.pt" in tiny_run.out
    uri = shlex.quote(f"sqlite:///{tiny_run.run_dir.parent}/mlflow.db")
    assert f"mlflow server --backend-store-uri {uri} --host 127.0.0.1" in tiny_run.out
    assert "step 8 of 8" in tiny_run.err and "Traceback" not in tiny_run.err
    log = (tiny_run.run_dir / "train.log").read_text()
    assert "device cpu (asked for), precision fp32, process 0 of 1" in log and "epoch 2: train/loss" in log


def test_history_holds_a_row_per_epoch(tiny_run):
    rows = read(tiny_run.run_dir / "history.json")
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        assert row["train/loss"] == pytest.approx(row["train/triplet"] + row["train/ce"], rel=1e-5)
        assert row["val/loss"] == pytest.approx(row["val/triplet"] + row["val/ce"], rel=1e-5)
        assert 0 <= row["train/ce/accuracy"] <= 1 and 0 <= row["train/triplet/active"] <= 1
        assert {"heldout/accuracy", "heldout/accuracy_std", "heldout/auc", "heldout/eer"} <= row.keys()


def test_the_split_is_on_record(tiny_run, compose):
    split, (material, plan) = read(tiny_run.run_dir / "split.json"), prepare(compose())
    assert split["fingerprint"] == plan.images.data_fingerprint and split["seed"] == 10101
    assert split["num_images"] == {"train": 58, "val": 6, "heldout": 32}
    assert split["heldout_identities"] == list(material.heldout.identities)
    assert not set(split["heldout_identities"]) & set(material.train.identities)


def test_the_config_on_record_is_the_one_that_ran(tiny_run, compose):
    written = configs.read(tiny_run.run_dir / "resolved.yaml")
    expected = compose()
    assert {**written, "tracking": None} == {**expected, "tracking": None}


def test_the_checkpoint_is_enough_by_itself(tiny_run, compose):
    content = checkpoint.load(tiny_run.run_dir / "checkpoints" / "last.pt")
    rows = read(tiny_run.run_dir / "history.json")
    assert (content["epoch"], content["step"]) == (2, 8) and content["metrics"] == rows[-1]
    assert content["config"] == configs.read(tiny_run.run_dir / "resolved.yaml")
    assert len(content["identities"]) == 8 == content["loss"]["terms.ce.weight"].shape[0]
    threshold = content["threshold"]
    assert threshold["value"] == pytest.approx(rows[-1]["heldout/threshold"]) and threshold["distance"] == "l2"
    assert content["data_fingerprint"] == read(tiny_run.run_dir / "split.json")["fingerprint"]
    assert content["training"]["optimizer"]["state"] and content["training"]["scaler"] == {}
    assert tensors_equal(content["embedder"], content["training"]["embedder"])


def test_the_best_checkpoint_is_that_of_the_best_epoch(tiny_run):
    rows = read(tiny_run.run_dir / "history.json")
    best = max(rows, key=lambda row: row["heldout/accuracy"])
    result = read(tiny_run.run_dir / "result.json")
    assert checkpoint.load(result["checkpoint"])["epoch"] == best["epoch"]
    assert result["objective"] == best["heldout/accuracy"] and result["metrics"] == best


def test_mlflow_holds_the_run(tiny_run):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tiny_run.run_dir.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("facenet")
    of_it = f"tags.run_dir = '{tiny_run.run_dir}'"
    (found,) = client.search_runs([experiment.experiment_id], filter_string=of_it)
    rows = read(tiny_run.run_dir / "history.json")
    assert found.info.status == "FINISHED"
    assert checkpoint.load(tiny_run.run_dir / "checkpoints" / "best.pt")["run_id"] == found.info.run_id
    params = found.data.params
    assert params["data.num_identities"] == "12" and "plan.total_steps" not in params and params["seed"] == "0"
    assert params["optimizer"] == "adam" and params["plan.data_fingerprint"] and "optimizer._target_" not in params

    def points(name):
        return [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, name)]

    assert next(iter(found.data.metrics)) == "best/heldout/accuracy", "MLflow's compare page has the first for its axis"
    assert points("heldout/accuracy") == [(4, rows[0]["heldout/accuracy"]), (8, rows[1]["heldout/accuracy"])]
    assert points("val/loss") == [(4, rows[0]["val/loss"]), (8, rows[1]["val/loss"])]
    steps = dict(points("train/loss"))
    assert list(steps) == [2, 4, 6, 8]
    assert (steps[2] + steps[4]) / 2 == pytest.approx(rows[0]["train/loss"], rel=1e-5)
    assert points("samples_seen") == [(2, 24), (4, 48), (6, 72), (8, 96)]
    assert len(params) < 45 and len([name for name in found.data.metrics if not name.startswith("system/")]) <= 17
    best = max(rows, key=lambda row: row["heldout/accuracy"])
    assert found.data.metrics["best/heldout/accuracy"] == best["heldout/accuracy"]
    assert found.data.metrics["best/epoch"] == best["epoch"]
    folds = json.loads(found.data.tags["folds.heldout"])
    assert sum(folds) / 3 == pytest.approx(best["heldout/accuracy"]), "of the best epoch"
    records = [json.loads(line) for line in (tiny_run.run_dir / "metrics.jsonl").read_text().splitlines()[1:]]
    measured = {record["step"] for record in records if "train/loss" in record.get("metrics", {})}
    measured |= {record["step"] for record in records if "val/loss" in record.get("metrics", {})}
    assert {step for step, _ in points("samples_seen")} == measured, (
        "whatever is measured can be drawn over the images seen"
    )
    artifacts = {
        item.path
        for top in ("config", "curves", "faces", "records")
        for item in client.list_artifacts(found.info.run_id, top)
    }
    assert artifacts == {
        *("config/resolved.yaml", "config/everything.json"),
        *("curves/epoch_loss.png", "curves/epoch_acc.png", "curves/roc.png"),
        *("curves/scores-heldout.png", "curves/det-heldout.png", "curves/projection-heldout.png"),
        *("faces/faces-batch.png", "faces/faces-hardest-heldout.png", "records/hardest-heldout.json"),
        *("records/history.json", "records/split.json", "records/heldout.json", "records/pairs-heldout.csv.gz"),
    }
    assert found.data.tags["run_dir"] == str(tiny_run.run_dir) and "facenet-train" in found.data.tags["command"]
    assert {each.tags[0].value for each in found.inputs.dataset_inputs} == {"train", "test"}


def test_the_same_seed_gives_the_same_parameters_and_another_does_not(tiny_run, facenet_train):
    first = checkpoint.load(tiny_run.run_dir / "checkpoints" / "last.pt")
    done = facenet_train("data.num_workers=2")  # the number of threads must not matter either
    assert done.code == 0, done.err
    again = checkpoint.load(done.run_dir / "checkpoints" / "last.pt")
    for part in ("embedder", "loss"):
        assert tensors_equal(first[part], again[part])
    assert first["metrics"] == again["metrics"] and again["run_id"] is None


def test_another_seed_gives_other_parameters_on_the_same_split(tiny_run, trained):
    first = checkpoint.load(tiny_run.run_dir / "checkpoints" / "last.pt")
    _, other = trained("seed=1", "trainer.max_steps=1")
    name = "Bottleneck.weight"
    assert (first["embedder"][name] - other["embedder"][name]).abs().mean() > 1e-3
    assert first["identities"] == other["identities"] and first["data_fingerprint"] == other["data_fingerprint"]


def test_the_job_returns_what_a_sweep_maximises(compose, tmp_path, capfd):
    config = compose("trainer.max_steps=4", "trainer.select=heldout/auc")
    value = run_job(config, run_dir=tmp_path / "run", overrides=["trainer.max_steps=4"], tags={}).objective
    (row,) = read(tmp_path / "run" / "history.json")
    assert value == row["heldout/auc"] and "best by      heldout/auc" in capfd.readouterr().out


def test_where_a_run_came_from(tmp_path, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: {}["uid 12345 has no name"])  # as in a container
    monkeypatch.chdir(tmp_path)
    tags = origin("facenet-train", ["optimizer.lr=0.1", "sweep.jobs_per_node=2", "data.root=a b"], {})
    assert tags["mlflow.user"] == str(os.getuid())
    assert tags["command"] == "facenet-train optimizer.lr=0.1 'data.root=a b'"
    assert torch.__version__.startswith(tags["version.torch"])  # which leaves out "+cpu" or has it, as the wheel says
    assert "git.dirty" not in tags and tags["code"].startswith("facenet ")  # no repository here
    assert tags["mlflow.source.name"] == "facenet-train"
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", *command], check=True)
    assert len(git_state(tmp_path)["mlflow.source.git.commit"]) == 40
    assert git_state(tmp_path)["git.dirty"] == "false"


@pytest.mark.slow
def test_two_runs_may_start_on_one_fresh_database(started, finished, tiny, tmp_path):
    places = [tmp_path / name for name in ("a", "b")]
    job = [*tiny, "trainer.max_steps=2", f"tracking.uri=sqlite:///{tmp_path}/fresh/mlflow.db"]
    running = [started("facenet-train", place, *job) for place in places]
    results = [finished(process, place) for process, place in zip(running, places, strict=True)]
    assert [done.code for done in results] == [0, 0], [done.err for done in results]
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/fresh/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("facenet").experiment_id])
    assert [each.info.status for each in runs] == ["FINISHED"] * 2
    assert {each.data.tags["run_dir"] for each in runs} == {str(place) for place in places}
    assert all("best/heldout/accuracy" in each.data.metrics for each in runs)


@pytest.mark.parametrize("sampler", ["triplet", "identity", "shuffle"])
@pytest.mark.parametrize(
    "loss", [loss if loss == "triplet_ce" else pytest.param(loss, marks=pytest.mark.slow) for loss in LOSSES]
)
def test_every_loss_trains_on_every_sampler(trained, loss, sampler):
    if loss in IN_GROUPS and sampler != "identity":
        with pytest.raises(UserError, match="sampler=identity"):
            trained(f"loss={loss}", f"sampler={sampler}", "benchmark=none", "trainer.max_steps=2")
        return
    result, content = trained(
        f"loss={loss}", f"sampler={sampler}", "benchmark=none", "schedule=constant", "trainer.max_steps=2"
    )
    assert content["step"] == 2 and np.isfinite(result["metrics"]["train/loss"])
    torch.manual_seed(0)
    start = configs.build(content["config"]["backbone"]).state_dict()
    moved = [name for name, value in content["embedder"].items() if not torch.equal(value, start[name])]
    assert "Bottleneck.weight" in moved and "backbone.model.stage1.0.0.weight" in moved
    terms = set(content["config"]["loss"]["terms"])
    assert {name.split("/")[1] for name in result["metrics"] if name.startswith("train/")} == terms | {"loss"}


def test_no_loss_is_left_out():
    folder = Path(__file__).parents[2] / "conf" / "loss"
    assert {path.stem for path in folder.iterdir()} == set(LOSSES)


def test_bf16_trains_close_to_fp32_and_keeps_parameters_in_fp32(trained, tmp_path):
    short = ["trainer.max_steps=1", "benchmark=none", "backbone.dropout=0.0"]
    (_, full), (_, half) = (trained(*short, f"precision={name}", run_dir=tmp_path / name) for name in ("fp32", "bf16"))
    assert all(value.dtype in (torch.float32, torch.int64) for value in half["embedder"].values())
    difference = abs(half["metrics"]["train/loss"] - full["metrics"]["train/loss"])
    assert 0 < difference < 0.05 * full["metrics"]["train/loss"]


def test_accumulation_keeps_the_number_of_steps_and_images(trained):
    _, content = trained("data.batch_size=12", "trainer.accumulate=2", "benchmark=none", "trainer.epochs=1")
    assert (content["step"], content["epoch"]) == (4, 1)
    # 4 steps of 2 parts: the counter of batch norm sees every part
    assert content["embedder"]["last_bn.num_batches_tracked"].item() == 8


def test_with_an_average_of_weights_the_average_is_tested_and_shipped(trained):
    _, content = trained("trainer.ema_decay=0.9", "trainer.max_steps=4")
    shipped, raw = content["embedder"], content["training"]["embedder"]
    assert not torch.equal(shipped["Bottleneck.weight"], raw["Bottleneck.weight"])
    assert tensors_equal(shipped, content["training"]["ema"]["model"])
    assert content["training"]["ema"]["num_updates"] == 4


def test_testing_every_other_epoch_and_at_the_end(trained, tmp_path):
    trained("trainer.epochs=3", "trainer.evaluate_every=2", "data.batch_size=24", "trainer.keep=3")
    rows = read(tmp_path / "run" / "history.json")
    assert ["heldout/accuracy" in row for row in rows] == [False, True, True]
    kept = [checkpoint.load(tmp_path / "run" / "checkpoints" / f"epoch-00{epoch}.pt") for epoch in (1, 2, 3)]
    thresholds = [content["threshold"] and content["threshold"]["value"] for content in kept]
    assert thresholds == [row.get("heldout/threshold") for row in rows]  # one belongs to the weights it was chosen for


def test_without_a_benchmark_the_validation_loss_chooses(trained, tmp_path):
    result, content = trained("benchmark=none", "optimizer.lr=0.01", "data.val_images=0.4", "data.val_identities=0.0")
    rows = read(tmp_path / "run" / "history.json")
    assert result["objective"] == min(row["val/loss"] for row in rows) and content["threshold"] is None
    assert not (tmp_path / "run" / "roc.png").exists() and len(content["identities"]) == 12


def test_a_metric_that_is_not_measured_cannot_choose(trained):
    with pytest.raises(UserError, match=r"trainer\.select=heldout/acc: not among heldout/accuracy, .*heldout/auc"):
        trained("trainer.select=heldout/acc", "trainer.max_steps=1")


def test_a_rate_of_errors_is_better_when_lower(trained, tmp_path):
    result, _ = trained("trainer.select=heldout/eer", "optimizer.lr=0.1", "schedule.batch_rule=false")
    rates = [row["heldout/eer"] for row in read(tmp_path / "run" / "history.json")]
    assert result["objective"] == min(rates)
    assert checkpoint.load(result["checkpoint"])["epoch"] == 1 + rates.index(min(rates))


def test_weights_to_start_from(trained, tiny_run, caplog):
    caplog.set_level(logging.INFO)
    path = tiny_run.run_dir / "checkpoints" / "last.pt"
    _, content = trained(
        f"weights={path}",
        "trainer.max_steps=1",
        "benchmark=none",
        "seed=5",
        "schedule.batch_rule=false",
        "optimizer.lr=1e-6",
    )
    source = checkpoint.load(path)["embedder"]
    for name in ("Bottleneck.weight", "backbone.model.stage1.0.0.weight"):
        torch.testing.assert_close(content["embedder"][name], source[name], rtol=0, atol=1e-5)
    assert "last.pt: " in caplog.text and "tensors loaded" in caplog.text


@pytest.fixture
def people(tmp_path):
    """A folder of 6 identities x 6 images, one of them cut short."""
    faces = SyntheticFaces(num_identities=6, images_per_identity=6, size=32, seed=0)
    for index in range(len(faces)):
        path = tmp_path / "people" / f"id {faces.labels[index]}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.load(index)).save(path, quality=95)
    damaged = tmp_path / "people" / "id 0" / "0.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    return tmp_path / "people"


def test_unreadable_images_are_replaced_named_and_recorded(people, trained, tmp_path, caplog):
    job = ["data=folder", f"data.root={people}", "benchmark=none", "sampler=shuffle", "data.val_identities=0.0"]
    job += ["data.val_images=0.0", "trainer.epochs=1"]
    with pytest.raises(UserError, match="data: 1 of 36 images cannot be read, more than data.max_unreadable=0 allows"):
        trained(*job, "data.max_unreadable=0.0")
    trained(*job, "data.max_unreadable=0.1")
    (name,) = read(tmp_path / "run" / "unreadable.json")
    assert name == str(people / "id 0" / "0.jpg") and name in caplog.text
    assert "1 images could not be read and were replaced" in caplog.text


@pytest.mark.slow
def test_unreadable_images_of_all_processes_are_named(people, facenet_train, tmp_path):
    damaged = [next(folder.iterdir()) for folder in people.iterdir()]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:200])
    job = ["data=folder", f"data.root={people}", "benchmark=none", "sampler=shuffle", "data.val_identities=0.0"]
    job += ["data.val_images=0.0", "trainer.epochs=1", "data.max_unreadable=0.5"]
    done = facenet_train(*job, "distributed=ddp", "distributed.num_processes=2")
    assert done.code == 0, done.err
    named = read(tmp_path / "run" / "unreadable.json")
    assert {str(path) for path in damaged} <= set(named) and len(named) <= len(damaged) + 1  # one more in id 0
