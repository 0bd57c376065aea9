"""The best network of a run in MLflow: once, with the metrics of its checkpoint, and nothing of one that was not finished."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import tempfile

import numpy as np
import pytest
import torch

from facenet.tasks.registration import best_of
from facenet.tracking import model
from facenet.tracking.facts import RunFacts
from facenet.tracking.model import Best, current_store, keep, register

ROW = {"lfw/accuracy": 0.75, "val/loss": 2.5, "epoch": 3.0, "epoch/train/loss": 1.5}
BEST = Best(network=None, example=None, step=30, figures=tuple(ROW), total_steps=500, threshold="1.25 squared_l2")


@pytest.fixture
def quickly(monkeypatch):
    """Models without a network: what is kept and deleted is the same."""

    def save(best, made, folder):
        folder.mkdir()
        (folder / "MLmodel").write_text(f"step: {best.step}\n")

    monkeypatch.setattr(model, "save", save)


@pytest.fixture
def recorded(own, facts, tmp_path):
    """recorded(**facts): a client, and the id of a run with three epochs in a store of the test's own."""
    from mlflow import MlflowClient

    def run(**changes: object) -> tuple[MlflowClient, str]:
        with own.run(RunFacts(**{**facts().__dict__, "tags": {}, **changes})) as run_id:
            tracker = own.tracker(run_id, tmp_path)
            for step in (10, 20, 30):
                tracker.metrics({**ROW, "lfw/accuracy": step / 40}, step=step)
            tracker.close()
        return MlflowClient(tracking_uri=own.uri), run_id

    return run


def models(client, run_id):
    return client.search_logged_models([client.get_run(run_id).info.experiment_id])


def test_a_model_has_the_metrics_of_its_step_and_the_run_has_none_twice(recorded, quickly):
    client, run_id = recorded()
    kept = keep(client, run_id, BEST)
    (found,) = models(client, run_id)
    assert {metric.key: (metric.value, metric.step) for metric in found.metrics} == {
        name: (value, 30) for name, value in ROW.items()
    }
    of_test = {metric.key: (metric.dataset_name, metric.dataset_digest) for metric in found.metrics}
    assert of_test["lfw/accuracy"] == ("lfw", "f" * 36) and of_test["val/loss"] == (None, None)
    assert [point.value for point in client.get_metric_history(run_id, "lfw/accuracy")] == [0.25, 0.5, 0.75]
    run = client.get_run(run_id)
    assert [(each.model_id, each.step) for each in run.outputs.model_outputs] == [(kept.model_id, 30)]
    assert run.info.status == "FINISHED" and str(found.status) == "READY" and found.source_run_id == run_id
    assert found.params == run.data.params and found.tags["threshold"] == "1.25 squared_l2"
    for bound, number in ((0.7, 1), (0.8, 0)):
        searched = client.search_logged_models([run.info.experiment_id], f"metrics.`lfw/accuracy` > {bound}")
        assert len(searched) == number


def test_it_is_there_once_and_a_better_one_takes_its_place_unless_it_is_registered(recorded, own, quickly):
    client, run_id = recorded()
    first = keep(client, run_id, BEST)
    assert "0.0 MB in " in str(first)
    assert str(keep(client, run_id, BEST)) == f"models:/{first.model_id}, which was there"
    second = keep(client, run_id, dataclasses.replace(BEST, step=20))
    assert [each.model_id for each in models(client, run_id)] == [second.model_id]
    assert [register(client, own.uri, second.model_id, "faces") for _ in range(2)] == ["1", "1"]
    version = client.get_model_version_by_alias("faces", "candidate")
    assert (version.run_id, version.source) == (run_id, f"models:/{second.model_id}")
    third = keep(client, run_id, BEST)
    assert {each.model_id for each in models(client, run_id)} == {second.model_id, third.model_id}


def test_of_a_sweep_the_winners_alone_is_there(recorded, quickly):
    (client, one), (_, other), (_, alone) = (
        recorded(tags={"sweep_id": "s"}),
        recorded(tags={"sweep_id": "s"}),
        recorded(),
    )
    for run_id in (one, alone):
        keep(client, run_id, BEST)
    keep(client, other, BEST, {one})
    assert {each.source_run_id for each in models(client, one)} == {other, alone}


def test_another_sweep_of_the_same_name_keeps_its_model(recorded, quickly):
    (client, one), (_, other) = recorded(tags={"sweep_id": "s"}), recorded(tags={"sweep_id": "s"})
    keep(client, one, BEST)
    keep(client, other, BEST)  # of another directory, or a job that goes on by itself
    assert {each.source_run_id for each in models(client, one)} == {one, other}


def test_what_ends_the_making_leaves_no_model(recorded, monkeypatch):
    def stop(*given):
        raise KeyboardInterrupt

    client, run_id = recorded()
    monkeypatch.setattr(model, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        keep(client, run_id, BEST)
    assert models(client, run_id) == [] and not client.get_run(run_id).outputs.model_outputs


@pytest.mark.parametrize(
    ("settings", "steps", "kept"),
    [
        ({}, 200, True),
        ({}, 199, False),
        ({"model": True}, 1, True),
        ({"model": False}, 500, False),
        ({"model": False, "register": "faces"}, 1, True),
    ],
)
def test_one_key_decides(own, recorded, quickly, caplog, settings, steps, kept):
    caplog.set_level("INFO")
    client, run_id = recorded()
    tracking = dataclasses.replace(own, **settings)
    tracking.keep_model(run_id, lambda: dataclasses.replace(BEST, total_steps=steps))
    assert len(models(client, run_id)) == kept
    assert ("the best network is in its run: models:/m-" in caplog.text) == kept
    assert ("registered as models:/faces/1, alias candidate" in caplog.text) == ("register" in settings)


def test_a_network_that_cannot_be_kept_costs_the_model_alone(mlflow, client, facts, caplog):
    def damaged():
        raise RuntimeError("the checkpoint is gone\nand more")

    with mlflow.run(facts()) as run_id:
        pass
    mlflow.keep_model(run_id, damaged)
    dataclasses.replace(mlflow, register="faces").keep_model(run_id, damaged)
    assert "tracking.model=true: the network was not in its run (the checkpoint is gone)" in caplog.text
    assert "tracking.register=faces: the network was not registered (the checkpoint is gone)" in caplog.text
    assert client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "way"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a/model.pt2", None, "b/model.pt2"),
            "; free space, then: DO",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "b"), "; free space, then: DO"),
        (OSError(errno.ENOSPC, "No space", tempfile.gettempdir()), "; free space or set TMPDIR, then: DO"),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), "; free space, then: DO"),
        (OSError(errno.EACCES, "Permission denied", "b"), ""),
    ],
)
def test_a_full_disk_is_told_with_the_way_out(mlflow, facts, caplog, error, way):
    def full():
        raise error

    with mlflow.run(facts()) as run_id:
        pass
    mlflow.keep_model(run_id, full, again="DO")
    assert caplog.messages[-1] == f"tracking.model=true: the network was not in its run ({error}){way}"


def test_room_is_asked_for_before_torch_writes(monkeypatch, tmp_path):
    model.check_room(1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        model.check_room(1000)
        with pytest.raises(OSError, match="File too large") as raised:
            model.check_room(1001)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.filename == str(tmp_path) and not [*tmp_path.iterdir()]


def test_without_a_run_nothing_is_asked_for(mlflow, caplog):
    dataclasses.replace(mlflow, register="faces").keep_model(None, lambda: 1 / 0)
    dataclasses.replace(mlflow, model=False).keep_model("whatever", lambda: 1 / 0)
    assert not caplog.records


@pytest.mark.parametrize("said", [None, "sqlite:////said/mlflow.db"])
def test_another_store_is_current_for_a_while_alone(own, monkeypatch, tmp_path, said):
    """Where none had been said, the one of that working directory was from then on."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////variable/mlflow.db")
    if said is not None:
        mlflow.set_tracking_uri(said)
    with current_store(own.uri):
        assert mlflow.get_tracking_uri() == own.uri
    assert mlflow.get_tracking_uri() == os.environ["MLFLOW_TRACKING_URI"] == (said or "sqlite:////variable/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////later/mlflow.db")
    assert mlflow.get_tracking_uri() == (said or "sqlite:////later/mlflow.db")
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_a_model_that_is_loaded_embeds_as_its_checkpoint(recorded, own, tiny_run):
    import mlflow

    best = best_of(tiny_run.run_dir / "checkpoints" / "best.pt")
    client, run_id = recorded()
    kept = keep(client, run_id, best)
    version = register(client, own.uri, kept.model_id, "faces")
    with current_store(own.uri):
        loaded = [mlflow.pyfunc.load_model(uri) for uri in (f"models:/{kept.model_id}", f"models:/faces/{version}")]
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    with torch.no_grad():
        expected = best.network(torch.from_numpy(images)).numpy()
    for each in loaded:
        np.testing.assert_allclose(each.predict(images), expected, atol=1e-5)
    assert np.linalg.norm(expected, axis=1) == pytest.approx(1)
