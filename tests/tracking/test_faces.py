"""Pictures of people and files that name their images stay on this machine, unless the user asks for more."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from facenet.tracking import known
from facenet.tracking.delivery import Delivered, send
from facenet.tracking.journal import begin
from facenet.tracking.tracker import JournalTracker, publish

PLACES = {
    "file:///home/me/mlartifacts/1": ("sqlite:////home/me/mlflow.db", False),
    "/home/me/mlartifacts/1": ("sqlite:////home/me/mlflow.db", False),
    "mlflow-artifacts:/1/run": ("http://127.0.0.1:5000", False),
    "mlflow-artifacts:/2/run": ("https://mlflow.example.org", True),
    "mlflow-artifacts://localhost:5000/3": ("http://localhost:5000", False),
    "mlflow-artifacts://files.example.org/3": ("http://localhost:5000", True),
    "s3://localhost/1": ("sqlite:////home/me/mlflow.db", True),  # a bucket's name
    "s3://bucket/1": ("sqlite:////home/me/mlflow.db", True),
    "https://files.example.org/1": ("http://localhost:5000", True),
}


class Client:
    def __init__(self, place: str, uri: str) -> None:
        self.place, self.tracking_uri, self.sent = place, uri, []

    def get_run(self, run_id: str) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(artifact_uri=self.place))

    def log_artifact(self, run_id: str, path: str, folder: str | None) -> None:
        self.sent.append((path.rpartition("/")[2], folder))


@pytest.mark.parametrize("upload", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_what_shows_or_names_people_goes_to_a_store_elsewhere_only_when_asked(place, upload, tmp_path):
    uri, away = PLACES[place]
    names = [
        "faces-batch.png",
        "hardest-lfw.json",
        "pairs-lfw.csv.gz",
        "split.json",
        "unreadable.json",
        "roc.png",
        "lfw.json",
    ]
    begin(tmp_path, "run", None)
    tracker = JournalTracker(tmp_path, upload_faces=upload)
    records = []
    tracker.journal.add = lambda **record: records.append(record)
    for name in names:
        (tmp_path / name).write_bytes(b"x")
        publish(tracker, tmp_path / name)
    tracker.close()
    known.remember(uri)  # in which this user records runs
    client = Client(place, uri)
    for record in records:
        send(client, "run", tmp_path, [record], Delivered())
    of_people = [("faces-batch.png", "faces"), *((name, "records") for name in names[1:5])]
    others = [("roc.png", "curves"), ("lfw.json", "records")]
    assert client.sent == (others if away and not upload else of_people + others)
