"""What a watchdog does when it fires: one line in the log, a tag in MLflow, and the end of the run where that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from facenet.engine.watch.choice import Watch
from facenet.errors import Halted
from facenet.tracking.tracker import Tracker

log = logging.getLogger(__name__)

TRY = {
    "nonfinite": "lower optimizer.lr, set trainer.clip_grad_norm, or precision=bf16 or fp32 where it is fp16",
    "scaler": "lower optimizer.lr, set trainer.clip_grad_norm, or precision=bf16",
    "collapse": "lower optimizer.lr; more than one identity has to be in a batch",
    "frozen": "look at optimizer.lr and the schedule, and whether parameters of the backbone have requires_grad=False",
    "dead_triplets": "set the term's mining=batch_hard, raise its margin, or lessen its weight and rely on classification",
    "generalisation": "look whether the labels are right (facenet-data), whether benchmark images are aligned as those of training, and "
    "whether there are enough identities; augment=strong helps against too few images",
    "repeats": "take sampler=triplet, or sampler.repeat_batches=false, or look for copies in the list of images",
    "loader": "raise data.num_workers, choose a cheaper augment, or store images at data.image_size",
    "hang": "read the stacks; look at the storage of the images and at the other processes",
}

CLASSIFY = "add a classification term (loss=triplet_ce), "  # before the others, to a run that has none


def way_out_of_collapse(figures: Iterable[str], backbone: Mapping[str, Any]) -> str:
    """figures: names of what a training step or an epoch measured, of which an accuracy in training tells that it classifies. backbone: its config,
    which says whether its first weights could be drawn otherwise."""
    classifies = any(name.endswith("/accuracy") for name in figures)
    parts = {"backbone": backbone, "backbone.trunk": backbone.get("trunk")}
    drawn = [key for key, node in parts.items() if isinstance(node, Mapping) and node.get("init") == "reference"]
    way = TRY["collapse"].replace(";", f", or set {drawn[0]}.init=kaiming;" if drawn else ";", 1)
    return way if classifies else CLASSIFY + way


class Alarm:
    """Each watchdog fires once in a process. `fired`: their reasons."""

    def __init__(self, watch: Watch, tracker: Tracker) -> None:
        self.watch, self.tracker = watch, tracker
        self.fired: dict[str, str] = {}

    def fire(self, watchdog: str, reason: str, way_out: str = "") -> None:
        """Raises Halted where the watchdog stops runs."""
        if watchdog in self.fired:
            return
        self.tell(watchdog, reason, way_out)
        if getattr(self.watch, watchdog) == "stop":
            raise Halted(self.words(watchdog, reason, way_out))

    def tell(self, watchdog: str, reason: str, way_out: str = "") -> None:
        self.fired[watchdog] = reason
        self.tracker.tag(f"watch.{watchdog}", reason)
        if getattr(self.watch, watchdog) == "warn":
            log.warning("watch.%s: %s; %s", watchdog, reason, way_out or TRY[watchdog])

    @staticmethod
    def words(watchdog: str, reason: str, way_out: str = "") -> str:
        return (
            f"stopped by watch.{watchdog}: {reason}; {way_out or TRY[watchdog]}. The last checkpoint is as it was: resume the run with other "
            f"values, or with watch.{watchdog}=warn."
        )
