import contextlib
import dataclasses
import errno
import http.server
import json
import math
import os
import shutil
import sqlite3
import threading
import time

import pytest

from facenet.errors import UserError
from facenet.tools.runs import run_sync
from facenet.tracking import journal, sender
from facenet.tracking.choice import MlflowTracking
from facenet.tracking.delivery import METRICS_PER_BATCH, batches, deliver
from facenet.tracking.facts import safe_name
from facenet.tracking.journal import Journal, Mark


def points(client, run_id):
    """Everything that MLflow has of a run: name -> [(step, value, time)]."""
    names = client.get_run(run_id).data.metrics
    return {name: [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run_id, name)] for name in names}


def of_the_journal(path):
    found = {}
    for record, _ in journal.read(path):
        for name, value in record.get("metrics", {}).items():
            found.setdefault(name, []).append((record["step"], value, record["time"]))
    return found


def test_metrics_artifacts_and_tags_of_rank_0(mlflow, client, facts, tmp_path):
    (tmp_path / "roc.png").write_bytes(b"png")
    with mlflow.run(facts()) as run_id:
        tracker = mlflow.tracker(run_id, tmp_path)
        for step in (20, 40):
            tracker.metrics({"train/loss": 1 / step, "tar@far=0.001": step}, step=step)
        tracker.metrics({f"m{number}": number for number in range(1001)}, step=40)
        tracker.metrics({"train/nan": float("nan"), "train/inf": float("inf")}, step=40)
        tracker.artifact(tmp_path / "roc.png", "curves")
        tracker.tag("note", "seen")
        tracker.close()
    losses = client.get_metric_history(run_id, "train/loss")
    assert [(point.step, point.value) for point in losses] == [(20, 0.05), (40, 0.025)]
    run = client.get_run(run_id)
    assert run.data.metrics["tar_far_0.001"] == 40 and run.data.metrics["m1000"] == 1000
    assert math.isnan(run.data.metrics["train/nan"]) and run.data.metrics["train/inf"] > 1e300
    assert run.data.tags["note"] == "seen"
    assert [item.path for item in client.list_artifacts(run_id, "curves")] == ["curves/roc.png"]


@pytest.mark.parametrize("select", ["lfw/accuracy", "lfw/tar_at_far_0.001", None, "every"])
def test_a_rate_that_the_pairs_cannot_resolve_stays_in_the_journal_unless_it_selects(
    mlflow, client, facts, tmp_path, select
):
    """In MLflow's tables it stood beside those of runs with enough pairs, without a word."""
    values = {"lfw/accuracy": 0.5, "lfw/tar_at_far_0.001": 0.25, "my set+/tar_at_far_0.001": 1.0, "lfw/auc": 0.75}
    few = ("lfw/tar_at_far_0.001", "my set+/tar_at_far_0.001")
    mlflow = dataclasses.replace(mlflow, every_metric=select == "every")
    with mlflow.run(facts(select=select, unresolved=few)) as run_id:
        tracker = mlflow.tracker(run_id, tmp_path)
        tracker.metrics(values, step=1)
        tracker.close()
    there = {name for name in client.get_run(run_id).data.metrics if not name.startswith("best/")}
    named = {safe_name(name) for name in values}
    gone = {safe_name(name) for name in few if name != select} if select != "every" else set()
    assert there == named - gone and of_the_journal(tmp_path / "metrics.jsonl").keys() == named


def test_what_is_hidden_may_be_of_any_length_and_anybodys(mlflow, client, facts, tmp_path):
    many = tuple(f"{'x' * 200}{number}/auc" for number in range(100))
    with mlflow.run(facts(select="lfw/auc", unresolved=many)) as run_id:
        pass
    assert journal.header(tmp_path / "metrics.jsonl")["run"] == run_id
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    for hidden in ("lfw/auc", 3, {"lfw/auc": 1}, [[], {}, None, "lfw/eer"]):
        line = '{"time": 1, "step": 1, "metrics": {"lfw/auc": 0.5, "lfw/eer": 0.1}}'
        first = json.dumps({**json.loads(lines[0]), "hidden": hidden})
        (tmp_path / "metrics.jsonl").write_text(f"{first}\n{line}\n")
        journal.mark_path(tmp_path / "metrics.jsonl").unlink()
        assert deliver(client, tmp_path / "metrics.jsonl").points == (1 if isinstance(hidden, list) else 2)


def test_points_arrive_while_the_run_goes_on(mlflow, client, facts, tmp_path, monkeypatch):
    monkeypatch.setattr(sender, "PAUSE_S", 0.05)
    with mlflow.run(facts()) as run_id:
        tracker = mlflow.tracker(run_id, tmp_path)
        tracker.metrics({"a": 1.0}, step=1)
        tracker.close()
        deadline = time.monotonic() + 120
        while not client.get_run(run_id).data.metrics and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.get_run(run_id).data.metrics == {"a": 1.0}


def test_metrics_go_together_and_other_records_keep_their_place(tmp_path):
    path = journal.begin(tmp_path, "a" * 32, None)
    log = Journal(path)
    for step in range(300):
        log.add(step=step, metrics={"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0})
    log.add(tag="x", value="y")
    log.add(step=300, metrics={"a": 1.0})
    log.close()
    with journal.marked(path) as mark:
        groups = [(len(records), records[0]) for records, _ in batches(path, mark)]
    assert [count for count, _ in groups] == [1, 250, 50, 1, 1]
    assert "run" in groups[0][1] and groups[3][1]["tag"] == "x"
    assert METRICS_PER_BATCH == 250 * 4


def test_what_was_sent_before_a_crash_is_not_doubled(mlflow, client, facts, tmp_path):
    with mlflow.run(facts()) as run_id:
        tracker = mlflow.tracker(run_id, tmp_path)
        for step in range(5):
            tracker.metrics({"loss": step / 7, "nan": float("nan")}, step=step)
        tracker.close()
    path = tmp_path / "metrics.jsonl"
    before = points(client, run_id)["loss"]
    assert before == of_the_journal(path)["loss"]
    journal.mark_path(path).write_text("0")  # as if the process had died between sending and saying so
    assert run_sync([str(tmp_path)], None).endswith("sent 10 metric values, 0 files, 0 tags; ended FINISHED")
    assert points(client, run_id)["loss"] == before and len(points(client, run_id)["nan"]) == 5


def test_two_syncs_at_once_send_once(mlflow, client, facts, tmp_path):
    with mlflow.run(facts()) as run_id:
        pass
    path = tmp_path / "metrics.jsonl"
    log = Journal(path)
    for step in range(500):
        log.add(step=step, metrics={"late": float(step)})
    log.close()
    sent = []
    threads = [threading.Thread(target=lambda: sent.append(deliver(client, path).points)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sent) == [0, 0, 0, 500]
    assert points(client, run_id)["late"] == of_the_journal(path)["late"]


def test_a_database_that_breaks_in_mid_run_costs_nothing(own, facts, tmp_path, monkeypatch, caplog):
    """Neither the run nor, once it is back, a single record."""
    from mlflow import MlflowClient

    monkeypatch.setattr(sender, "PAUSE_S", 0.05)
    monkeypatch.setattr(sender, "RETRY_S", 0.05)
    database, run_dir = tmp_path / "mlflow.db", tmp_path / "run"
    run_dir.mkdir()
    with own.run(facts(run_dir=run_dir)) as run_id:
        tracker = own.tracker(run_id, run_dir)
        tracker.metrics({"loss": 1.0}, step=1)
        until(lambda: journal.sent(run_dir / "metrics.jsonl") == journal.whole(run_dir / "metrics.jsonl"))
        shutil.copy(database, tmp_path / "whole.db")
        database.write_bytes(b"overwritten " * 1000)
        tracker.metrics({"loss": 0.5}, step=2)
        until(lambda: " is away (" in caplog.text)
        tracker.metrics({"loss": 0.25}, step=3)
        (run_dir / "late.txt").write_text("late")
        tracker.artifact(run_dir / "late.txt")
        tracker.close()
    assert caplog.text.count(" is away (") == 1 and "not a database" in caplog.text
    assert f"send them later: facenet-runs sync {run_dir}" in caplog.text
    assert own.view(run_id) == f"run {run_id} at {own.uri}, which does not answer now"
    with pytest.raises(UserError, match=f"{run_dir}: MLflow at .* cannot be read .*not a database"):
        run_sync([str(tmp_path)], None)
    shutil.copy(tmp_path / "whole.db", database)
    assert run_sync([str(tmp_path)], None) == (f"{run_dir}: sent 2 metric values, 1 files, 0 tags; ended FINISHED")
    client = MlflowClient(tracking_uri=own.uri)
    assert points(client, run_id) == of_the_journal(run_dir / "metrics.jsonl")
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [item.path for item in client.list_artifacts(run_id)] == ["config", "late.txt"]
    assert run_sync([str(tmp_path)], None) == "MLflow has all of 1 runs"


def until(reached):
    deadline = time.monotonic() + 300
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_file_that_is_gone_costs_only_itself(mlflow, client, facts, tmp_path, caplog):
    with mlflow.run(facts()) as run_id:
        tracker = mlflow.tracker(run_id, tmp_path)
        tracker.artifact(tmp_path / "absent.png")
        tracker.metrics({"a": 1.0}, step=1)
        tracker.close()
    assert f"MLflow refused a record of run {run_id}: " in caplog.text and "absent.png" in caplog.text
    assert client.get_run(run_id).data.metrics == {"a": 1.0} and client.get_run(run_id).info.status == "FINISHED"


def test_a_full_disk_of_the_run_leaves_no_run_that_seems_to_go_on(mlflow, client, facts, tmp_path, monkeypatch, caplog):
    """Its journal takes the end, its mark of what was sent finds no place."""

    def full(mark, place):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(UserError), mlflow.run(facts()) as run_id:
        patch.setattr(Mark, "move", full)
        tracker = mlflow.tracker(run_id, tmp_path)
        tracker.metrics({"a": 1.0}, step=1)
        tracker.metrics({"b": 2.0}, step=2)
        tracker.tag("note", "seen")
        tracker.close()
        raise UserError("no space")
    ended = client.get_run(run_id)
    assert (ended.info.status, ended.data.tags["error"]) == ("FAILED", "no space")
    assert f"send them later: facenet-runs sync {tmp_path}" in caplog.text and "note" not in ended.data.tags
    deliver(client, tmp_path / "metrics.jsonl")
    whole = client.get_run(run_id)
    assert (whole.info.status, whole.data.metrics, whole.data.tags["note"]) == ("FAILED", {"a": 1.0, "b": 2.0}, "seen")


def test_a_run_that_was_deleted_meanwhile_does_not_hold_anything_up(mlflow, client, facts, tmp_path, caplog):
    with mlflow.run(facts()) as run_id:
        client.delete_run(run_id)
        tracker = mlflow.tracker(run_id, tmp_path)
        tracker.metrics({"a": 1.0}, step=1)
        tracker.close()
    assert f"run {run_id} was deleted in MLflow; bring it back with: " in caplog.text
    assert journal.sent(tmp_path / "metrics.jsonl") < journal.whole(tmp_path / "metrics.jsonl"), "nothing is lost by it"


def test_a_store_that_hangs_does_not_hold_up_the_end(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sender, "FAREWELL_S", 0.3)
    path = journal.begin(tmp_path, "a" * 32, None)
    with sqlite3.connect(tmp_path / "x"), journal.marked(path):  # another process sends, and does not come to an end
        hanging = sender.Sender(f"sqlite:///{tmp_path}/x.db", path)
        began = time.monotonic()
        hanging.close()
        assert time.monotonic() - began < 5
    hanging.thread.join(60)  # it goes on as soon as the other process lets go
    assert f"send them later: facenet-runs sync {tmp_path}" in caplog.text


@pytest.mark.slow
def test_a_database_that_another_program_has_locked_costs_nothing(own, facts, tmp_path, monkeypatch, caplog):
    """In mid-run, and over the end: SQLite waits for 20 s by itself, and the run for none of them."""
    from mlflow import MlflowClient

    monkeypatch.setattr(sender, "PAUSE_S", 0.05)
    monkeypatch.setattr(sender, "FAREWELL_S", 0.5)
    run_dir, path = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    run_dir.mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        with own.run(facts(run_dir=run_dir)) as run_id:
            tracker = own.tracker(run_id, run_dir)
            other.execute("begin exclusive")
            began = time.thread_time()
            for step in range(100):
                tracker.metrics({"loss": 1 / (step + 1)}, step=step)
            assert time.thread_time() - began < 1
            time.sleep(1)
            other.execute("rollback")
            until(lambda: journal.sent(path) == journal.whole(path))
            other.execute("begin exclusive")
            tracker.metrics({"loss": 0.0}, step=100)
            tracker.close()
            ending = time.monotonic()
        assert time.monotonic() - ending < 10 and f"facenet-runs sync {run_dir}" in caplog.text
        other.execute("rollback")
    run_sync([str(tmp_path)], None)
    client = MlflowClient(tracking_uri=own.uri)
    assert points(client, run_id) == of_the_journal(path) and len(points(client, run_id)["loss"]) == 101
    assert client.get_run(run_id).info.status == "FINISHED"


class Broken(http.server.BaseHTTPRequestHandler):
    """Answers 500 to everything, after `pause_s` or when the test ends."""

    pause_s = 0.0
    ended = threading.Event()

    def answer(self):
        self.ended.wait(self.pause_s)
        with contextlib.suppress(OSError):  # the client waited long enough
            self.send_error(500)

    do_GET = do_POST = do_PATCH = answer

    def log_message(self, *_):
        pass


@pytest.fixture
def broken_server(monkeypatch):
    """broken_server(pause_s): the address of one on loopback."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def address(pause_s):
            monkeypatch.setattr(Broken, "pause_s", pause_s)
            monkeypatch.setattr(Broken, "ended", threading.Event())
            return f"http://127.0.0.1:{server.server_port}"

        yield address
        Broken.ended.set()
        server.shutdown()


@pytest.mark.parametrize("pause_s", [0.0, 5.0], ids=["500", "slow"])
def test_a_server_that_answers_500_or_slowly_costs_nothing(
    mlflow, client, facts, tmp_path, monkeypatch, caplog, broken_server, pause_s
):
    monkeypatch.setattr(sender, "PAUSE_S", 0.05)
    monkeypatch.setattr(sender, "FAREWELL_S", 2.0)
    uri, path = broken_server(pause_s), tmp_path / "metrics.jsonl"
    with pytest.raises(UserError, match=f"tracking: MLflow at {uri} cannot be used .*start it, set tracking.uri"):
        MlflowTracking(uri=uri, system_metrics=False).run(facts()).__enter__()  # nothing has been trained yet
    with mlflow.run(facts()) as run_id:
        pass
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])  # its journal, for a store that fails now
    journal.mark_path(path).write_text("0")
    away, tracker = sender.Sender(uri, path), mlflow.tracker(run_id, tmp_path)
    began = time.thread_time()
    for step in range(100):
        tracker.metrics({"loss": 1 / (step + 1)}, step=step)
    assert time.thread_time() - began < 1
    until(lambda: f"MLflow at {uri} is away (it does not answer)" in caplog.text)
    tracker.close()
    ending = time.monotonic()
    away.close()
    assert time.monotonic() - ending < 10 and f"send them later: facenet-runs sync {tmp_path}" in caplog.text
    away.thread.join(120)
    deliver(client, path)
    assert points(client, run_id) == of_the_journal(path) and len(points(client, run_id)["loss"]) == 100


def test_a_place_is_told_to_the_byte(tmp_path):
    path = journal.begin(tmp_path, "a" * 32, None)
    with journal.marked(path) as mark:
        assert isinstance(mark, Mark) and mark.place == 0
        mark.move(journal.whole(path))
    assert journal.sent(path) == journal.whole(path) > 40
