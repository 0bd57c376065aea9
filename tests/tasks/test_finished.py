"""A finished run that is resumed."""

import json

import pytest

from facenet.engine import checkpoint
from facenet.tasks import registration, resume
from facenet.tasks.job import run_job
from facenet.tracking.model import Kept


def on_disk(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def resumed(compose, tiny_run, tmp_path, monkeypatch):
    """resumed(*overrides): what the command gives, and the overrides under which processes were started."""

    def run(*overrides):
        begun = []

        def start(run_dir, *_):
            begun.append(run_dir)
            raise KeyboardInterrupt

        given = [f"resume={tiny_run.run_dir}", *overrides]
        try:
            value = run_job(
                compose("tracking=mlflow", *given), run_dir=tmp_path / "new", overrides=given, tags={}, start=start
            ).objective
        except KeyboardInterrupt:
            value = None
        return value, begun

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # else its thread stays
    return run


def test_a_finished_run_says_so_and_nothing_changes(tiny_run, resumed, capsys):
    before = on_disk(tiny_run.run_dir.parent)  # with the database
    value, begun = resumed()
    assert begun == [] and on_disk(tiny_run.run_dir.parent) == before
    assert value == json.loads((tiny_run.run_dir / "result.json").read_text())["objective"]
    said = capsys.readouterr().out
    assert "finished at step" in said and "trainer.epochs=N resume_changed=true" in said
    assert f"checkpoint  {tiny_run.run_dir}/checkpoints/best.pt" in said and "heldout/accuracy" in said


def test_what_it_is_asked_for_is_registered_all_the_same(tiny_run, resumed, monkeypatch):
    asked = []
    monkeypatch.setattr("facenet.tracking.model.keep", lambda client, run_id, best, rivals: Kept(run_id))
    monkeypatch.setattr("facenet.tracking.model.register", lambda client, uri, *given: asked.append(given) or 1)
    monkeypatch.setattr(registration, "best_of", lambda path: path)
    _, begun = resumed("tracking.register=faces")
    run_id = json.loads((tiny_run.run_dir / "tracking.json").read_text())["run_id"]
    assert begun == [] and asked == [(run_id, "faces")]


@pytest.mark.parametrize("left", ["more epochs", "no result", "no end"])
def test_a_run_with_something_left_goes_on(tiny_run, resumed, tmp_path, monkeypatch, left):
    if left == "no result":
        (tiny_run.run_dir / "result.json").rename(tmp_path / "result.json")
    elif left == "no end":
        monkeypatch.setattr("facenet.tasks.resume.last_end", lambda _: None)
    more = ("trainer.epochs=3", "resume_changed=true") if left == "more epochs" else ()
    try:
        before = (tiny_run.run_dir / "resolved.yaml").read_bytes()
        value, begun = resumed("tracking=none", "resume_changed=true", *more)
        assert value is None and begun == [tiny_run.run_dir]
    finally:
        (tiny_run.run_dir / "resolved.yaml").write_bytes(before)
        if left == "no result":
            (tmp_path / "result.json").rename(tiny_run.run_dir / "result.json")


def test_the_newest_whole_checkpoint_beyond_999_and_where_only_the_best_is_left(tmp_path):
    folder = tmp_path / "checkpoints"
    content = {"config": {"seed": 1}, "identities": [], "embedder": {}, "loss": {}, "metrics": {}, "step": 1}
    content |= {"training": {"progress": {}}, "data_fingerprint": "0" * 16}
    for name, epoch in (("best", 7), ("epoch-999", 999), ("epoch-1000", 1000)):
        checkpoint.save({**content, "epoch": epoch}, folder / f"{name}.pt")
    (folder / "epoch-mine.pt").write_text("the user's")
    (folder / "last.pt").write_bytes(b"cut")
    (tmp_path / "resolved.yaml").write_text("seed: 1\n")
    assert resume.find("auto", tmp_path).content["epoch"] == 1000
    for path in folder.glob("epoch-*.pt"):
        path.unlink()
    assert resume.find("auto", tmp_path).content["epoch"] == 7
