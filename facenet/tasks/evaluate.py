"""Tests one network on one benchmark, in this process."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from pathlib import Path
from typing import Any

from facenet import config as configs
from facenet.backbones.embedder import Embedder
from facenet.config.overrides import key_of
from facenet.config.slots import addresses_in
from facenet.data.source import Data
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision
from facenet.errors import UserError, printable, shown
from facenet.evaluation import report
from facenet.evaluation.benchmarks.choice import Benchmark, PairSet
from facenet.evaluation.run import run_benchmark
from facenet.files.atomic import replacing
from facenet.privacy.addresses import masked_address
from facenet.tasks import auto
from facenet.tasks.as_trained import as_trained
from facenet.tasks.changed import changed_images
from facenet.tasks.job import origin, source_in
from facenet.tasks.plan import Material, divide
from facenet.tasks.progress import image_bar
from facenet.tasks.restore import Restored, from_checkpoint, from_weights
from facenet.tasks.result import Result
from facenet.tracking.choice import MlflowTracking, NoTracking
from facenet.tracking.facts import RunFacts

log = logging.getLogger(__name__)
MOST_DRAWN = 10_000_000  # faces
PLACES = ("root", "list", "within", "path", "shards")


def run_evaluation(config: dict[str, Any], *, run_dir: Path, overrides: list[str]) -> Result:
    """The objective is the accuracy, NaN of a network that has collapsed. Prints the table and writes ROC and JSON into `run_dir`.

    Raises UserError for a config that does not fit, a file that cannot be loaded and a benchmark that is not complete.
    """
    configs.check(config, evaluate)
    checkpoint = config["checkpoint"]
    if (checkpoint is None) == (config["weights"] is None):
        raise UserError(
            "give either checkpoint=FILE that facenet-train wrote, or weights=FILE with backbone= and preprocess="
        )
    if checkpoint is not None:
        refuse_second_network(checkpoint, overrides)
        config = {**config, "backbone": None, "preprocess": None}
    config, chosen = auto.settle(config)
    if chosen:
        log.info("%s", chosen)
    auto.warn_of_slow(config)
    parts = configs.build({name: node for name, node in config.items() if name != "data"})
    return evaluate(**parts, data=config["data"], run_dir=run_dir, overrides=overrides)


def evaluate(
    *,
    checkpoint: str | None,
    weights: str | None,
    backbone: Embedder,
    preprocess: Preprocess,
    benchmark: Benchmark,
    tracking: MlflowTracking | NoTracking,
    accelerator: DeviceChoice,
    precision: Precision,
    num_workers: int,
    data: dict[str, Any],
    run_dir: Path,
    overrides: list[str],
) -> Result:
    """The parameters are the keys of `conf/evaluate.yaml`; `data.image_size` is there for `preprocess`, the others of `data` for images that
    have moved since the run."""
    restored = from_checkpoint(checkpoint) if checkpoint else from_weights(str(weights), backbone, preprocess)
    if restored.content:
        benchmark = as_trained(benchmark, restored.content, overrides)
    places = {name: place for name, place in data.items() if name in PLACES and place is not None}
    pair_set = pairs_of(benchmark, restored, places)
    run_dir.mkdir(parents=True, exist_ok=True)
    name = pair_set.name
    facts = RunFacts(
        name=f"evaluate {Path(str(checkpoint or weights)).name} on {name}",
        run_dir=run_dir,
        config={"checkpoint": checkpoint, "weights": weights, "preprocess": restored.preprocess.as_dict()},
        config_yaml=configs.to_yaml(restored.content.get("config", {})),
        plan={"benchmark": str(pair_set), "precision": precision.dtype},
        tags={
            **origin("facenet-evaluate", overrides, restored.content.get("config", {})),
            "trained_by_run": str(restored.content.get("run_id")),
        },
        datasets={"test": (name, tested_on(benchmark, restored, places), pair_set.faces.fingerprint)},
    )
    with tracking.run(facts) as run_id, contextlib.closing(tracking.tracker(run_id, run_dir)) as tracker:
        with (
            Accelerator.start(accelerator, precision, alone=True) as device,
            image_bar(len(pair_set.faces)) as progress,
        ):
            device.prepare(restored.embedder)  # laid out as in training: other layouts add in another order
            result = run_benchmark(
                restored.embedder, pair_set, restored.preprocess, device, num_workers=num_workers, progress=progress
            )
        written = run_dir / f"{name}.json"
        with replacing(written) as partial:
            partial.write_text(json.dumps(report.as_dict(name, result), indent=1), encoding="utf-8")
        report.save_roc(run_dir / "roc.png", {name: result})
        figures = {**report.metrics(name, result), **report.fold_metrics(name, result)}
        tracker.metrics(figures, step=int(restored.content.get("step", 0)))
        tracker.artifact(run_dir / "roc.png", "curves")
        tracker.artifact(written, "records")
    print(printable(f"{report.table(name, result)}\n\ndirectory   {run_dir}"))
    if (view := tracking.view(run_id)) is not None:
        print(printable(f"see the run: {view}"))
    accuracy = math.nan if result.collapsed else float(result.accuracy)
    return Result(figures, run_dir, Path(checkpoint) if checkpoint else None, run_id, accuracy)


def tested_on(benchmark: Benchmark, restored: Restored, places: dict[str, str]) -> str:
    """The source of the test set: its own, that of the data whose identities were held out, or its name."""
    stored = restored.content.get("config", {}).get("data") if benchmark.needs_heldout else None
    found = source_in(vars(benchmark)) or source_in({**(stored if isinstance(stored, dict) else {}), **places})
    return masked_address(found) if found else benchmark.name


def pairs_of(benchmark: Benchmark, restored: Restored, places: dict[str, str]) -> PairSet:
    """Opens the benchmark; held-out identities are those of the data that the checkpoint names, or that lie at these `places` now."""
    if not benchmark.needs_heldout:
        if places:
            raise UserError(f"data.{min(places)}: only benchmark=heldout tests on images of the run; leave it out")
        pair_set = benchmark.open(None)
    elif not restored.content:
        raise UserError("benchmark=heldout: weights made elsewhere name no training data; use benchmark=lfw")
    else:
        material = divide(heldout_data(restored.content["config"], places), benchmark)
        check_not_trained_on(material, restored.content)
        pair_set = material.pair_set
    if pair_set is None:
        raise UserError("benchmark=none: there is nothing to test on; use benchmark=lfw")
    return pair_set


def placed(data: dict[str, Any], places: dict[str, str]) -> dict[str, Any]:
    """The data of a run where they lie now. Raises UserError for a place of another kind of data."""
    own = [name for name in PLACES if data.get(name) is not None]
    for name, place in places.items():
        if name not in (*own, "within") or not own:
            named = f"set data.{own[0]}" if own else "they are drawn and lie nowhere; leave it out"
            raise UserError(f"data.{name}={place}: the run's data are of another kind; {named}")
    return {**data, **places}


def heldout_data(config: dict[str, Any], places: dict[str, str]) -> Data:
    """The data that a checkpoint names, which are read as lists and images, and told. `places`: where the command line says that they are. Raises
    UserError for an address that it does not say: whoever wrote the checkpoint would choose who is called."""
    stored = config.get("data")
    if not isinstance(stored, dict):
        raise UserError("benchmark=heldout: damaged checkpoint, its config has no data; use benchmark=lfw")
    node = placed(stored, places)
    for path, address in addresses_in(node, "data"):
        if path.removeprefix("data.") not in places:
            raise UserError(
                f"benchmark=heldout: {path}={shown(masked_address(address))} is an address that only the checkpoint names, which is not opened on "
                f"its word; say it again on the command line, {path}=..., or use benchmark=lfw"
            )
    numbers = [node.get(name, 1) for name in ("num_identities", "images_per_identity")]
    if not all(isinstance(each, int) for each in numbers) or math.prod(numbers) > MOST_DRAWN:
        raise UserError(
            "benchmark=heldout: damaged checkpoint, its data are more drawn faces than any run has; use benchmark=lfw"
        )
    data = configs.build(node, "data")
    if not isinstance(data, Data) or type(data) is Data:  # the base opens nothing
        raise UserError("benchmark=heldout: damaged checkpoint, its config has no data; use benchmark=lfw")
    named = [f"data.{key}={shown(str(node[key]))}" for key in PLACES if node.get(key) is not None and key not in places]
    if named:
        log.info("the checkpoint says where its faces are: %s", ", ".join(named))
    return data


def check_not_trained_on(material: Material, content: dict[str, Any]) -> None:
    """Raises UserError where the run held out nobody, or others: because it had another benchmark, or the data changed since."""
    heldout = () if material.heldout is None else material.heldout.identities
    if seen := set(heldout) & {name for name in content["identities"] if isinstance(name, str)}:
        raise UserError(
            f"benchmark=heldout: {len(seen)} of {len(heldout)} held-out identities were trained on, first {min(seen)}; "
            "the run held out others or none, or its data changed since; use benchmark=lfw"
        )
    if material.source.fingerprint != content.get("data_fingerprint"):
        log.warning("the data changed since training: these are not the pairs of its log")
    for line in changed_images(material, content.get("samples")):
        log.warning("%s: these are not the images of its log", line)


def refuse_second_network(checkpoint: str, overrides: list[str]) -> None:
    for override in overrides:
        key = key_of(override)
        if key in [f"data.{name}" for name in PLACES]:
            continue
        if key.split(".")[0].split("/")[0] in ("backbone", "preprocess", "data"):
            raise UserError(
                f"{override}: {checkpoint} carries its own network and preprocessing; leave it out, or load bare weights with weights="
            )
