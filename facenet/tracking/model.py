"""The best network of a run as MLflow's logged model, in a form that loads without executing anything in it (torch.export's), and its versions in
the model registry. Once for a run, and in a sweep once for all runs of its directory: an earlier one is deleted unless it is registered."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facenet.files.atomic import is_full
from facenet.tracking.facts import LONGEST_TAG, shorten
from facenet.tracking.store import NOTE

if TYPE_CHECKING:
    from mlflow import MlflowClient

VARIABLE = "MLFLOW_TRACKING_URI"
ALIAS = "candidate"  # models:/NAME@candidate is the newest; who approves one moves an alias of their own
NAME = "model"
OF_RUN, OF_SWEEP, STEP = "trained_by_run", "sweep_id", "step"  # tags of a logged model
VERSIONS = "mlflow.modelVersions"  # a tag that MLflow gives to a registered one
USE = """RGB images uint8 (N, H, W, 3) of the network's size to embeddings float32 (N, D) of unit length. Two images are of one person where their
embeddings are nearer than the threshold: {threshold}.

```python
embeddings = mlflow.pyfunc.load_model("models:/{model_id}").predict(images)
```"""
ROOM = 16_000_000  # bytes beside the weights, for graph and examples: 0.6 MB of the built-in network
TRIAL = 200  # optimizer steps; of a shorter run nobody wants a model whose making takes longer than the run


@dataclass(frozen=True, kw_only=True)
class Best:
    """What of a checkpoint goes to MLflow. `network` is a torch module and `example` NumPy input with two or more rows, whose number is then free.
    `figures`: names of the metrics of its epoch, `total_steps`: of the run, `threshold`: one that fits the network's output, in words."""

    network: Any
    example: Any
    step: int
    figures: tuple[str, ...]
    total_steps: int
    threshold: str | None = None


@dataclass(frozen=True)
class Kept:
    """`seconds` and `size` in bytes: of what was made, None where the model was there."""

    model_id: str
    seconds: float | None = None
    size: int | None = None

    def __str__(self) -> str:
        uri = f"models:/{self.model_id}"
        if self.seconds is None or self.size is None:
            return f"{uri}, which was there"
        return f"{uri}, {self.size / 1e6:.1f} MB in {self.seconds:.1f} s"


def keep(client: MlflowClient, run_id: str, best: Best, rivals: Collection[str] = ()) -> Kept:
    """Adds the model to a run that has ended, unless it has it, in place of an earlier one of its own or of its `rivals`, other runs.

    Raises what the client and torch.export raise; an exception, Ctrl-C too, leaves no model behind."""
    began = time.monotonic()
    run = client.get_run(run_id)
    before = [each for other in {run_id, *rivals} for each in models_of(client, run, other)]
    kept = next((Kept(each.model_id) for each in before if is_of(each, run_id, best.step)), None)
    if kept is None:
        model_id, size = add(client, run, best)
        kept = Kept(model_id, time.monotonic() - began, size)
    for each in before:
        if each.model_id != kept.model_id and VERSIONS not in each.tags:
            client.delete_logged_model(each.model_id)
    return kept


def models_of(client: MlflowClient, run: Any, run_id: str) -> list[Any]:
    """Those of a run in the experiment of another."""
    return list(client.search_logged_models([run.info.experiment_id], f"tags.{OF_RUN} = '{run_id}'"))


def is_of(model: Any, run_id: str, step: int) -> bool:
    return bool(model.source_run_id == run_id and model.tags.get(STEP) == str(step) and str(model.status) == "READY")


def add(client: MlflowClient, run: Any, best: Best) -> tuple[str, int]:
    """Id and bytes of a new model, with the run's params and the metrics that its checkpoint was measured by."""
    from mlflow.entities import LoggedModelOutput

    sweep, run_id = run.data.tags.get(OF_SWEEP), run.info.run_id
    tags = {name: value for name, value in run.data.tags.items() if name.startswith(("mlflow.user", "mlflow.source."))}
    tags |= {OF_RUN: run_id, STEP: str(best.step), **({} if sweep is None else {OF_SWEEP: sweep})}
    if best.threshold is not None:
        tags["threshold"] = shorten(best.threshold, LONGEST_TAG)
    model = client.create_logged_model(run.info.experiment_id, NAME, run_id, tags, run.data.params)
    try:
        client.set_logged_model_tags(
            model.model_id, {NOTE: USE.format(model_id=model.model_id, threshold=best.threshold or "that of its test")}
        )
        with tempfile.TemporaryDirectory() as folder:
            save(best, model, Path(folder) / NAME)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            client.log_model_artifacts(model.model_id, str(Path(folder) / NAME))
        if metrics := measured(client, run, model.model_id, best):
            client.log_batch(run_id, metrics=metrics)
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, best.step)])
    except BaseException:
        with contextlib.suppress(Exception):
            client.delete_logged_model(model.model_id)
        raise
    return model.model_id, size


def save(best: Best, model: Any, folder: Path) -> None:
    import mlflow.pytorch
    from mlflow.models import Model, infer_signature

    check_room(sum(each.nbytes for each in best.network.state_dict().values()) + ROOM)
    logging.getLogger("mlflow.pytorch").setLevel(logging.ERROR)
    mlflow.pytorch.save_model(
        best.network,
        str(folder),
        mlflow_model=Model(
            artifact_path=model.artifact_location,
            run_id=model.source_run_id,
            model_uuid=model.model_id,
            model_id=model.model_id,
        ),
        serialization_format="pt2",
        input_example=best.example,
        signature=infer_signature(best.example),
        pip_requirements=[f"torch=={metadata.version('torch').split('+')[0]}", "mlflow"],
    )


def check_room(size: int) -> None:
    """Raises the OSError of a disk for temporary files that has not so many bytes: torch.export's writer raises there too, and then ends the process,
    since its destructor tries once more."""
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if is_full(error):
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from None


def measured(client: MlflowClient, run: Any, model_id: str, best: Best) -> list[Any]:
    """The run's points at the step of the checkpoint, as the model's: with the same time they are no second point of the run."""
    from mlflow.entities import Metric

    run_id, digests = run.info.run_id, {each.dataset.name: each.dataset.digest for each in run.inputs.dataset_inputs}
    points = [
        point
        for name in sorted(run.data.metrics.keys() & best.figures)
        for point in client.get_metric_history(run_id, name)
        if point.step == best.step
    ]
    return [
        Metric(
            *(point.key, point.value, point.timestamp, point.step, model_id),
            dataset_name=tested_on if tested_on in digests else None,
            dataset_digest=digests.get(tested_on),
            run_id=run_id,
        )
        for point in points
        for tested_on in [point.key.partition("/")[0]]
    ]


def register(client: MlflowClient, uri: str, model_id: str, name: str) -> str:
    """The version that a logged model has under a name in the registry, the one that the alias names from now on. Raises what the client raises."""
    import mlflow

    versions = json.loads(client.get_logged_model(model_id).tags.get(VERSIONS, "[]"))
    found = next((str(each["version"]) for each in versions if each["name"] == name), None)
    if found is None:
        with current_store(uri):
            found = str(mlflow.register_model(f"models:/{model_id}", name, None).version)
    client.set_registered_model_alias(name, ALIAS, found)
    return found


@contextlib.contextmanager
def current_store(uri: str) -> Iterator[None]:
    """Sets the store that MLflow's functions without a client use; afterwards what they used before, in this process and in the environment of
    others, so that the next job of a sweep does not record there."""
    import mlflow

    variable = os.environ.pop(VARIABLE, None)
    before = (
        mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    )  # else the variable, read anew at each use
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # None: as if it had never been said
        if variable is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = variable
