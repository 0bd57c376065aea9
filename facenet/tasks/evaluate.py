"""Tests one network on benchmarks, in this process."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facenet import config as configs
from facenet.backbones.embedder import Embedder
from facenet.config.overrides import key_of
from facenet.config.slots import addresses_in, openings_of_strangers
from facenet.data.source import Data
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision
from facenet.engine import checkpoint as checkpoints
from facenet.errors import UserError, printable, shown
from facenet.evaluation import report
from facenet.evaluation.benchmarks.together import together
from facenet.evaluation.contract import Benchmark, Opened, Outcome
from facenet.evaluation.run import run_benchmarks
from facenet.files.atomic import replacing
from facenet.files.run_dir import RunDir
from facenet.privacy.addresses import masked_address
from facenet.tasks import auto, page
from facenet.tasks.as_trained import as_trained, is_unsaid, of_run
from facenet.tasks.changed import changed_images
from facenet.tasks.numbers import NEXT
from facenet.tasks.origin import origin
from facenet.tasks.own_runs import is_own
from facenet.tasks.plan import Material, divide
from facenet.tasks.progress import image_bar
from facenet.tasks.records import draw_all
from facenet.tasks.restore import Restored, checkpoint_named, from_weights, restored
from facenet.tasks.result import Result
from facenet.tasks.tested import opened_of, unresolved
from facenet.tracking import reading
from facenet.tracking.choice import MlflowTracking, NoTracking
from facenet.tracking.facts import RunFacts, safe_name
from facenet.tracking.store import NOTE
from facenet.tracking.tracker import Tracker, publish

log = logging.getLogger(__name__)
MOST_DRAWN = 10_000_000  # faces
PLACES = ("root", "list", "within", "path", "shards")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A test as its config describes it: the fields are the keys of `conf/evaluate.yaml`. Backbone and preprocessing are those of `weights`;
    `data.image_size` is there for `preprocess`, the others of `data` for images that have moved since the run."""

    checkpoint: str | None
    weights: str | None
    backbone: Embedder
    preprocess: Preprocess
    benchmark: Benchmark
    benchmarks: dict[str, Benchmark] = field(default_factory=dict)
    tracking: MlflowTracking | NoTracking
    accelerator: DeviceChoice
    precision: Precision
    num_workers: int
    data: dict[str, Any]


def run_evaluation(config: dict[str, Any], *, run_dir: Path, overrides: list[str]) -> Result:
    """The objective is what the run was selected by, else the first figure of the first benchmark: NaN of a network that has collapsed. Prints the
    table and writes ROC and JSON into `run_dir`.

    Raises UserError for a config that does not fit, a file that cannot be loaded and a benchmark that is not complete.
    """
    content, path = {}, config["weights"]
    if (config["checkpoint"] is None) == (path is None):
        raise UserError(
            "give either checkpoint=FILE that facenet-train wrote, or weights=FILE with backbone= and preprocess="
        )
    if config["checkpoint"] is not None:
        refuse_second_network(config["checkpoint"], overrides)
        path = str(
            checkpoint_named(config["checkpoint"], getattr(configs.build(config["tracking"], "tracking"), "uri", None))
        )
        content = checkpoints.load(path)
        config = {**of_run(config, content, overrides), "checkpoint": path}
    if is_unsaid(config) and config.get("benchmarks"):
        config = {**config, "benchmark": {"_target_": "facenet.evaluation.NoBenchmark"}}
    configs.check(config, Evaluation)
    config, chosen = auto.settle(config)
    if chosen:
        log.info("%s", chosen)
    auto.warn_of_slow(config)
    if content:
        config = {**config, "backbone": None, "preprocess": None}
    parts = configs.build({name: node for name, node in config.items() if name != "data"})
    found = Evaluation(**parts, data=config["data"])
    network = restored(content, path) if content else from_weights(path, found.backbone, found.preprocess)
    return evaluate(found, network, run_dir=run_dir, overrides=overrides)


def evaluate(evaluation: Evaluation, network: Restored, *, run_dir: Path, overrides: list[str]) -> Result:
    """What `run_evaluation` returns for a network in memory."""
    path, tracking = evaluation.checkpoint or str(evaluation.weights), evaluation.tracking
    benchmarks = together(evaluation.benchmark, evaluation.benchmarks)
    if network.content:
        benchmarks = [as_trained(each, network.content, overrides) for each in benchmarks]
    places = {name: place for name, place in evaluation.data.items() if name in PLACES and place is not None}
    opened = opened_on(benchmarks, network, places)
    run_dir.mkdir(parents=True, exist_ok=True)
    tags = origin("facenet-evaluate", overrides, network.content.get("config", {}))
    trained_by = str(network.content.get("run_id"))
    facts = RunFacts(
        name=f"evaluate {Path(path).name} on {', '.join(each.name for each in opened)}",
        run_dir=run_dir,
        config={
            "checkpoint": evaluation.checkpoint,
            "weights": evaluation.weights,
            "preprocess": network.preprocess.as_dict(),
        },
        config_yaml=configs.to_yaml(network.content.get("config", {})),
        plan={"benchmark": NEXT.join(map(str, opened)), "precision": evaluation.precision.dtype},
        tags={**tags, "trained_by_run": trained_by, NOTE: page.of_test(path, trained_by, tags["command"])},
        datasets={
            "test" if each is opened[0] else f"test {each.name}": (
                each.name,
                masked_address(each.location) if each.location else each.name,
                each.faces.fingerprint,
            )
            for each in opened
        },
        unresolved=tuple(unresolved(opened)),
    )
    with tracking.run(facts) as run_id, contextlib.closing(tracking.tracker(run_id, run_dir)) as tracker:
        with Accelerator.start(evaluation.accelerator, evaluation.precision, alone=True) as device, image_bar() as bar:
            device.prepare(network.embedder)  # laid out as in training: other layouts add in another order
            outcomes = run_benchmarks(
                *(network.embedder, opened, network.preprocess, device),
                num_workers=evaluation.num_workers,
                progress=bar,
            )
        figures = written(outcomes, run_dir, tracker, step=int(network.content.get("step", 0)))
    if run_id is not None and is_own(network.content):  # else anybody's checkpoint would write on a run
        tell_trained(tracking, trained_by, run_id, outcomes)
    print(printable("\n\n".join([*(text_of(*each) for each in outcomes.items()), f"directory   {run_dir}"])))
    if (view := tracking.view(run_id)) is not None:
        print(printable(f"see the run: {view}"))
    value = objective(opened, outcomes, network.content)
    checkpoint = Path(path) if evaluation.checkpoint else None
    return Result(figures, run_dir, checkpoint, run_id, value, report.collapsed(outcomes))


def tell_trained(
    tracking: MlflowTracking | NoTracking, trained_by: str, run_id: str, outcomes: dict[str, Outcome]
) -> None:
    """Tags the run that trained the network with what a test came to and the test's own run, if it is in the same store."""
    told = {}
    for name, each in outcomes.items():
        figure = next(iter(each.metrics), None)
        value = each.collapsed or (f"{figure} {report.digits(each.metrics[figure])}" if figure else "no figure")
        spans = [span for tag, span in report.tags(name, each).items() if tag.startswith("interval.")]
        told[safe_name(f"evaluated.{name}")] = ", ".join(
            [value, *(f"95 % interval {span}" for span in spans), f"run {run_id}"]
        )
    if isinstance(tracking, MlflowTracking):
        with contextlib.suppress(UserError):  # that run is elsewhere, or deleted
            reading.tag(tracking.where(), trained_by, told)


def written(outcomes: dict[str, Outcome], run_dir: Path, tracker: Tracker, *, step: int) -> dict[str, float]:
    """All figures. Files go into the run directory and to MLflow."""
    figures: dict[str, float] = {}
    for name, each in outcomes.items():
        figures |= {f"{name}/{figure}": float(value) for figure, value in each.metrics.items()}
        for tag, value in report.tags(name, each).items():
            tracker.tag(tag, value)
    tracker.metrics(figures, step=step)
    records, roc = report.kept(outcomes), RunDir(run_dir).roc
    for file_name, content in records.items():
        with replacing(run_dir / file_name) as partial:
            partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    files = [run_dir / file_name for file_name in records]
    files += [roc] if report.save_roc(roc, outcomes) else []
    files += draw_all([each.draw for each in outcomes.values() if each.draw], run_dir)
    for path in files:
        publish(tracker, path)
    if why := report.collapsed(outcomes):
        tracker.tag("collapsed", why)
    return figures


def text_of(name: str, outcome: Outcome) -> str:
    return outcome.text or "\n".join(
        [name, *(f"  {figure:<16} {report.digits(value)}" for figure, value in outcome.metrics.items())]
    )


def objective(opened: Sequence[Opened], outcomes: dict[str, Outcome], content: dict[str, Any]) -> float:
    """The figure that the run was selected by, if it is among these, else the first that tells better from worse."""
    trainer = content.get("config", {}).get("trainer")
    name, _, figure = str(trainer.get("select") if isinstance(trainer, dict) else None).partition("/")
    if name not in outcomes or figure not in outcomes[name].metrics:
        name, figure = opened[0].name, next(iter(opened[0].measures), "")
    return float(outcomes[name].metrics.get(figure, math.nan))


def opened_on(benchmarks: Sequence[Benchmark], restored: Restored, places: dict[str, str]) -> list[Opened]:
    """Opens the benchmarks; held-out identities are those of the data that the checkpoint names, or that lie at these `places` now."""
    if not benchmarks:
        raise UserError("benchmark=none: there is nothing to test on; use benchmark=lfw")
    if not any(each.needs_heldout for each in benchmarks):
        if places:
            raise UserError(f"data.{min(places)}: only benchmark=heldout tests on images of the run; leave it out")
        return opened_of(benchmarks)
    if not restored.content:
        raise UserError("benchmark=heldout: weights made elsewhere name no training data; use benchmark=lfw")
    content = restored.content
    material = divide(heldout_data(content["config"], places, own=is_own(content)), *benchmarks)
    check_not_trained_on(material, content)
    return list(material.benchmarks)


def placed(data: dict[str, Any], places: dict[str, str]) -> dict[str, Any]:
    """The data of a run where they lie now. Raises UserError for a place of another kind of data."""
    own = [name for name in PLACES if data.get(name) is not None]
    for name, place in places.items():
        if name not in (*own, "within") or not own:
            named = f"set data.{own[0]}" if own else "they are drawn and lie nowhere; leave it out"
            raise UserError(f"data.{name}={place}: the run's data are of another kind; {named}")
    return {**data, **places}


def heldout_data(config: dict[str, Any], places: dict[str, str], *, own: bool = False) -> Data:
    """The data that a checkpoint names, which are read as lists and images, and told. `places`: where the command line says that they are. own: the
    checkpoint is of a run of this user's. Raises UserError for an address that the command line does not say: whoever wrote the checkpoint would
    choose who is called; and unless it is `own` for what a trusted class of somebody else's would open."""
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
    for path, value in () if own else openings_of_strangers({"data": node}, ""):
        if path.removeprefix("data.") not in places:
            raise UserError(
                f"benchmark=heldout: {path}={shown(str(value))} would be opened by a class of somebody else's on the checkpoint's word alone; say it "
                f"again on the command line, {path}=..., or use benchmark=lfw"
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
