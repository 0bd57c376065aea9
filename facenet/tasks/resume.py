"""Going on with a run: which checkpoint, under which config, and never two at a time."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import operator
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facenet import config as configs
from facenet.config.overrides import key_of
from facenet.config.slots import addresses_in, openings, openings_of_strangers
from facenet.engine import checkpoint as checkpoints
from facenet.errors import UserError, shown
from facenet.evaluation.benchmarks.together import together
from facenet.files import atomic
from facenet.files.home import expand_home
from facenet.files.run_dir import RunDir, told_runs_in
from facenet.files.trusted import versions
from facenet.privacy import addresses
from facenet.tasks.auto import as_recorded
from facenet.tasks.changed import OWN_KEYS, changed_images, changes, check_fits, list_moved, other_pairs
from facenet.tasks.plan import Material, divide
from facenet.tasks.run_store import with_store
from facenet.tracking.journal import is_alone, last_end
from facenet.tracking.known import check_named

log = logging.getLogger(__name__)
FOLDERS = (RunDir.folder, RunDir.ranks)  # of a run directory, in which its processes write
BUILT_INSIDE = ("backbone", "preprocess", "loss")  # of which only networks of a zoo open anything


@dataclass(frozen=True)
class Earlier:
    """A run that can go on: its directory, newest whole checkpoint, the config under which that was written, and MLflow run."""

    run_dir: Path
    config: dict[str, Any]
    checkpoint: Path
    content: dict[str, Any]

    @property
    def run_id(self) -> str | None:
        return self.content.get("run_id")

    def is_finished(self, total_steps: int) -> bool:
        """Whether nothing is left to do: every epoch is trained and tested, the result written, and the end of the run on record."""
        progress = self.content["training"]["progress"]
        if progress["step"] < total_steps or progress["batches"] or self.content.get("untested") is not None:
            return False
        journal, result = RunDir(self.run_dir).journal, RunDir(self.run_dir).result
        told = journal.is_file() and not is_alone(journal)  # else the result says it
        end = last_end(journal) if told else {"end": "FINISHED"}
        return result.is_file() and end is not None and end["end"] == "FINISHED"

    def check_data(self, fingerprint: str, *, changed: bool) -> None:
        """Raises UserError for images that are not those of the run, unless `changed` allows it."""
        if self.content["data_fingerprint"] != fingerprint and not changed:
            raise UserError(
                f"resume={self.checkpoint}: the images are not those that the run was trained on (fingerprint {fingerprint}, was "
                f"{self.content['data_fingerprint']}); restore them, or set resume_changed=true"
            )

    def check_images(self, material: Material, *, changed: bool) -> None:
        """Raises UserError for other contents under the same names and for other pairs of a benchmark, unless `changed` allows them. A
        mended image of a benchmark is said only."""
        for line in changed_images(material, self.content.get("samples")):
            if line.startswith("data: ") and not changed:
                raise UserError(f"resume={self.checkpoint}: {line}; restore them, or set resume_changed=true")
            log.warning("%s", line)
        if other_pairs(material, self.content.get("samples")) and not changed:
            raise UserError(
                f"resume={self.checkpoint}: the benchmark's pairs are not those that the run was tested on; restore them, or set resume_changed=true"
            )

    def check_fits(self, config: dict[str, Any], identities: Sequence[str]) -> None:
        """Raises UserError where what the run has learned does not fit a changed config or changed identities."""
        check_fits(self.content, self.checkpoint, config, identities)


def find(resume: str | None, run_dir: Path) -> Earlier | None:
    """Finds what `resume=` names: null, nothing; auto, the run in `run_dir` if it left a checkpoint; else the run of that directory or
    checkpoint. Raises UserError where a named one has none that loads."""
    if resume is None:
        return None
    if resume == "auto":
        return earlier_in(run_dir)
    path = expand_home(str(resume)).absolute()
    if not os.path.exists(path):
        raise UserError(f"resume={resume}: no such file or directory; name a run directory or a checkpoint in it")
    found = earlier_in(path.parent.parent, path) if os.path.isfile(path) else earlier_in(path)
    if found is None:
        way = told_runs_in(path) or "; leave resume out to start anew"
        raise UserError(f"resume={resume}: no checkpoint in it to go on from{way}")
    return found


def earlier_in(run_dir: Path, path: Path | None = None) -> Earlier | None:
    """Finds the newest checkpoint that is whole, or the one named. A damaged one is passed over, and said."""
    files = RunDir(run_dir).checkpoints
    candidates = [path] if path else [files.last, *reversed(files.numbered()), files.best]
    for candidate in candidates:
        if not candidate.is_file():
            continue
        try:
            content = checkpoints.load(candidate)
        except UserError as error:
            if path:
                raise
            log.warning("%s; an earlier one is tried", error)
            continue
        training = content.get("training")
        if not (isinstance(training, dict) and "progress" in training and "data_fingerprint" in content):
            raise UserError(
                f"resume={candidate}: holds no state of training; give it as weights={candidate} to start from it"
            )
        if not RunDir(run_dir).resolved.is_file():
            raise UserError(
                f"resume={candidate}: {run_dir} has no {RunDir.resolved}, so it is not the run of this checkpoint"
            )
        return Earlier(run_dir, addresses.hide_secrets(content["config"]), candidate, content)
    return None


def config_of(earlier: Earlier, config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The config to go on with. `resume=auto` repeats a command, so that is the command's; else it is the run's with the values that the
    command line gives.

    Raises UserError that shows the difference to the run's, unless `resume_changed=true` asks for it, and for other weights to begin with.
    """
    missing = [
        name
        for name, node in config.items()
        if isinstance(node, dict) and not isinstance(earlier.config.get(name), dict)
    ]
    if missing:
        raise UserError(
            f"resume={earlier.checkpoint}: its config has no {missing[0]}; it is damaged, or of an older facenet"
        )
    began = earlier.config.get("weights")
    if config.get("weights") not in (None, began):
        raise UserError(
            f"weights={config['weights']}: is where a run begins, and resume={config['resume']} goes on with weights of its own; "
            "leave out one of them"
        )
    wanted = config if config["resume"] == "auto" else overlaid(earlier.config, config, overrides)
    wanted = in_order_of(earlier.config, wanted)
    wanted = as_recorded(wanted, earlier.config)
    check_sources(wanted, config, earlier.run_dir)
    if "weights" in wanted:
        wanted = {**wanted, "weights": began}
    different = changes(earlier.config, wanted)
    if different and not config.get("resume_changed"):
        lines = [
            f"resume={config['resume']}: the config is not that of {earlier.run_dir}",
            *different,
            "leave these out to go on as it was, or set resume_changed=true",
        ]
        raise UserError("\n  ".join(lines))
    if different:
        log.warning("goes on under another config: %s", "; ".join(different))
    if elsewhere := list_moved(earlier.config, wanted):
        log.info("the data lie elsewhere: %s", "; ".join(elsewhere))
    tell_versions(wanted, earlier.content.get("trusted"))
    if config["resume"] != "auto":
        wanted = own_places(wanted, overrides)
        check_store(wanted, config, earlier.run_dir)
    return with_store({**wanted, **{name: config[name] for name in OWN_KEYS if name in config}}, earlier.run_dir)


def tell_versions(config: dict[str, Any], before: Any) -> None:
    """Warns of trusted packages that are not what they were when the checkpoint was written."""
    for name, version in versions(config).items():
        was = before.get(name) if isinstance(before, dict) else None
        if isinstance(was, str) and was != version:
            log.warning("%s was %s when this run was written, and is %s now", name, shown(was), version)


def in_order_of(stored: Any, config: Any) -> Any:
    """The config with its keys in the run's order: that of loss.terms is the order of the parameters, by which an optimizer finds its state."""
    if not (isinstance(stored, dict) and isinstance(config, dict)):
        return config
    keys = [*(key for key in stored if key in config), *(key for key in config if key not in stored)]
    return {key: in_order_of(stored.get(key), config[key]) for key in keys}


def own_places(wanted: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Returns the config with the cache where this command has it, and pictures of people sent only if this command says so: the directory's word is
    not enough to write or send anything, and a cache can be made again."""
    said = set(map(key_of, overrides))
    for group, key, value in (("data", "cache_dir", None), ("tracking", "upload_faces", False)):
        if key in wanted[group] and f"{group}.{key}" not in said:
            wanted = {**wanted, group: {**wanted[group], key: value}}
    return wanted


def check_store(wanted: dict[str, Any], config: dict[str, Any], run_dir: Path) -> None:
    """Raises UserError for a store that only the config in the directory names."""
    uri = wanted["tracking"].get("uri")
    if uri != config["tracking"].get("uri"):
        check_named(uri, f"the config in {run_dir}", "tracking.uri=")


def check_sources(wanted: dict[str, Any], config: dict[str, Any], run_dir: Path) -> None:
    """Raises UserError for files and addresses that only the directory's config would have opened, beside its images and lists."""
    said = {*sources_of(config)}
    for path, value in sources_of(wanted):
        if (path, value) not in said and str(value_at(config, path)) != value:
            raise UserError(
                f"resume={config.get('resume')}: {path}={shown(value)} is what the config in {run_dir} would open, and a directory's word is not "
                f"enough; say it again on the command line: {path}=..."
            )


def sources_of(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, node in config.items():
        ours = openings(node, name) if name in BUILT_INSIDE else addresses_in(node, name) if name == "data" else ()
        yield from ((path, str(value)) for path, value in (*ours, *openings_of_strangers(node, name)))


def value_at(config: Any, path: str) -> Any:
    """The value of a dotted key, None where there is none: of a benchmark of one's own a command may say the place alone."""
    for part in path.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def overlaid(stored: dict[str, Any], config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The stored config with those values of `config` that the overrides name, and those groups whose choice they name. An override of
    another kind, a preset, makes it the whole `config`."""
    result = copy.deepcopy(stored)
    for item in overrides:
        *path, name = item.lstrip("+~").split("=")[0].replace("/", ".").split(".")
        if (not path and name in OWN_KEYS) or same_data_named([*path, name], stored, config):
            continue
        try:
            target = functools.reduce(lambda node, key: node.setdefault(key, {}), path, result)
            if item.startswith("~"):
                del target[name]
            else:
                target[name] = copy.deepcopy(functools.reduce(operator.getitem, [*path, name], config))
        except (KeyError, TypeError, AttributeError):
            return config
    return follow_sizes(result, stored)


def same_data_named(path: list[str], stored: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether it is the choice of data=, and of the run's kind: its size of a batch and the like stay those of the run."""
    return path == ["data"] and stored["data"].get("_target_") == config["data"].get("_target_")


def follow_sizes(config: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Makes sizes that follow one another in `conf`, and did in the config before, follow again where no override said another."""
    image, old_image = (node.get("data", {}).get("image_size") for node in (config, before))
    if (
        image != old_image
        and before.get("preprocess", {}).get("size") == config["preprocess"]["size"] == [old_image] * 2
    ):
        config["preprocess"]["size"] = [image] * 2
        if config["backbone"].get("input_size") == [old_image] * 2:
            config["backbone"]["input_size"] = [image] * 2
    return config


def without(config: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}


@contextlib.contextmanager
def write_config(config: dict[str, Any], run_dir: Path) -> Iterator[None]:
    """The config where the job's processes find it. In a directory that has checkpoints it is pending: it becomes that of the directory with
    the first one that is written under it, and is gone if none was."""
    settle(run_dir)
    place = RunDir(run_dir)
    configs.write(config, place.pending if any(place.folder.glob("*.pt")) else place.resolved)
    try:
        yield
    finally:
        settle(run_dir)


def settle(run_dir: Path) -> None:
    """Ends what is pending where no job runs: a process that was killed after its first checkpoint did not come to it."""
    pending = RunDir(run_dir).pending
    with contextlib.suppress(FileNotFoundError):
        since = pending.stat().st_mtime_ns
        with contextlib.suppress(FileNotFoundError):
            if RunDir(run_dir).checkpoints.last.stat().st_mtime_ns > since:
                configs.adopt_pending(run_dir)
        pending.unlink()


def same_images(run_dir: Path, config: dict[str, Any]) -> bool:
    """Whether the run there was trained and tested on the images that this config names."""
    earlier = earlier_in(run_dir)
    if earlier is None:
        return False
    parts = configs.build({name: config[name] for name in ("data", "benchmark", "benchmarks") if name in config})
    material = divide(parts["data"], *together(parts["benchmark"], parts.get("benchmarks", {})))
    noted = earlier.content.get("samples")
    same_names = earlier.content["data_fingerprint"] == material.source.fingerprint
    return same_names and not changed_images(material, noted) and not other_pairs(material, noted)


@contextlib.contextmanager
def alone_in(run_dir: Path) -> Iterator[int]:
    """Raises UserError while another command, or a process that it left, trains in this directory. Gives the descriptor of the lock."""
    atomic.refuse_links(run_dir, FOLDERS)
    with atomic.alone_in(run_dir, "hydra.run.dir", "trains") as lock:
        atomic.tidy(run_dir, FOLDERS)
        yield lock
