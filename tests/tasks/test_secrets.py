"""Nothing that a run leaves holds a secret: not its directory, its store, its sweep or what it prints."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from facenet import config as configs
from facenet.commands import composed as cli
from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.identities import FolderFaces
from facenet.data.shards.places import tell_address, unread
from facenet.data.shards.writing import write_shards
from facenet.engine import checkpoint as checkpoints
from facenet.errors import UserError
from facenet.privacy import addresses
from facenet.sweeps.state import read_command, write_command
from facenet.tasks import job, run_store
from facenet.tasks.compared import run_name
from facenet.tasks.origin import origin
from facenet.tracking import journal
from facenet.tracking.facts import RunFacts, params
from facenet.tracking.reading import reader
from facenet.tracking.sender import Sender
from facenet.tracking.store import page, usable

ODD = "h@:/?#%&;,+un7er"
FORMS = [  # each holds "un7er"; what may be recorded of it
    ("http://me:un7er@host:5000/x", "http://***@host:5000/x"),
    ("https://un7er@host/x", "https://***@host/x"),
    ("https://un7er:x-oauth-basic@host/x", "https://***@host/x"),
    ("https://host/x?api_key=un7er", "https://host/x?***"),
    ("https://host/x?sig=un7er&se=2030", "https://host/x?***"),
    ("https://host/x?X-Amz-Signature=un7er", "https://host/x?***"),
    ("https://host/x?X-Goog-Credential=me&X-Goog-Signature=un7er", "https://host/x?***"),
    ("https://host/x?any=un7er", "https://host/x?***"),
    ("https://host/x?un7er", "https://host/x?***"),
    ("https://host/x;password=un7er", "https://host/x;***"),
    ("https://host/x#un7er", "https://host/x#***"),
    ("postgresql://me:un7er@db/x", "postgresql://***@db/x"),
    ("postgresql+psycopg2://db/x?user=me&password=un7er", "postgresql+psycopg2://db/x?***"),
    (f"mysql+pymysql://me:{ODD}@one:3306,two:3307/x", "mysql+pymysql://***@one:3306,two:3307/x"),
    (f"mssql+pyodbc://me:{ODD}@db/x?driver=ODBC", "mssql+pyodbc://***@db/x?***"),
    ("mssql+pyodbc:///?odbc_connect=PWD%3Dun7er", "mssql+pyodbc:///?***"),
    ("jdbc:sqlserver://db:1433;user=me;password=un7er", "jdbc:sqlserver://db:1433;***"),
    ("sqlite:////data/x.db?key=un7er", "sqlite:////data/x.db?***"),
    ("s3://AKIA:un7er/+@bucket/x", "s3://***@bucket/x"),
    ("https://host/a-{000..010}.tar?sig=un7er", "https://host/a-{000..010}.tar?***"),
    ("https://h/a.tar?sig=un7er::https://h/b.tar?sig=un7er", "https://h/a.tar?***::https://h/b.tar?***"),
]
assert len(FORMS) > 20


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is left in the environment."""
    monkeypatch.setenv(addresses.VARIABLE, "[]")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("HTTP_REQUEST_MAX_RETRIES", "HTTP_REQUEST_TIMEOUT", "SUPPRESS_PRINTING_URL_TO_STDOUT"):
        monkeypatch.setenv(f"MLFLOW_{name}", "1")  # else `open_client` sets them


def holding(folder: Path, *secrets: str) -> list[str]:
    """The files below a folder whose names or bytes hold one of the secrets, also within zip files and as base64."""
    wanted = [form for text in secrets for form in (text.encode(), base64.b64encode(text.encode()).rstrip(b"="))]
    found = []
    for path in folder.rglob("*"):
        parts = [str(path.relative_to(folder)).encode(), path.read_bytes() if path.is_file() else b""]
        if path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                parts += [archive.read(name) for name in archive.namelist()]
        found += [str(path)] if any(each in part for part in parts for each in wanted) else []
    return found


@pytest.mark.parametrize(("address", "shown"), FORMS)
def test_no_door_lets_a_secret_out(
    address: str,
    shown: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quoted = "'" + address.replace("'", "\\'") + "'"
    monkeypatch.setattr("sys.argv", ["facenet-train"])
    arguments = cli.without_secrets(["seed=3", f"tracking.uri={quoted}", f"+data.shards=[{quoted},x]", address])
    assert arguments[:3] == ["seed=3", f"tracking.uri='{shown}'", f"+data.shards=['{shown}',x]"]
    write_command(tmp_path, arguments)
    config: dict[str, Any] = {
        "data": {"shards": [address]},
        "tracking": {"_target_": "facenet.tracking.MlflowTracking", "uri": address},
    }
    configs.write(config, tmp_path / "resolved.yaml")
    config = configs.read(tmp_path / "resolved.yaml")
    facts = RunFacts(
        run_name(config, arguments, {}, "12:00"),
        tmp_path,
        config,
        configs.to_yaml(config),
        {},
        origin("facenet-train", arguments, config),
        {},
    )
    (tmp_path / "store.txt").write_text(repr((facts, params(facts), page(address, "#/x"))))
    journal.begin(tmp_path, "0" * 32, str(addresses.hide_secrets(address)))
    run_store.remember_store(tmp_path, address, "0" * 32)
    checkpoints.save(
        {"config": config, "identities": [], "embedder": {}, "loss": {}, "epoch": 0, "step": 0, "metrics": {}},
        tmp_path / "last.pt",
    )
    said = []
    with pytest.raises(UserError) as raised, usable(address, "x"):
        raise OSError(f"({address!r}) cannot be parsed: nonnumeric port 'un7er', url: {address[8:]}")
    said.append(str(raised.value))
    with pytest.raises(UserError) as raised, reader("x" + address):
        raise OSError(f"no answer of {address}")
    said.append(str(raised.value))
    with caplog.at_level(logging.DEBUG):
        Sender.tell_away(
            type("Away", (), {"uri": address, "path": "x", "away": False, "told_at": -1e9})(), OSError(address)
        )  # type: ignore[arg-type]  # what it reads
    said += [caplog.text, tell_address(address), str(unread(address, "x"))]
    (tmp_path / "said.txt").write_text("\n".join(said))
    assert holding(tmp_path, "un7er") == []

    assert config["tracking"]["uri"] == shown and run_store.stored_in(tmp_path) == shown
    assert configs.build(config["tracking"]).where() == address, "who opens it has all of it"
    assert read_command(tmp_path)[1] == f"tracking.uri='{shown}'"


@pytest.mark.parametrize(
    "argument",
    [
        "data.root=/faces/a@b",
        "tracking.uri=sqlite:////data/mlflow.db",
        "data.shards='https://h/a-{000..010}.tar'",
        "-m",
    ],
)
def test_other_arguments_stay_what_they_are(argument: str) -> None:
    assert cli.without_secrets([argument]) == [argument]


def test_rays_workers_do_not_have_the_environment() -> None:
    ray = "hydra/launcher=ray_cluster"
    with pytest.raises(UserError, match=r"^data\.shards: an address with a secret is not sent to Ray's workers"):
        cli.without_secrets([ray, "data.shards='https://h/a.tar?sig=x'"])
    assert cli.without_secrets([ray, "data.shards=https://h/a.tar"]) == [ray, "data.shards=https://h/a.tar"]


def test_an_address_may_refer_to_the_environment(monkeypatch: pytest.MonkeyPatch, compose: Callable[..., Any]) -> None:
    monkeypatch.setenv("PASSWORD_OF_THIS_TEST", "un7er")
    given = cli.without_secrets(["tracking.uri=postgresql://me:${oc.env:PASSWORD_OF_THIS_TEST}@db/x"])
    config = compose("tracking=mlflow", *given)
    assert config["tracking"]["uri"] == "postgresql://***@db/x"
    assert configs.build(config["tracking"]).where() == "postgresql://me:un7er@db/x"


SIGNATURE, USER, PASSWORD, TIMEOUT = "S1gnatur3", "tok3nuser", "pa55%2Fword", "48151623"


class Signed(SimpleHTTPRequestHandler):
    """Serves whoever has the signature and the password."""

    def do_GET(self) -> None:
        expected = f"Basic {base64.b64encode(f'{USER}:pa55/word'.encode()).decode()}"
        if f"?sig={SIGNATURE}" not in self.path or self.headers.get("Authorization") != expected:
            return self.send_error(403)
        with contextlib.suppress(ConnectionError):  # who read enough
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def signed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of shards: 12 identities x 8 drawn images."""
    pytest.importorskip("webdataset", reason="needs facenet[shards]")
    from PIL import Image

    folder, faces = tmp_path_factory.mktemp("signed"), SyntheticFaces(num_identities=12, images_per_identity=8, size=32)
    for index, label in enumerate(faces.labels.tolist()):
        place = folder / "people" / f"p{label:02d}" / f"{index:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.load(index)).save(place)
    write_shards(FolderFaces(folder / "people"), folder / "out", images_per_shard=20)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Signed, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"127.0.0.1:{server.server_port}/out"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_a_sweep_and_a_resumed_run_leave_no_secret(
    signed: str,
    tmp_path: Path,
    tiny: tuple[str, ...],
    started: Any,
    finished: Any,
    compose: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FACENET_CACHE", str(tmp_path / "cache"))
    shards = f"http://{USER}:{PASSWORD}@{signed}?sig={SIGNATURE}"
    store = f"sqlite:///{tmp_path}/mlflow.db?timeout={TIMEOUT}"
    drawn = ("loss=", "sampler=", "data.num_i", "data.images_per", "trainer.epochs")
    chosen = ("data=shards", "sampler=shuffle", "loss=arcface", "data.shuffle_buffer=20", "benchmark=heldout")
    given = [item for item in tiny if not item.startswith(drawn)]
    sweep = tmp_path / "sweep"
    records = (f"hydra.sweep.dir={sweep}", "hydra.output_subdir=.hydra")
    more = (f"data.shards='{shards}'", f"tracking.uri='{store}'", "trainer.epochs=1", *records)
    first = finished(started("facenet-train", tmp_path / "x", "-m", *given, *chosen, *more), sweep / "0")
    assert first.code == 0, first.err
    assert "***" in (sweep / "multirun.yaml").read_text()

    again = (f"resume={sweep}/0", "resume_changed=true", "hydra.output_subdir=.hydra")
    with pytest.raises(UserError, match=r"data\.shards=http://\*\*\*@"):
        job.run_job({**compose(), "resume": str(sweep / "0")}, run_dir=tmp_path / "y", overrides=[], tags={})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    whole = (*given, *chosen, "trainer.epochs=2", *again, f"data.shards='{shards}'")
    resumed = finished(started("facenet-train", tmp_path / "z", *whole), sweep / "0")
    assert resumed.code == 0, resumed.err
    assert len(json.loads((sweep / "0" / "history.json").read_text())) == 2

    for done in (first, resumed):
        (tmp_path / f"{id(done)}.txt").write_text(done.out + done.err)
    assert holding(tmp_path, SIGNATURE, USER, PASSWORD, "pa55/word", TIMEOUT) == []
    recorded = configs.read(sweep / "0" / "resolved.yaml")
    assert recorded["data"]["shards"] == f"http://***@{signed}?***", "what is no secret is on record"
    kept = torch.load(sweep / "0" / "checkpoints" / "last.pt", weights_only=True)["config"]
    assert kept["data"]["shards"] == f"http://***@{signed}?***"
    assert json.loads((sweep / "0" / "tracking.json").read_text())["uri"] == f"sqlite:///{tmp_path}/mlflow.db?***"
