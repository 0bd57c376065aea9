"""One training job from the launcher's side: plan, tracked run, ranks, summary."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

from facenet import config as configs
from facenet.data.identities import Faces
from facenet.devices.updates import leave_compiler_out
from facenet.distributed.choice import Distributed
from facenet.engine.watch.alarm import TRY
from facenet.errors import printable
from facenet.evaluation.benchmarks.readable import unreadable_in
from facenet.evaluation.report import digits
from facenet.evaluation.run import image_keys
from facenet.files import trusted
from facenet.files.run_dir import RunDir
from facenet.files.typed import command, override
from facenet.launch.local import launch
from facenet.launch.order import Order
from facenet.privacy import addresses
from facenet.tasks import auto, pace, page, run_store
from facenet.tasks import resume as resuming
from facenet.tasks.changed import of_heldout
from facenet.tasks.compared import params_to_compare, run_name
from facenet.tasks.numbers import Plan
from facenet.tasks.origin import origin
from facenet.tasks.plan import Material, divide, make_plan
from facenet.tasks.progress import image_bar
from facenet.tasks.recipe import Recipe, build_planned
from facenet.tasks.registration import keep_model
from facenet.tasks.rehearsal import check_augment, check_preprocess
from facenet.tasks.result import Result
from facenet.tasks.tested import unresolved
from facenet.tracking.facts import GONE_ON, LOWER, RunFacts
from facenet.tracking.store import NOTE

log = logging.getLogger(__name__)
Start = Callable[[Path, Distributed, Order], Any]


def run_job(
    config: dict[str, Any],
    *,
    run_dir: Path,
    overrides: list[str],
    tags: dict[str, str],
    start: Start = launch,
    sweep_dir: Path | None = None,
) -> Result:
    """Trains; the objective is the metric that `trainer.select` names. Prints the plan before and where everything lies after. `start` runs
    the job's processes. `sweep_dir`: whose jobs have one choice of what is `auto`.

    Raises UserError for a mistake in config or data, RankFailed when a process fails, and the signal's exception when one stops it.
    """
    begun = time.monotonic()
    leave_compiler_out()
    if config.get("resume") in (None, "auto"):  # else its keys are those of the run that it names
        configs.check(config, Recipe)
    earlier = resuming.find(config["resume"], run_dir)
    if earlier is not None:
        config, run_dir = resuming.config_of(earlier, config, overrides), earlier.run_dir
        configs.check(config, Recipe)
    config, chosen = auto.settle(config, sweep_dir=sweep_dir)
    material, plan = prepare(config)
    plan = dataclasses.replace(plan, chosen=chosen)
    tracking = configs.build(config["tracking"], "tracking")
    print(printable(f"{plan}\n  {'tracking':<12} {tracking.said()}{trusted_lines(config)}"), flush=True)
    if plan.lr.clipped:
        log.warning("optimizer.lr is not what trains: %s", plan.lr.note)
    auto.warn_of_slow(config)
    if earlier is not None:
        earlier.check_data(plan.images.data_fingerprint, changed=config["resume_changed"])
        earlier.check_images(material, changed=config["resume_changed"])
        earlier.check_fits(config, material.train.identities)
        if earlier.is_finished(plan.steps.total_steps):
            return left_as_it_is(earlier, plan, config)
    look_at_images(material, num_workers=config["data"]["num_workers"])
    begun_here = run_store.find_begun(run_dir, config) if earlier is None and config["resume"] == "auto" else None
    config = {**addresses.hide_secrets(config), "resume": str(earlier.checkpoint) if earlier else None}
    if config["tracking"].get("uri"):
        config["tracking"] = {**config["tracking"], "uri": addresses.hide_secrets(tracking.where())}
    first = None if earlier is None else run_store.first_command(tracking, earlier.run_id)
    facts = facts_of(config, material, plan, overrides, tags, run_dir, first=first)
    stopped = contextlib.nullcontext() if "sweep_id" in tags else way_on_told(run_dir, overrides, alone=start is launch)
    with stopped, resuming.alone_in(run_dir) as lock, resuming.write_config(config, run_dir):
        with tracking.run(facts, run_id=earlier.run_id if earlier else None, begun=begun_here) as run_id:
            distributed: Distributed = configs.build(config["distributed"], "distributed")
            if run_id or earlier is None:  # one that goes on without tracking is still recorded where it was
                run_store.remember_store(run_dir, tracking.where() if run_id else None, run_id)
            with page.of_run(tracking.tracker(run_id, run_dir), facts) as told:
                result = start(run_dir, distributed, Order(run_id=run_id, lock=lock))
                told.update(result)
        if earlier is None and result["pruned"] is None:
            pace.remember(config, plan, whole_s=time.monotonic() - begun, epochs_s=result["seconds"])
        tell_end(result, run_dir, tracking.view(run_id), plan, material)
    # After the end: a stop costs the model, not the run's state. A collapsed network is nothing to offer, of a sweep the winner's is.
    if result.get("collapsed") is None and "sweep_id" not in tags:
        keep_model(tracking, run_id, Path(result["checkpoint"]))
    objective = None if result["objective"] is None else float(result["objective"])
    return Result(result["metrics"], run_dir, Path(result["checkpoint"]), run_id, objective)


def trusted_lines(config: dict[str, Any]) -> str:
    """What the plan says of packages of others: each with its version."""
    return "".join(f"\n  {'trusted':<12} {name} {version}" for name, version in trusted.versions(config).items())


def facts_of(
    config: dict[str, Any],
    material: Material,
    plan: Plan,
    overrides: list[str],
    tags: dict[str, str],
    run_dir: Path,
    *,
    first: str | None = None,
) -> RunFacts:
    """What MLflow is told of a run before its first step. `first`: the command that began it, where this one goes on with it."""
    tags = {**origin("facenet-train", overrides, config), "config_hash": configs.fingerprint(config), **tags}
    if first is not None:
        tags = {**tags, "command": first, GONE_ON: tags["command"]}
    compared = params_to_compare(config, plan.as_dict(), overrides, tags)
    return RunFacts(
        name=run_name(config, overrides, tags, clock=time.strftime("%H:%M")),
        run_dir=run_dir,
        config=config,
        config_yaml=configs.to_yaml(config),
        plan=plan.as_dict(),
        tags={
            NOTE: page.begun(compared, str(plan), tags["command"], tags["code"]),
            **tags,
            **({LOWER: "true"} if plan.lower_is_better else {}),
        },
        datasets=datasets(config, material, plan),
        compared=compared,
        select=plan.select,
        unresolved=tuple(unresolved(material.benchmarks)),
    )


@contextlib.contextmanager
def way_on_told(run_dir: Path, overrides: list[str], *, alone: bool) -> Iterator[None]:
    """A run that a stop signal or a failure ends says how it goes on, as a sweep does for all its jobs. Not `alone`: torchrun began the command."""
    last = RunDir(run_dir).checkpoints.last
    before = last.stat().st_mtime_ns if last.is_file() else None
    try:
        yield
    except BaseException as error:
        written = last.is_file() and last.stat().st_mtime_ns != before
        if (last.is_file() and not isinstance(error, Exception)) or written:
            from facenet.config.overlays import strange_arguments
            from facenet.config.overrides import key_of

            resumed = any(key_of(each) == "resume" for each in overrides)  # whose changes no checkpoint may hold yet
            said = overrides if resumed else [each for each, _ in strange_arguments(overrides)]
            again = [*(addresses.mask(each) for each in said if key_of(each) != "resume"), *trusted.arguments()]
            line = command("facenet-train", override("resume", run_dir), *again)
            print(printable(f"go on with it: {'' if alone else 'torchrun ... '}{line}"), flush=True)
        elif not isinstance(error, Exception):
            print(printable(f"{run_dir}: ended before its first checkpoint; the same command begins anew"), flush=True)
        raise


def prepare(config: dict[str, Any]) -> tuple[Material, Plan]:
    """The divided data and the plan; builds only what they need, no network and no device."""
    recipe = build_planned(config)
    material = divide(recipe.data, *recipe.tested)
    plan = make_plan(material, recipe, num_processes=recipe.distributed.num_processes)
    check_pixels(config, material.train)
    return material, plan


def check_pixels(config: dict[str, Any], faces: Faces) -> None:
    """Raises UserError for what the plan needs nothing of and a rank would refuse: how images are changed and fitted, and the watchdogs."""
    check_preprocess(configs.build(config["preprocess"], "preprocess"))
    check_augment(configs.build(config["augment"], "augment"), faces)
    configs.build(config["watch"], "watch")


def left_as_it_is(earlier: resuming.Earlier, plan: Plan, config: dict[str, Any]) -> Result:
    """Returns the result of a run that has finished. Nothing of it changes, but for a model or a registration that this command asks for and the run
    did not."""
    row = earlier.content["best"]["row"]
    files = RunDir(earlier.run_dir).checkpoints
    path = files.best if row else files.last
    asked, before = config["tracking"], earlier.config["tracking"]
    if asked.get("model") or asked.get("register", before.get("register")) != before.get("register"):
        keep_model(configs.build(asked, "tracking"), earlier.run_id, path)
    longer = page.longer_than(plan.as_dict())
    told = f"{earlier.run_dir}: finished at step {plan.steps.total_steps:,}; left as it is. To train on: {longer} resume_changed=true"
    after = summary({"checkpoint": str(path), "metrics": row}, earlier.run_dir, None, longer=longer)
    print(told, after, sep="\n", flush=True)
    value = row.get(plan.select)
    return Result(row, earlier.run_dir, path, earlier.run_id, None if value is None else float(value))


def look_at_images(material: Material, *, num_workers: int) -> None:
    """Raises UserError for a benchmark with images that cannot be read: a test after the first epoch would be the end of the run."""
    looked: dict[Hashable, str | None] = {}  # an image that several have is read once
    for each, keys in zip(material.benchmarks, image_keys(material.benchmarks), strict=True):
        left = [index for index, key in enumerate(keys) if key not in looked]
        with image_bar() as progress:
            bad = unreadable_in(each, num_workers=num_workers, indices=left, progress=progress)
        looked.update({keys[index]: bad.get(index) for index in left} if len(material.benchmarks) > 1 else {})
        each.without(bad | {index: why for index, key in enumerate(keys) if (why := looked.get(key)) is not None})


def datasets(config: dict[str, Any], material: Material, plan: Plan) -> dict[str, tuple[str, str, str]]:
    """For MLflow: context -> (name, source, fingerprint)."""
    source = str(addresses.hide_secrets(material.location) or config["data"]["_target_"])
    found = {"train": (Path(source).name or source, source, plan.images.data_fingerprint)}
    for each in material.benchmarks:
        context = f"test {each.name}" if "test" in found else "test"
        place = addresses.hide_secrets(each.location) or (source if of_heldout(each, material) else each.name)
        found[context] = (each.name, str(place), each.faces.fingerprint)
    return found


def tell_end(result: dict[str, Any], run_dir: Path, view: str | None, plan: Plan, material: Material) -> None:
    longer, doubtful = page.longer_than(plan.as_dict()), unresolved(material.benchmarks)
    print(printable(summary(result, run_dir, view, longer=longer, doubtful=doubtful)), flush=True)


def summary(
    result: dict[str, Any],
    run_dir: Path,
    view: str | None,
    *,
    longer: str = "trainer.epochs=N",
    doubtful: Mapping[str, str] | None = None,
) -> str:
    """The last lines of a run: checkpoint, metrics of its epoch, and how to look at it. longer: the override that makes it longer. doubtful: metrics
    that could not be resolved, and why."""
    metrics, lines = result["metrics"], ["", f"checkpoint  {result['checkpoint']}", f"directory   {run_dir}"]
    if metrics:
        names = sorted(name for name in metrics if name != "epoch")
        width = max(len(name) for name in names)
        lines.append(f"metrics of its epoch ({metrics['epoch']:.0f})")
        for name in names:
            note = f"   (not resolved: {doubtful[name]})" if doubtful and name in doubtful else ""
            lines.append(f"  {name:<{width}}  {digits(metrics[name])}{note}")
    if result.get("collapsed"):
        lines.append(f"no best epoch: {result['collapsed']}; {result.get('way_out') or TRY['collapse']}")
    if not result.get("collapsed"):
        following = page.next_commands(run_dir, result["checkpoint"], longer)
        lines += ["", *(f"{what:<11} {how}" for what, how in following.items())]
    lines += [] if view is None else [f"see the run: {view}"]
    return "\n".join(lines)
