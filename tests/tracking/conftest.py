"""A database for the tests that need none of their own: making its tables takes seconds. And runs in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facenet.tracking.choice import MlflowTracking
from facenet.tracking.facts import RunFacts

FACTS = {
    "name": "lr 0.1",
    "config": {"optimizer": {"lr": 0.1}, "loss": {"terms": [{"w": 1}, {"w": 2.5}]}, "weights": None},
    "config_yaml": "optimizer: {lr: 0.1}\n",
    "plan": {"total_steps": 8, "device": "here", "lr": 0.01},
    "tags": {"sweep_id": "s1"},
    "datasets": {"train": ("people", "/data/people", "0123456789abcdef"), "test": ("lfw", "/data/lfw", "f" * 40)},
}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mlflow.db, made."""
    folder = tmp_path_factory.mktemp("store")
    from facenet.tracking.store import open_experiment

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where files of MLflow's own experiment, Default, go for good
        open_experiment(f"sqlite:///{folder}/mlflow.db", "study one")
    return folder


@pytest.fixture
def mlflow(store: Path) -> MlflowTracking:
    return MlflowTracking(uri=f"sqlite:///{store}/mlflow.db", experiment="study one", system_metrics=False)


@pytest.fixture
def own(store: Path, tmp_path: Path) -> MlflowTracking:
    """With a database that the test may break: a copy in its folder."""
    shutil.copy(store / "mlflow.db", tmp_path)
    return MlflowTracking(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="study one", system_metrics=False)


@pytest.fixture
def client(mlflow: MlflowTracking) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=mlflow.uri)


@pytest.fixture
def facts(tmp_path: Path) -> Callable[..., RunFacts]:
    """facts(**changes) of a run in the test's folder."""
    return lambda **changes: RunFacts(**{**FACTS, "run_dir": tmp_path, **changes})
