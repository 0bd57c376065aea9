"""A network in MLflow's model registry, in a form that loads without executing anything in it (torch.export's)."""

from __future__ import annotations

import logging
from importlib import metadata
from typing import Any

from facenet.tracking.store import open_client

ALIAS = "candidate"  # models:/NAME@candidate is the newest; who approves one moves an alias of their own


def register(uri: str, run_id: str, name: str, network: Any, example: Any) -> str:
    """The version that a torch module got under a name. `example`: NumPy input with two or more rows, whose number is then free.

    Raises what the client and torch.export raise.
    """
    import mlflow
    from mlflow.models import infer_signature

    logging.getLogger("mlflow.pytorch").setLevel(logging.ERROR)
    client = open_client(uri)
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run(run_id=run_id):
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
