"""A training run as its config describes it: the fields are the keys of `conf/train.yaml`, against which a config is checked."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any

from facenet import config as configs
from facenet.backbones.embedder import Embedder
from facenet.data.sampling.sampler import Sampler
from facenet.data.source import Data
from facenet.data.transforms import Augment, Preprocess
from facenet.devices.table import DeviceChoice, Precision
from facenet.distributed.choice import Distributed
from facenet.engine.schedule import Schedule
from facenet.engine.trainer import Settings
from facenet.engine.watch.choice import Watch
from facenet.evaluation.benchmarks.together import together
from facenet.evaluation.contract import Benchmark
from facenet.losses.mix import LossMix
from facenet.tracking.choice import MlflowTracking, NoTracking


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What the plan of a run follows from. Building it makes no network and touches no device."""

    data: Data
    sampler: Sampler
    loss: LossMix
    optimizer: functools.partial[Any]
    schedule: Schedule
    benchmark: Benchmark
    benchmarks: dict[str, Benchmark] = field(default_factory=dict)
    trainer: Settings
    accelerator: DeviceChoice
    precision: Precision
    distributed: Distributed

    @property
    def tested(self) -> list[Benchmark]:
        """All benchmarks of the run. Raises UserError for names that do not go together."""
        return together(self.benchmark, self.benchmarks)


@dataclass(frozen=True, kw_only=True)
class Recipe(Planned):
    """All of a run. `resume` is a checkpoint once the launcher has looked, and `resume_changed` is the launcher's."""

    backbone: Embedder
    augment: Augment
    preprocess: Preprocess
    tracking: MlflowTracking | NoTracking
    watch: Watch
    weights: str | None
    seed: int
    resume: str | None
    resume_changed: bool


def build_planned(config: dict[str, Any]) -> Planned:
    """The parts of a checked config that its plan needs. Raises UserError for one that cannot be built."""
    names = [each.name for each in dataclasses.fields(Planned)]
    return Planned(**configs.build({name: config[name] for name in names if name in config}))
