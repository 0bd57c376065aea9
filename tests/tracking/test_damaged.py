"""What one damaged run does to the others that are sent with it: nothing."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from facenet.errors import UserError
from facenet.tools.runs import run_sync
from facenet.tracking import journal, known, reading
from facenet.tracking.store import open_experiment


@pytest.fixture
def uri(store: Path) -> str:
    return f"sqlite:///{store}/mlflow.db"


@pytest.fixture
def runs(uri: str, tmp_path: Path) -> dict[str, Path]:
    """Journals of the runs a, b and c, of which MLflow has nothing."""
    client, experiment_id = open_experiment(uri, "damaged")
    known.remember(uri)
    found = {}
    for name in "abc":
        run_id = client.create_run(experiment_id, run_name=name).info.run_id
        (tmp_path / name).mkdir()
        path = found[name] = journal.begin(tmp_path / name, run_id, uri)
        written = journal.Journal(path)
        written.add(step=1, metrics={"loss": 0.5})
        written.add(end="FINISHED", error="")
        written.close()
    return found


def mark(content: bytes) -> Callable[[Path], object]:
    return lambda path: journal.mark_path(path).write_bytes(content)


def line(content: bytes) -> Callable[[Path], object]:
    """In place of the second of three lines."""

    def change(path: Path) -> None:
        first, _, last = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(first + content + b"\n" + last)

    return change


def first_line(**changed: object) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        first, *others = path.read_text().splitlines(keepends=True)
        path.write_text(json.dumps({**json.loads(first), **changed}) + "\n" + "".join(others))

    return change


def sqlite(content: bytes) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        (path.parent / "x.db").write_bytes(content)
        first_line(store=f"sqlite:///{path.parent}/x.db")(path)

    return change


MARK = (
    "metrics.jsonl.sent: damaged; delete it: all records are sent again then, and MLflow passes over those that it has"
)
DAMAGE = {
    "no number": (mark(b"x7"), MARK),
    "no text": (mark(b"\xff\x00\x9b"), MARK),
    "in a line": (mark(b"5"), MARK),
    "behind the end": (mark(b"99999999"), MARK),
    "below zero": (mark(b"-1"), MARK),
    "endless": (mark(b"7" * 100_000), MARK),
    "broken line": (line(b"\x80\x81"), "metrics.jsonl: the line at byte"),
    "another type": (line(b"[1]"), "is damaged (no JSON object)"),
    "deep": (line(b"[" * 100_000), "metrics.jsonl: the line at byte"),
    "another shape": (line(b'{"metrics": 3}'), "is damaged (metrics is missing or of another type)"),
    "without a step": (line(b'{"time": 1, "metrics": {}}'), "is damaged (step is missing or of another type)"),
    "another value": (line(b'{"time": 1, "step": 2, "metrics": {"x": []}}'), "is damaged (metrics is missing or of"),
    "beyond a database": (line(b'{"time": 1, "step": 2, "metrics": {"x": 1%s}}' % (b"0" * 400)), "damaged (metrics is"),
    "a time that is none": (
        line(b'{"time": 1%s, "step": 2, "metrics": {}}' % (b"0" * 19)),
        "damaged (time is missing or",
    ),
    "an end that is none": (line(b'{"time": 1, "end": "BANANA", "error": ""}'), "damaged (end is missing or"),
    "a folder elsewhere": (
        line(b'{"time": 1, "artifact": "a.png", "folder": "../x"}'),
        "damaged (folder is missing or",
    ),
    "store is a number": (first_line(store=7), "metrics.jsonl: names no store in its first line; name it: --uri"),
    "store is a list": (first_line(store=["x"]), "names no store in its first line"),
    "database is no text": (sqlite(bytes(range(256)) * 20), "cannot be read (.*not a database"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_one_is_told_and_the_others_go_on(kind: str, runs: dict[str, Path], uri: str, tmp_path: Path) -> None:
    damage, message = DAMAGE[kind]
    damage(runs["b"])
    known.remember(f"sqlite:///{runs['b'].parent}/x.db")  # of the database that is no text
    with pytest.raises(UserError) as raised:
        run_sync([str(tmp_path)], None)
    lines = str(raised.value).splitlines()
    assert [told.split(": ")[0] for told in lines] == [str(tmp_path / name) for name in "abc"], "a line each"
    for part in message.split(".*"):
        assert part in lines[1]
    for name in "ac":
        run = reading.run(uri, journal.header(runs[name])["run"])
        assert run.status == "FINISHED" and run.metrics == {"loss": 0.5}


def test_the_way_out_of_a_damaged_mark_is_one(runs: dict[str, Path], uri: str, tmp_path: Path) -> None:
    run_sync([str(tmp_path)], None)
    mark(b"x7")(runs["b"])
    journal.mark_path(runs["b"]).unlink()
    assert f"{tmp_path}/b: sent 1 metric values" in run_sync([str(tmp_path)], None)
    assert len(reading.history(uri, journal.header(runs["b"])["run"], "loss")) == 1, "nothing is there twice"
    assert run_sync([str(tmp_path)], None) == "MLflow has all of 3 runs"


@pytest.mark.parametrize("content", [b"\x00\xff" * 50, b"[]", b'{"run": 5}', b'{"run": null, "store": 1}', b""])
def test_a_file_that_is_no_journal_is_passed_over(content: bytes, runs: dict[str, Path], tmp_path: Path) -> None:
    runs["b"].write_bytes(content)
    told = run_sync([str(tmp_path)], None)
    assert len(told.splitlines()) == 2 and f"{tmp_path}/b" not in told


@pytest.mark.nightly
@pytest.mark.skipif(os.environ.get("FACENET_NIGHTLY") != "1", reason="long; set FACENET_NIGHTLY=1")
def test_any_damage(runs: dict[str, Path], tmp_path: Path) -> None:
    """200 draws: some bytes of the mark or the journal of one run."""
    rng, whole = random.Random(0), runs["b"].read_bytes()
    for _ in range(200):
        for path in runs.values():
            journal.mark_path(path).unlink(missing_ok=True)
        content = bytearray(whole)
        for _ in range(rng.randrange(4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        runs["b"].write_bytes(content)
        if rng.random() < 0.5:
            mark(rng.randbytes(rng.randrange(40)))(runs["b"])
        try:
            told = run_sync([str(tmp_path)], None)
        except UserError as error:
            told = str(error)
        assert f"{tmp_path}/a: sent 1 metric values" in told and f"{tmp_path}/c: sent 1 metric values" in told
