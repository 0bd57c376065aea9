"""The sitecustomize of a run under attack: says when the phase begins that is to be hit for the nth time, and makes it last long enough."""

import os
import time

PHASE = os.environ.get("FACENET_CHAOS_PHASE", "")
LASTS_S = 0.1


class Moment:
    seen = 0

    def come(self) -> None:
        self.seen += 1
        if self.seen == int(os.environ["FACENET_CHAOS_NTH"]):
            open(os.environ["FACENET_CHAOS_SAYS"], "w").close()
        time.sleep(LASTS_S)


def stretched(owner, name, *, before, after=lambda: time.sleep(LASTS_S)):
    plain = getattr(owner, name)

    def longer(*arguments, **options):
        before()
        result = plain(*arguments, **options)
        after()
        return result

    setattr(owner, name, longer)


if PHASE == "mlflow" and "RANK" not in os.environ:
    from facenet.tracking import delivery

    stretched(delivery, "send", before=Moment().come)
if os.environ.get("RANK") == "0":
    if PHASE == "step":
        from facenet.engine.trainer import Trainer

        stretched(Trainer, "step", before=Moment().come)
    if PHASE == "evaluation":
        from facenet.tasks.epochs import Epochs

        stretched(Epochs, "test", before=Moment().come)
    if PHASE == "checkpoint":
        import torch

        from facenet.files import atomic

        stretched(torch, "save", before=Moment().come)
        stretched(atomic.os, "replace", before=lambda: time.sleep(LASTS_S))
