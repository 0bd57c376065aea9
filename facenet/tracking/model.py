"""A network in MLflow's model registry, in a form that loads without executing anything in it (torch.export's)."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from facenet.tracking.store import open_client

VARIABLE = "MLFLOW_TRACKING_URI"
ALIAS = "candidate"  # models:/NAME@candidate is the newest; who approves one moves an alias of their own


def register(uri: str, run_id: str, name: str, network: Any, example: Any) -> str:
    """The version that a torch module got under a name. `example`: NumPy input with two or more rows, whose number is then free.

    Raises what the client and torch.export raise.
    """
    import mlflow
    from mlflow.models import infer_signature

    logging.getLogger("mlflow.pytorch").setLevel(logging.ERROR)
    client = open_client(uri)
    with current_store(uri), mlflow.start_run(run_id=run_id):
        logged = mlflow.pytorch.log_model(
            network,
            name="model",
            serialization_format="pt2",
            input_example=example,
            signature=infer_signature(example),
            pip_requirements=[f"torch=={metadata.version('torch').split('+')[0]}", "mlflow"],
            registered_model_name=name,
        )
    version = str(logged.registered_model_version)
    client.set_registered_model_alias(name, ALIAS, version)
    client.update_run(run_id, status="RUNNING")
    return version


@contextlib.contextmanager
def current_store(uri: str) -> Iterator[None]:
    """Sets the store that MLflow's functions without a client use; afterwards what they used before, in this process and in the environment of
    others, so that the next job of a sweep does not record there."""
    import mlflow

    before, variable = mlflow.get_tracking_uri(), os.environ.get(VARIABLE)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        if variable is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = variable
