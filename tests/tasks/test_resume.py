"""An interrupted run goes on as if nothing had happened."""

import functools
import json
import random
import signal
import sqlite3
import time

import pytest
from jobs import unequal

from facenet.engine import checkpoint
from facenet.errors import UserError
from facenet.tasks import resume, run_store
from facenet.tracking import known
from facenet.tracking.choice import MlflowTracking, NoTracking

SAMPLED = (
    *("trainer.epochs=6", "trainer.log_every=1", "trainer.clip_grad_norm=5.0"),
    *("data.num_identities=48", "data.images_per_identity=2", "sampler=shuffle"),
    *("loss=arcface_sharded", "loss.terms.arcface.loss.sample=0.5", "loss.terms.arcface.loss.warmup_steps=9"),
)
LONG = ("trainer.epochs=6", "trainer.ema_decay=0.5", "trainer.log_every=1", "trainer.accumulate=2")


def wait_for_step(run_dir, step, process):
    end = time.monotonic() + 900
    while not (run_dir / "train.log").exists() or f"step {step} of" not in (run_dir / "train.log").read_text():
        assert time.monotonic() < end and process.poll() is None, "ended before that step"
        time.sleep(0.02)


def points(database, run_id):
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select key, step, value from metrics where run_uuid = ?", [run_id]).fetchall()
    return [row for row in rows if not row[0].startswith(("system/",)) and row[0] != "train/images_per_s"]


@pytest.fixture(scope="module")
def undisturbed(started, finished, tmp_path_factory):
    """undisturbed(*job): the run of a job to which nothing happened, one for all who ask, with a store beside it."""

    @functools.cache
    def run(*job):
        folder = tmp_path_factory.mktemp("undisturbed")
        process = started("facenet-train", folder / "run", *job, f"tracking.uri=sqlite:///{folder}/mlflow.db")
        done = finished(process, folder / "run")
        assert done.code == 0, done.err
        return done

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "precision", "parts", "number"),
    [
        *((processes, precision, LONG, 0) for processes in (1, 2) for precision in ("fp32", "fp16")),
        *(
            pytest.param(processes, precision, LONG, 1, marks=pytest.mark.nightly)
            for processes in (1, 2)
            for precision in ("fp32", "fp16")
        ),
        *((2, precision, SAMPLED, 0) for precision in ("fp32", "fp16")),
    ],
    ids=lambda value: str(value) if not isinstance(value, tuple) else "sampled" if value == SAMPLED else "whole",
)
def test_stopped_and_resumed_is_uninterrupted_bit_for_bit(
    started, finished, undisturbed, tiny, tmp_path, request, monkeypatch, processes, precision, parts, number
):
    """At a step that is drawn; fp16 with its scaler on the SDAA stand-in."""
    step = random.Random(f"{processes} {precision} {number}").randrange(1, 10)
    many = ("distributed=ddp", "data.batch_size=12") if processes == 2 else ()
    if precision == "fp16":
        many = (*many, "accelerator=sdaa", "precision=fp16")
        for name, value in request.getfixturevalue("standin").items():
            monkeypatch.setenv(name, value)
    job = [*tiny, *parts, *many]
    straight = undisturbed(*job)

    broken = tmp_path / "broken"
    process = started("facenet-train", broken, *job, f"tracking.uri=sqlite:///{tmp_path}/mlflow.db")
    wait_for_step(broken, step, process)
    process.send_signal(signal.SIGTERM)
    assert finished(process, broken).code == 143
    stopped = checkpoint.load(broken / "checkpoints" / "last.pt")
    total = checkpoint.load(straight.run_dir / "checkpoints" / "last.pt")["step"]
    assert step <= stopped["step"] < total and bool(stopped["training"]["scaler"]) == (precision == "fp16")

    # From another directory, with nothing but the name of the run.
    again = started("facenet-train", tmp_path / "elsewhere" / "own", f"resume={broken}")
    done = finished(again, broken)
    assert done.code == 0, done.err
    assert f"goes on at step {stopped['step']}, in epoch {stopped['epoch'] + 1}" in done.err
    assert not (tmp_path / "elsewhere" / "own").exists()  # Hydra's directory of that command holds nothing
    for name in ("last.pt", "best.pt", "epoch-006.pt"):
        whole, resumed = (checkpoint.load(run / "checkpoints" / name) for run in (straight.run_dir, broken))
        ids = [content.pop("run_id") for content in (whole, resumed)]
        assert all(content.pop("own") for content in (whole, resumed)), "a mark over the config, addresses and all"
        for content in (whole, resumed):
            content["config"]["resume"] = content["config"]["tracking"]["uri"] = None
        assert unequal(whole, resumed) == []
    results = [json.loads((run / "result.json").read_text()) for run in (straight.run_dir, broken)]
    assert results[0]["metrics"] == results[1]["metrics"] != {}
    assert json.loads((broken / "history.json").read_text()) == json.loads(
        (straight.run_dir / "history.json").read_text()
    )
    stores = [run.parent / "mlflow.db" for run in (straight.run_dir, broken)]
    expected, found = map(points, stores, ids)
    assert sorted(expected) == sorted(found)  # no point twice, none missing
    with sqlite3.connect(stores[1]) as database:
        assert list(database.execute("select run_uuid, status from runs")) == [(ids[1], "FINISHED")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "changed", "plan"),
    [
        (
            ("distributed=ddp", "distributed.num_processes=2"),
            "distributed.num_processes: was 1, is 2",
            "processes 1 -> 2; from the start of epoch 2, step 4",
        ),
        (
            ("data.batch_size=24",),
            "data.batch_size: was 12, is 24",
            "steps per epoch 4 -> 2; from the start of epoch 2, step 2",
        ),
    ],
    ids=["processes", "batch"],
)
def test_another_division_of_the_work_starts_the_epoch_again_and_is_on_record(
    started, finished, tiny, tmp_path, overrides, changed, plan
):
    run_dir, job = tmp_path / "run", [*tiny, f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", "trainer.log_every=1"]
    job.append("backbone.trunk.width=1.0")  # the signal has six steps to come in
    process = started("facenet-train", run_dir, *job, "trainer.epochs=3")
    wait_for_step(run_dir, 6, process)
    process.send_signal(signal.SIGTERM)
    assert finished(process, run_dir).code == 143
    same = [
        *job,
        "trainer.epochs=3",
        f"resume={run_dir}",
        *overrides,
    ]  # a choice of a group makes it the command's config
    refused = finished(started("facenet-train", tmp_path / "no", *same), tmp_path / "no")
    assert refused.code == 2 and f"\n  {changed}\n" in refused.err
    again = started("facenet-train", tmp_path / "no", *same, "resume_changed=true")
    done = finished(again, run_dir)
    assert done.code == 0, done.err
    assert f"the plan is another one ({plan.split(';')[0]}): goes on at the start of epoch 2" in done.err
    assert [row["epoch"] for row in json.loads((run_dir / "history.json").read_text())] == [1, 2, 3]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        tags = dict(database.execute("select key, value from tags").fetchall())
    assert tags["resumed_plan"] == plan and changed in tags["resumed_changed"] and tags["resumed"] == "1"


def test_a_run_goes_on_only_as_it_was(tiny_run, started, finished, tmp_path):
    def command(*overrides):
        return finished(started("facenet-train", tmp_path / "new", *overrides), tmp_path / "new")

    changed = command(f"resume={tiny_run.run_dir}", "optimizer.lr=0.5", "data.num_workers=1")
    assert changed.code == 2
    assert changed.err == (
        f"resume={tiny_run.run_dir}: the config is not that of {tiny_run.run_dir}\n"
        "  optimizer.lr: was 0.001, is 0.5\n"
        "  leave these out to go on as it was, or set resume_changed=true\n"
    )
    nothing = command("resume=auto", "accelerator=cpu", "trainer.max_steps=1", "tracking=none", "data.image_size=32")
    assert nothing.code == 0 and "goes on" not in nothing.err  # nothing to go on from: a new run


@pytest.fixture
def earlier(tiny_run):
    return resume.find(str(tiny_run.run_dir), tiny_run.run_dir)


def test_what_a_run_left(tiny_run, earlier):
    assert earlier.run_dir == tiny_run.run_dir and earlier.checkpoint == tiny_run.run_dir / "checkpoints" / "last.pt"
    assert earlier.run_id == earlier.content["run_id"] and len(earlier.run_id) == 32
    same = resume.find(str(tiny_run.run_dir / "checkpoints" / "epoch-001.pt"), tiny_run.run_dir)
    assert same.run_dir == tiny_run.run_dir and same.content["epoch"] == 1
    assert resume.find(None, tiny_run.run_dir) is None and resume.find("auto", tiny_run.run_dir / "no") is None
    assert resume.find("auto", tiny_run.run_dir).content["step"] == earlier.content["step"]


def test_the_command_that_began_a_run_is_known_to_one_that_goes_on(tiny_run, earlier):
    store = run_store.stored_in(tiny_run.run_dir)
    told = run_store.first_command(MlflowTracking(uri=store), earlier.run_id)
    assert told.startswith("facenet-train ") and "data.image_size=" in told
    assert run_store.first_command(MlflowTracking(uri=store), "0" * 32) is None
    assert run_store.first_command(NoTracking(), earlier.run_id) is None


def test_other_images_are_refused(earlier):
    earlier.check_data(earlier.content["data_fingerprint"], changed=False)
    earlier.check_data("other", changed=True)
    with pytest.raises(UserError, match=r"fingerprint other, was [0-9a-f]{16}\); restore them, or set resume_changed"):
        earlier.check_data("other", changed=False)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    content = {"config": {"seed": 1}, "identities": [], "embedder": {}, "loss": {}, "metrics": {}}
    content["training"] = {"progress": {}}
    content["data_fingerprint"] = "0" * 16
    for epoch in (1, 2):
        checkpoint.save({**content, "epoch": epoch, "step": epoch}, folder / f"epoch-{epoch:03d}.pt")
    (folder / "last.pt").write_bytes((folder / "epoch-002.pt").read_bytes()[:-200])
    (tmp_path / "resolved.yaml").write_text("seed: 2\n")  # what the checkpoint was written under counts
    found = resume.find("auto", tmp_path)
    assert found.checkpoint == folder / "epoch-002.pt" and found.content["epoch"] == 2 and found.config == {"seed": 1}
    assert "last.pt: damaged" in caplog.text and "an earlier one is tried" in caplog.text
    with pytest.raises(UserError, match="last.pt: damaged"):
        resume.find(str(folder / "last.pt"), tmp_path)  # named, so nothing stands in for it
    for path in folder.iterdir():
        path.write_bytes(b"PK")
    with pytest.raises(UserError, match="no checkpoint in it to go on from; leave resume out"):
        resume.find(str(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("content", "files", "said"),
    [
        ({"training": {}}, ["resolved.yaml"], "holds no state of training; give it as weights="),
        (
            {"training": {"progress": {}}, "data_fingerprint": "0"},
            [],
            "has no resolved.yaml, so it is not the run of this checkpoint",
        ),
    ],
)
def test_what_cannot_go_on(tmp_path, content, files, said):
    rest = {"config": {}, "identities": [], "embedder": {}, "loss": {}, "metrics": {}, "epoch": 1, "step": 1}
    checkpoint.save({**rest, **content}, tmp_path / "checkpoints" / "last.pt")
    for name in files:
        (tmp_path / name).write_text("seed: 1\n")
    with pytest.raises(UserError, match=said):
        resume.find(str(tmp_path), tmp_path)
    with pytest.raises(UserError, match="no such file or directory; name a run directory"):
        resume.find(str(tmp_path / "none"), tmp_path)


def test_values_are_laid_over_the_stored_config():
    stored, composed = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 10, "c": 20}, "d": 30}
    assert resume.overlaid(stored, composed, ["a.b=10", "new=1"]) == composed  # a key that the run did not have
    assert resume.overlaid(stored, composed, ["a.b=10", "++d=30", "resume=x"]) == {"a": {"b": 10, "c": 2}, "d": 30}
    assert resume.overlaid(stored, composed, ["a=other"]) == {"a": {"b": 10, "c": 20}, "d": 3}  # a choice of a group
    assert resume.overlaid(stored, composed, ["preset=other"]) == composed  # of many things at once
    assert resume.overlaid(stored, composed, []) == stored == {"a": {"b": 1, "c": 2}, "d": 3}


def test_the_store_is_remembered_unless_something_names_one(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    unnamed = {"tracking": {"uri": None}}
    assert run_store.with_store(unnamed, tmp_path) == unnamed
    for used in ("sqlite:////a/mlflow.db", "postgresql://me:secret@host/db"):  # by a run that was recorded there
        known.remember(used)
    run_store.remember_store(tmp_path, "sqlite:////a/mlflow.db", "id")
    assert run_store.with_store(unnamed, tmp_path) == {"tracking": {"uri": "sqlite:////a/mlflow.db"}}
    assert run_store.with_store({"tracking": {"uri": "mine"}}, tmp_path) == {"tracking": {"uri": "mine"}}
    assert run_store.with_store({"tracking": {}}, tmp_path) == {"tracking": {}}  # nothing is recorded
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "other")
    assert run_store.with_store(unnamed, tmp_path) == unnamed
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    run_store.remember_store(tmp_path, "postgresql://me:secret@host/db", "id")
    assert "secret" not in (tmp_path / "tracking.json").read_text()
    assert run_store.with_store(unnamed, tmp_path) == {"tracking": {"uri": "postgresql://***@host/db"}}


def test_one_command_at_a_time_in_a_directory(tmp_path):
    with (
        resume.alone_in(tmp_path / "run"),
        pytest.raises(UserError, match="another command trains there"),
        resume.alone_in(tmp_path / "run"),
    ):
        raise AssertionError("must not enter")
    with resume.alone_in(tmp_path / "run"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), resume.alone_in(tmp_path / "file" / "run"):
        raise AssertionError("must not enter")
