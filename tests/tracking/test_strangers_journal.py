"""A run directory of somebody else's: its journal names files and a store, and neither is obeyed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from facenet.addresses import masked_address
from facenet.errors import UserError
from facenet.sweeps.runs import run_sync
from facenet.tasks import resume
from facenet.tracking import delivery, journal, known


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
    """What is sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def log_artifact(self, run_id: str, path: str, folder: str | None) -> None:
        self.sent.append(path)


def sent(run_dir: Path, name: str) -> list[str]:
    client, delivered = Client(), delivery.Delivered()
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
        resume.with_store({"tracking": {"uri": None}}, run_dir)


def test_stores_of_ones_own_are_taken_from_the_run(run_dir: Path):
    own = f"sqlite:///{Path.cwd()}/mlflow.db"
    known.check_named(own, "x", "--uri ")  # the command's own, wherever it stands
    known.check_named(None, "x", "--uri ")
    with pytest.raises(UserError):
        known.check_named(STRANGE, "x", "--uri ")
    known.remember(STRANGE)  # a run was recorded there
    assert known.remembered() == {masked_address(STRANGE)} and "token" not in str(known.remembered())
    left_by_a_stranger(run_dir, masked_address(STRANGE))
    assert resume.with_store({"tracking": {"uri": None}}, run_dir)["tracking"]["uri"] == masked_address(STRANGE)


@pytest.mark.parametrize("content", ["", "{", "[1, null]", '{"a": 1}', "\x00\xff"])
def test_damaged_notes_of_stores_are_none(run_dir: Path, content: str):
    (run_dir.parent / "cache").mkdir()
    (run_dir.parent / "cache" / known.NAME).write_text(content)
    assert known.remembered() == set()
    known.remember("http://host/a")
    assert known.remembered() == {"http://host/a"}
