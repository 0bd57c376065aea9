"""TensorBoard gets what the journal gets, and `tracking=none` leaves a journal as well."""

from __future__ import annotations

import dataclasses
import json
import math
import os

import pandas
import pytest
import torch  # noqa: F401  so that no test is the one that imports it

from facenet.errors import UserError
from facenet.files.run_dir import RunDir
from facenet.tracking import journal, tensorboard
from facenet.tracking.choice import NoTracking
from facenet.tracking.tensorboard import TensorboardTracker, scalars
from facenet.tracking.tracker import JournalTracker, NullTracker


def of_journal(run_dir):
    return [
        (name, record["step"], value)
        for record, _ in journal.read(run_dir / RunDir.journal)
        for name, value in record.get("metrics", {}).items()
    ]


def test_tensorboard_has_the_journals_values_and_a_resumed_run_none_twice(tmp_path):
    journal.begin(tmp_path, None, None)
    for steps in (range(1, 5), range(3, 8)):  # from a checkpoint at step 2
        tracker = TensorboardTracker(JournalTracker(tmp_path), tmp_path / "tensorboard")
        for step in steps:
            tracker.metrics({"train/loss": 1 / (3 * step), "val/a b=c": math.nan if step == 4 else 1e300}, step=step)
        tracker.tag("a", "b")
        tracker.close()
    found, expected = sorted(scalars(tmp_path / "tensorboard")), sorted(of_journal(tmp_path))
    assert [point[:2] for point in found] == [point[:2] for point in expected]
    assert [value for *_, value in found] == pytest.approx([value for *_, value in expected], rel=0, nan_ok=True)
    assert [step for name, step, _ in found if name == "train/loss"] == list(range(1, 8))


def test_what_a_crash_cut_off_is_read_up_to_there(tmp_path):
    tracker = TensorboardTracker(NoTracking().tracker(None, tmp_path), tmp_path)
    for step in (1, 2, 3):
        tracker.metrics({"x": step}, step=step)
    tracker.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert scalars(tmp_path) == [("x", 1, 1.0), ("x", 2, 2.0)]


@pytest.mark.parametrize("choice", ["none", "mlflow"])
def test_the_package_is_asked_for_in_one_line(monkeypatch, mlflow, choice):
    tracking = NoTracking() if choice == "none" else mlflow
    assert dataclasses.replace(tracking, tensorboard=True).tensorboard
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    assert not dataclasses.replace(tracking, dllogger=True).tensorboard
    with pytest.raises(UserError, match=r"pip install 'facenet\[tensorboard\]'"):
        dataclasses.replace(tracking, tensorboard=True)


def test_without_mlflow_a_run_leaves_its_metrics_and_goes_on_with_them(facts, tmp_path):
    for steps in ((1, 2), (2, 3)):
        with NoTracking().run(facts()) as run_id:
            tracker = NoTracking().tracker(run_id, tmp_path)
            for step in steps:
                tracker.metrics({"train/loss": 1.0 / step, "lfw/accuracy": 0.5}, step=step)
            tracker.close()
    assert run_id is None and journal.journals(tmp_path) == [], "there is nothing to send"
    with open(tmp_path / RunDir.journal) as file:  # as docs/mlflow.md reads it
        lines = map(json.loads, file)
        table = pandas.DataFrame([{"step": line["step"], **line["metrics"]} for line in lines if "metrics" in line])
    assert table.to_dict("list") == {"step": [1, 2, 3], "train/loss": [1.0, 0.5, 1 / 3], "lfw/accuracy": [0.5] * 3}


def test_the_journal_of_a_run_in_mlflow_stays_what_it_is(facts, tmp_path):
    """Its store would get what nobody wanted there."""
    path = journal.begin(tmp_path, "0" * 32, "sqlite:////x.db")
    before = path.read_bytes()
    with NoTracking().run(facts()) as run_id:
        NoTracking().tracker(run_id, tmp_path).metrics({"a": 1.0}, step=1)
    assert path.read_bytes() == before


def test_a_run_without_mlflow_that_goes_on_in_it_keeps_both(tmp_path):
    journal.begin(tmp_path, None, None)
    tracker = JournalTracker(tmp_path)
    tracker.metrics({"a": 1.0}, step=1)
    tracker.close()
    path = journal.begin(tmp_path, "0" * 32, "sqlite:////x.db")
    assert journal.header(path)["run"] == "0" * 32 and of_journal(tmp_path) == []
    assert "metrics-unknown.jsonl" in {each.name for each in tmp_path.iterdir()}


def test_a_file_where_the_folder_should_be_is_told(tmp_path):
    (tmp_path / "tensorboard").touch()
    with pytest.raises(UserError, match="tensorboard: is no folder, as tracking.tensorboard=true needs it; remove it"):
        TensorboardTracker(NullTracker(), tmp_path / "tensorboard")


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="tensorboard: is a link"):
        TensorboardTracker(NoTracking().tracker(None, tmp_path), tmp_path / "tensorboard")
    assert [*(tmp_path / "elsewhere").iterdir()] == []


def test_what_is_no_scalar_or_no_file_is_passed_over(tmp_path):
    tracker = TensorboardTracker(NoTracking().tracker(None, tmp_path), tmp_path / "tensorboard")
    tracker.metrics({"x": 1.5}, step=3)
    tracker.writer.add_text("words", "of somebody")
    tracker.close()
    os.mkfifo(tmp_path / "tensorboard" / "events.out.tfevents.0.pipe")
    assert scalars(tmp_path / "tensorboard") == [("x", 3, 1.5)]
