"""Working directories with any name, and the database in them."""

import shutil
from pathlib import Path

import pytest
import sqlalchemy

from facenet.errors import UserError
from facenet.tracking.sqlite_file import address_of, file_of
from facenet.tracking.store import open_experiment, store_state, where

NAMES = [
    "my faces",
    "my%20faces",
    "50%",
    "a#b",
    "a&b;c",
    "é",
    "a:b@c",
    "file:x",
    "%3F",
    "a?b",
    "what?uri=true",
    "+",
    "[x]",
]
READS_ESCAPES = sqlalchemy.make_url("sqlite:////%41").database == "/A"


@pytest.mark.parametrize("name", NAMES)
def test_an_address_leads_to_the_file_that_it_was_made_of(tmp_path, name):
    path = tmp_path / name / "mlflow.db"
    if "?" in name and not READS_ESCAPES:
        with pytest.raises(UserError, match="SQLAlchemy .* knows no address of .*; work in a directory"):
            address_of(path)
        return
    address = address_of(path)
    assert file_of(address) == path and sqlalchemy.make_url(address).database == str(path)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////data/mlflow.db", "/data/mlflow.db"),
        ("sqlite:////data/mlflow.db?timeout=30", "/data/mlflow.db"),
        ("sqlite+pysqlite:////data/mlflow.db", "/data/mlflow.db"),
        ("sqlite:////data/%20" if READS_ESCAPES else "sqlite:////data/ ", "/data/ "),
        ("sqlite:///file:/data/mlflow.db?uri=true", "/data/mlflow.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("http://host:5000", None),
        ("postgresql://me@host/db", None),
        ("sqlitely", None),
        ("mlruns", None),
    ],
)
def test_the_file_of_an_address(uri, path):
    assert file_of(uri) == (None if path is None else Path(path))


def test_a_relative_address_is_of_this_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert file_of("sqlite:///mlflow.db") == tmp_path / "mlflow.db"


@pytest.mark.parametrize("name", ["my%20faces", "a?b"])
def test_each_directory_has_a_database_of_its_own(store, tmp_path, monkeypatch, name):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if "?" in name and not READS_ESCAPES:
        pytest.skip("refused under this SQLAlchemy")
    found, runs = {}, int((store_state(where(f"sqlite:///{store}/mlflow.db")) or "0").split()[0])  # of other tests
    for each in (name, "my faces"):
        (tmp_path / each).mkdir(exist_ok=True)
        shutil.copyfile(store / "mlflow.db", tmp_path / each / "mlflow.db")
        monkeypatch.chdir(tmp_path / each)
        client, experiment = open_experiment(where(), "faces")
        run = client.create_run(experiment).info
        (tmp_path / each / "note.txt").write_text(each)
        client.log_artifact(run.run_id, str(tmp_path / each / "note.txt"))
        found[each] = run.run_id
        assert store_state(where()) == f"{runs + 1} runs"
        kept = [path for path in (tmp_path / each / "mlartifacts").rglob("note.txt") if run.run_id in path.parts]
        assert [path.read_text() for path in kept] == [each]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "my faces"])
