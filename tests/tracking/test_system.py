import contextlib
import threading
import time

from facenet.tracking import journal, system
from facenet.tracking.system import sampled


def samples(path):
    return [record for record, _ in journal.read(path) if "metrics" in record]


def test_the_machines_load_is_sampled_into_the_journal_until_the_run_ends(tmp_path, monkeypatch, mlflow):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = journal.begin(tmp_path, "a" * 32, None)
    looked, real = [], system.last_steps
    monkeypatch.setattr(system, "last_steps", lambda path: looked.append(path) or real(path))
    with sampled(path, "a" * 32, mlflow.uri, every_s=0.02):
        while len(looked) < 5:
            time.sleep(0.01)
    assert not samples(path), "of a run's metrics these are the last"
    with contextlib.closing(journal.Journal(path)) as written:
        written.add(step=2, metrics={"train/loss": 1.0})
    for part in (1, 2):  # the second as after a resume
        before = len(samples(path))
        with sampled(path, "a" * 32, mlflow.uri, every_s=0.05):
            deadline = time.monotonic() + 60
            while len(samples(path)) < before + 3 and time.monotonic() < deadline:
                time.sleep(0.05)
        assert not any(thread.name == "system-metrics" for thread in threading.enumerate()), part
    found = samples(path)[1:]
    assert len(found) >= 6 and [record["step"] for record in found] == list(range(len(found)))
    for record in found:
        assert 0 <= record["metrics"]["system/cpu_utilization_percentage"] <= 100
        assert 0 < record["metrics"]["system/system_memory_usage_percentage"] < 100
    assert not any((tmp_path / "here").iterdir())  # no second database beside the store


def test_it_ends_at_once_with_the_run(tmp_path, mlflow, monkeypatch):
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    looked = threading.Event()
    monkeypatch.setattr(SystemMetricsMonitor, "collect_metrics", lambda self: looked.set())
    path = journal.begin(tmp_path, "a" * 32, None)
    with sampled(path, "a" * 32, mlflow.uri, every_s=1000.0):
        assert looked.wait(120)
        began = time.monotonic()
    assert time.monotonic() - began < 5 and not samples(path)
