"""A run directory of somebody else's: its journal names files and a store, and neither is obeyed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from facenet.errors import UserError
from facenet.launch.failure import noted_failures
from facenet.privacy.addresses import masked_address
from facenet.sweeps.job import TABLES, attach_tables
from facenet.sweeps.state import state_of
from facenet.tasks import run_store
from facenet.tools.runs import run_sync
from facenet.tracking import delivery, journal, known
from facenet.tracking.sqlite_file import address_of


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACENET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "id_rsa").write_text("secret")
    (tmp_path / "run" / "curves").mkdir(parents=True)
    return tmp_path / "run"


class Client:
    """What is sent; files lie at `place`."""

    def __init__(self, folder: Path, place: str = "") -> None:
        self.sent: list[str] = []
        self.tracking_uri, self.place = f"sqlite:///{folder}/mlflow.db", place or f"file://{folder}/mlartifacts/1"

    def get_run(self, run_id: str) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(artifact_uri=self.place))

    def log_artifact(self, run_id: str, path: str, folder: str | None) -> None:
        self.sent.append(path)


def sent(run_dir: Path, name: str, place: str = "") -> list[str]:
    client, delivered = Client(run_dir.parent, place), delivery.Delivered()
    delivery.send(client, "a" * 32, run_dir, [{"artifact": name, "folder": ""}], delivered)  # type: ignore[arg-type]
    return client.sent


@pytest.mark.parametrize(
    "name", ["{home}/id_rsa", "../home/id_rsa", "curves/../../home/id_rsa", "link", "up/id_rsa", "curves", "."]
)
def test_a_file_outside_of_the_run_is_not_sent(run_dir: Path, name: str):
    home = run_dir.parent / "home"
    (run_dir / "link").symlink_to(home / "id_rsa")
    (run_dir / "up").symlink_to(home)
    (run_dir / "curves" / "deeper").symlink_to(home)
    with pytest.raises(delivery.Gone, match="is not in the run directory, and is not sent"):
        sent(run_dir, name.format(home=home))


@pytest.mark.parametrize("behind_a_link", [False, True])
def test_a_file_of_the_run_is_sent(run_dir: Path, behind_a_link: bool):
    (run_dir / "curves" / "loss.png").write_text("")
    place = run_dir
    if behind_a_link:
        place = run_dir.parent / "seen"
        place.symlink_to(run_dir)
    for name in ("curves/loss.png", "curves"):
        assert sent(place, name) == [str(place / name)]


STRANGE = "http://127.0.0.1:9/collect?token=x"


def left_by_a_stranger(run_dir: Path, uri: str) -> None:
    path = journal.begin(run_dir, "a" * 32, uri)
    with path.open("a") as file:
        file.write(json.dumps({"time": 1, "step": 1, "metrics": {"a": 1.0}}) + "\n")
    (run_dir / "tracking.json").write_text(json.dumps({"uri": uri, "run_id": "a" * 32}))


@pytest.mark.parametrize("uri", [STRANGE, "sqlite:////var/lib/theirs.db"])
def test_a_store_that_only_the_run_names_is_not_opened(run_dir: Path, uri: str, monkeypatch: pytest.MonkeyPatch):
    def opened(*_: object) -> None:
        raise AssertionError("opened")

    for name in ("facenet.tracking.reading.run", "facenet.tracking.settling.send"):
        monkeypatch.setattr(name, opened)
    left_by_a_stranger(run_dir, uri)
    address = masked_address(uri)
    with pytest.raises(UserError) as raised:
        run_sync([str(run_dir)], None)
    assert f"names the store {address}, in which no command of yours has" in str(raised.value)
    assert str(raised.value).endswith(f"name it: --uri {address}")
    with pytest.raises(UserError, match=f"tracking.json: names the store .*: tracking.uri={re.escape(address)}"):
        run_store.with_store({"tracking": {"uri": None}}, run_dir)


def test_stores_of_ones_own_are_taken_from_the_run(run_dir: Path):
    own = f"sqlite:///{Path.cwd()}/mlflow.db"
    known.check_named(own, "x", "--uri ")  # the command's own, wherever it stands
    known.check_named(None, "x", "--uri ")
    with pytest.raises(UserError):
        known.check_named(STRANGE, "x", "--uri ")
    known.remember(STRANGE)  # a run was recorded there
    assert known.remembered() == {masked_address(STRANGE)} and "token" not in str(known.remembered())
    left_by_a_stranger(run_dir, masked_address(STRANGE))
    assert run_store.with_store({"tracking": {"uri": None}}, run_dir)["tracking"]["uri"] == masked_address(STRANGE)


@pytest.mark.parametrize("content", ["", "{", "[1, null]", '{"a": 1}', "\x00\xff"])
def test_damaged_notes_of_stores_are_none(run_dir: Path, content: str):
    (run_dir.parent / "cache").mkdir()
    (run_dir.parent / "cache" / known.NAME).write_text(content)
    assert known.remembered() == set()
    known.remember("http://host/a")
    assert known.remembered() == {"http://host/a"}


def test_tables_of_a_sweep_are_sent_from_the_jobs_own_directory(run_dir: Path):
    for name in TABLES:
        (run_dir.parent / name).write_text(f"text of {name}")
    attach(run_dir)
    assert attached(run_dir) == [f"text of {name}" for name in TABLES]


def test_a_table_that_is_a_link_is_not_sent(run_dir: Path):
    (run_dir.parent / TABLES[0]).symlink_to(run_dir.parent / "home" / "id_rsa")
    attach(run_dir)
    assert attached(run_dir) == []


def attach(run_dir: Path) -> None:
    journal.begin(run_dir, "a" * 32, None)
    attach_tables(run_dir, run_dir.parent)


def attached(run_dir: Path) -> list[str]:
    names = [record["artifact"] for record, _ in journal.read(run_dir / "metrics.jsonl") if "artifact" in record]
    return [Path(path).read_text() for name in names for path in sent(run_dir, name)]


def test_a_folder_is_held_back_for_what_is_in_it(run_dir: Path):
    (run_dir / "sub" / "deep").mkdir(parents=True)
    (run_dir / "sub" / "deep" / "split.json").touch()
    known.remember(Client(run_dir.parent).tracking_uri)
    assert sent(run_dir, "sub") == [str(run_dir / "sub")] and sent(run_dir, "sub", "s3://bucket/x") == []


@pytest.mark.parametrize("place", ["http://127.0.0.1:9/x", "file:///home/theirs"])
def test_a_file_goes_to_no_place_that_a_strangers_store_names(run_dir: Path, place: str):
    (run_dir / "roc.png").touch()
    assert sent(run_dir, "roc.png") == [str(run_dir / "roc.png")]
    with pytest.raises(delivery.Gone, match="is not sent; .*no command of yours has recorded a run in it here"):
        sent(run_dir, "roc.png", place)


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:9/x", "s3://theirs/x", "ftp://user:secret@127.0.0.1/x", "file:///home/me"]
)
def test_a_database_that_is_found_here_has_files_beside_it_alone(
    run_dir: Path, location: str, monkeypatch: pytest.MonkeyPatch
):
    uri = address_of(Path.cwd() / "mlflow.db")
    for check in (known.check_place, known.check_files):
        with pytest.raises(UserError, match="has the files of a run at .*: MLFLOW_TRACKING_URI=sqlite:") as raised:
            check(uri, location)
        assert "secret" not in str(raised.value)
    for beside in ((Path.cwd() / "mlartifacts/1/a b").as_uri(), str(Path.cwd() / "mlruns/0")):
        known.check_place(uri, beside)
    with pytest.raises(UserError):
        known.check_files(uri, f"{Path.cwd().as_uri()}/files/../../elsewhere")
    elsewhere = address_of(Path.cwd() / "project" / "mlflow.db")
    known.check_place(elsewhere, location)  # runs are recorded in what was named
    with pytest.raises(UserError):
        known.check_files(elsewhere, location)  # nothing is read there and nothing added
    known.check_files("http://host", "s3://bucket/x")
    with pytest.raises(UserError):
        known.check_files("http://host", "file:///home/me")
    known.check_place("http://host", location)  # which somebody named
    with monkeypatch.context() as named:
        named.setenv("MLFLOW_TRACKING_URI", uri)
        known.check_place(uri, location)
    known.remember(uri)
    known.check_place(uri, location)


DOORS = {
    "metrics.jsonl": (journal.journals, []),
    "tracking.json": (run_store.stored_in, None),
    "failure-0.json": (noted_failures, []),
    "result.json": (lambda folder: state_of(folder, {"a": 1}).kind, "half-done"),
}


@pytest.mark.parametrize(
    "kind",
    [
        "pipe",
        "folder",
        "endless",
        "[]",
        "{}",
        "[" * 99_999,
        '{"objective": "x"}',
        f'{{"objective": 1{"0" * 400}}}',
        "7",
    ],
)
@pytest.mark.parametrize("name", DOORS)
def test_a_note_that_is_none_is_not_waited_for(run_dir: Path, name: str, kind: str):
    (run_dir / "resolved.yaml").write_text("a: 1\n")
    door, nothing = DOORS[name]
    if kind == "pipe":
        os.mkfifo(run_dir / name)
    elif kind == "folder":
        (run_dir / name).mkdir()
    elif kind == "endless":
        (run_dir / name).touch()
        os.truncate(run_dir / name, 1 << 40)  # of zeros, which take no place
    else:
        (run_dir / name).write_text(kind)
    assert door(run_dir) == nothing
