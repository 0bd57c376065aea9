"""A run that began with `auto` on one machine and goes on on another. In this process."""

from __future__ import annotations

import json

import pytest
import torch

from facenet import config as configs
from facenet.tasks import job, probe, train
from facenet.tasks.probe import Probe
from facenet.tasks.run import Run

ZEN_2 = Probe({"fp32": 1.63e-3, "bf16": 13.9e-3}, {"fp32": 3.1e-3, "bf16": 0.316})
XEON = Probe({"fp32": 0.66e-3, "bf16": 0.18e-3}, {"fp32": 3.1e-3, "bf16": 0.4e-3})
JOB = (
    *("backbone=mobilefacenet", "backbone.blocks=[[2,8,1,2],[2,8,1,2]]", "backbone.embedding_size=16", "loss=ce"),
    *("sampler=shuffle", "data.image_size=32", "data.batch_size=12", "data.num_identities=4", "accelerator=cpu"),
    *("data.images_per_identity=6", "benchmark=none", "data.val_identities=0.0", "data.val_images=0.0"),
    *("data.num_workers=0", "trainer.epochs=2", "data.feed=files", "optimizer=muon", "tracking=none"),
)


class Stop:
    """After so many questions."""

    def __init__(self, left):
        self.left, self.signal = left, None

    def __bool__(self):
        self.left -= 1
        return self.left <= 0

    def set(self, number, frame=None):
        self.signal = number

    def expect(self, saving_s):
        pass


@pytest.fixture
def run(compose_train, tmp_path, monkeypatch):
    """run(machine, *overrides, steps=...): the job as a command on a machine; what its processes read as their config."""

    def command(machine, *overrides, steps=99):
        seen = []

        def start(directory, distributed, order):
            seen.append(configs.of_job(directory))
            result = train.run(Run(directory, seen[0], None, Stop(steps + 1)))
            (directory / "result.json").write_text(json.dumps(result))
            return result

        monkeypatch.setattr(probe, "probe_or_recall", lambda *_, **__: machine)
        config = compose_train(*JOB, *overrides)
        with torch.random.fork_rng():
            job.run_job(config, run_dir=tmp_path / "run", overrides=list(overrides), tags={}, start=start)
        return (seen[0]["precision"]["dtype"], seen[0]["optimizer"]["bf16"]), seen[0]

    return command


@pytest.mark.slow
def test_it_goes_on_with_what_auto_became(run, tmp_path, capsys):
    became, config = run(XEON, "precision=auto", steps=1)
    assert became == ("bf16", True)
    assert (
        "  auto         precision=bf16: a convolution takes 0.27 times as long in bf16 as in fp32; optimizer.bf16=true: "
        "an update takes 0.13 times as long in bf16 as in fp32\n"
    ) in capsys.readouterr().out
    assert run(ZEN_2, "precision=auto", "resume=auto", steps=1) == (became, {**config, "resume": resumed(tmp_path)})
    assert "  auto  " not in capsys.readouterr().out
    assert run(ZEN_2, "precision=auto", f"resume={tmp_path}/run")[0] == became


def resumed(tmp_path):
    return str(tmp_path / "run" / "checkpoints" / "last.pt")
