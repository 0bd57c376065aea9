"""Mistakes of people who come from other trainers, from the reference or from a file of YAML: each is told with the override that does it."""

from __future__ import annotations

import copy
import logging
import re
import shlex
import sys
from typing import Any

import pytest
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf

import facenet.sweeps.batch as batch
from facenet import config as configs
from facenet.commands import composed, from_python, mistakes
from facenet.commands.composed import readable, without_secrets
from facenet.config import near
from facenet.config.checking import way_to
from facenet.config.overrides import flags_first, parsed
from facenet.errors import UserError
from facenet.tasks import evaluate, job
from facenet.tasks.recipe import Recipe

NO_KEY = "this command has no parameter"
TIMM = "a network of timm's, or your own, is a file experiments/backbone/{}.yaml beside your work that names it: docs/extending.md"
NO_EARLY_STOP = "schedules end at a known epoch, and best.pt keeps the best; write trainer.epochs=..."
BACKBONES = "inception_resnet_v1, mobilefacenet, mobilenet_v1"
DATA, PRECISIONS = "annotation, folder, record, shards, synthetic", "auto, bf16, fp16, fp32"
TAKES = "facenet-train takes key=value"
# What is typed behind facenet-train, and the whole of what is said; of a config behind its first line, "config: 1 problem".
KEYS = {
    "lr=0.1": f"lr: {NO_KEY} 'lr'; write optimizer.lr=0.1",
    "epochs=5": f"epochs: {NO_KEY} 'epochs'; write trainer.epochs=5",
    "batch_size=32": f"batch_size: {NO_KEY} 'batch_size'; write data.batch_size=32",
    "num_workers=4": f"num_workers: {NO_KEY} 'num_workers'; write data.num_workers=4",
    "device=cuda": f"device: {NO_KEY} 'device'; write accelerator=cuda",
    "gpus=2": f"gpus: {NO_KEY} 'gpus'; write distributed=ddp distributed.num_processes=2",
    "amp=true": f"amp: {NO_KEY} 'amp'; write precision=fp16",
    "amp=false": f"amp: {NO_KEY} 'amp'; write precision=fp32",
    "model=mobilenet": f"model: {NO_KEY} 'model'; write backbone=mobilenet_v1",
    "momentum=0.9": f"momentum: {NO_KEY} 'momentum'; write optimizer=muon optimizer.momentum=0.9",
    "margin=0.3": f"margin: {NO_KEY} 'margin'; write loss.terms.triplet.loss.margin=0.3",
    "seeed=1": f"seeed: {NO_KEY} 'seeed'; write seed=1",
    "optimiser=adam": f"optimiser: {NO_KEY} 'optimiser'; write optimizer=adam",
    "output_dir=runs/1": f"output_dir: {NO_KEY} 'output_dir'; write hydra.run.dir=runs/1",
    "data.dir=X": "data.dir: facenet.data.SyntheticData has no parameter 'dir'; write data=folder data.root=X",
    "trainer.accelerator=gpu": "trainer.accelerator: facenet.engine.Settings has no parameter 'accelerator'; write accelerator=cuda",
    "data.root=X": "data.root: facenet.data.SyntheticData has no parameter 'root'; add data=folder",
    "benchmark.root=X": "benchmark.root: facenet.evaluation.HeldOut has no parameter 'root'; add benchmark=lfw",
    "optimizer.momentum=0.9": "optimizer.momentum: torch.optim.Adam has no parameter 'momentum'; add optimizer=muon or optimizer=sgd",
    "optimizer.momentom=1": "optimizer.momentom: torch.optim.Adam has no parameter 'momentom'",
    "sampler.batch=32": "sampler.batch: facenet.data.TripletSampler has no parameter 'batch'; write data.batch_size=32",
    "precision.amp=true": "precision.amp: facenet.devices.Precision has no parameter 'amp'; write precision=fp16",
    "trainer.max_epochs=3": "trainer.max_epochs: facenet.engine.Settings has no parameter 'max_epochs'; write trainer.epochs=3",
    "trainer.patience=3": f"trainer.patience: facenet.engine.Settings has no parameter 'patience'; {NO_EARLY_STOP}",
    "-m optimzer.lr=1e-3,1e-4": f"optimzer: {NO_KEY} 'optimzer'; write -m optimizer.lr=1e-3,1e-4",
    "-m model=mobilenet,facenet": f"model: {NO_KEY} 'model'; write -m backbone=mobilenet_v1,inception_resnet_v1",
    "-m trainer.max_epochs=3,5": "trainer.max_epochs: facenet.engine.Settings has no parameter 'max_epochs'; write -m trainer.epochs=3,5",
    "trainer.lr=0.1": "trainer.lr: facenet.engine.Settings has no parameter 'lr'; write optimizer.lr=0.1",
    "loss.triplet.margin=0.3": "loss.triplet: facenet.losses.LossMix has no parameter 'triplet'; write loss.terms.triplet.loss.margin=0.3",
    "optimizer/lr=0.1": f"optimizer/lr: {NO_KEY} 'optimizer/lr'; write optimizer.lr=0.1",
    "trainer.epochs=5.0": "trainer.epochs: expected int, got 5.0; write trainer.epochs=5",
    "trainer.compile=yes": "trainer.compile: expected bool, got 'yes'; write trainer.compile=true",
    "resume=true": "resume: expected str or null, got True; write resume=auto",
}
CHOICES = {
    "backbone=resnet50": f"backbone: no choice 'resnet50' among {BACKBONES}; {TIMM.format('resnet50')}",
    "backbone=mobilenet": f"backbone: no choice 'mobilenet' among {BACKBONES}; did you mean 'mobilenet_v1'?",
    "optimizer=arcface": "optimizer: no choice 'arcface' among adam, adamw, muon, sgd; write loss=arcface",
    "optimizer=SGD": "optimizer: no choice 'SGD' among adam, adamw, muon, sgd; did you mean 'sgd'?",
    "data=/faces/people": f"data: no choice '/faces/people' among {DATA}; write data=folder data.root=/faces/people",
    "data=lfw": f"data: no choice 'lfw' among {DATA}; write benchmark=lfw",
    "precision=16": f"precision: no choice '16' among {PRECISIONS}; did you mean 'fp16'?",
    "accelerator=gpu": "accelerator: no choice 'gpu' among auto, cpu, cuda, sdaa; did you mean 'cuda'?",
    "tracking=false": "tracking: no choice 'false' among mlflow, none; did you mean 'none'?",
}
GRAMMAR = {
    "optimizer.betas=[0.9,0.999": "optimizer.betas=[0.9,0.999: its [ is not closed; write 'optimizer.betas=[0.9,0.999]'",
    "optimizer.lr=choice(1,2": "optimizer.lr=choice(1,2: its ( is not closed; write 'optimizer.lr=choice(1,2)'",
    "data.root=/a(1)": "data.root=/a(1): a value with such characters is quoted, once for Hydra and once for the shell: 'data.root=\"/a(1)\"'",
}
NO_OVERRIDES = {
    "--Init_lr 1e-3": f"--Init_lr 1e-3: {TAKES}; write optimizer.lr=1e-3",
    "--lr 0.1 --batch-size=32": f"--lr 0.1 --batch-size=32: {TAKES}; write optimizer.lr=0.1 data.batch_size=32",
    "--model_name facenet --use_amp True": f"--model_name facenet --use_amp True: {TAKES}; write backbone=inception_resnet_v1 precision=fp16",
    "--optimizer.lr 3 seed=1": f"--optimizer.lr 3: {TAKES}; write optimizer.lr=3",
    "-b 32": f"-b 32: {TAKES}; write data.batch_size=32",
    "--early_stop -1": f"--early_stop -1: {TAKES}; {NO_EARLY_STOP}",
    "--save_period 5": f"--save_period 5: {TAKES}; a checkpoint is written after every epoch; to keep more of them write trainer.keep=...",
    "-m --lr 1,2": f"--lr 1,2: {TAKES}; write -m optimizer.lr=1,2",
    "--frobnicate 3": f"--frobnicate 3: {TAKES}; nothing is like frobnicate, --help shows what there is",
    "lr 0.1": f"lr 0.1: {TAKES}; write optimizer.lr=0.1",
    "fp16": f"fp16: {TAKES}; write precision=fp16",
    "optimizer.lr:0.1": f"optimizer.lr:0.1: {TAKES}; write optimizer.lr=0.1",
    "optimizer.lr = 0.1": "optimizer.lr = 0.1: no blank may stand around =; write optimizer.lr=0.1",
    "data.root= /x": "data.root= /x: no blank may stand around =; write data.root=/x",
    "tracking.run_name=my run": "tracking.run_name=my run: the shell parts it at the blank; write 'tracking.run_name=my run'",
    "optimizer.betas=[0.9, 0.999]": "optimizer.betas=[0.9, 0.999]: the shell parts it at the blank; write 'optimizer.betas=[0.9, 0.999]'",
    "tracking.uri=pg://a:secret@h x": "tracking.uri=pg://***@h x: the shell parts it at the blank; write 'tracking.uri=pg://***@h x'",
    "--uri pg://a:secret@h": f"--uri pg://***@h: {TAKES}; write 'tracking.uri=pg://***@h'",
}
OF_HYDRA = {  # told by Hydra itself, in several lines
    "optimizer.lr=1e-3,1e-4": "optimizer.lr=1e-3,1e-4: several values are a sweep; add -m, or write a list: 'optimizer.lr=[1e-3,1e-4]'",
    "+loss=ce": "+loss=ce: its group has a choice already; write loss=ce",
}
MISTAKES = KEYS | CHOICES | GRAMMAR | NO_OVERRIDES


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    return batch.resolved_as_job(mistakes.compose_leniently("train", [])[0])


def said(line: str) -> str:
    """What the command says, without the first line of a config's problems."""
    arguments = shlex.split(line)
    try:
        mistakes.refuse_flags(arguments, "train")
        readable(without_secrets(flags_first(arguments)))
    except UserError as error:
        return str(error)
    return mistakes.composition_problem(HydraException(""), "train").removeprefix("config: 1 problem\n  ")


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_with_its_way_out(line, base, monkeypatch):
    """Composed by hand: Hydra takes half a second for each."""

    def composed_by_hand(config_name: str, overrides: list[str]) -> tuple[Any, dict[str, str]]:
        config, absent = OmegaConf.create(copy.deepcopy(base)), {}
        for each in overrides:
            key, value = parsed(each).key_or_group, parsed(each).value()
            if not mistakes.is_choice(each):
                OmegaConf.update(config, key, value, force_add=True)
            elif (choice := each.partition("=")[2].strip("'")) not in (known := list(near.choices(key))):
                absent[key] = near.no_choice(key, choice, known)
        return config, absent

    monkeypatch.setattr(sys, "argv", ["facenet-train", *readable_or_same(line)])
    mistakes.default_config("train")
    monkeypatch.setattr(mistakes, "compose_leniently", composed_by_hand)
    monkeypatch.setattr(batch, "resolved_as_job", OmegaConf.to_container)
    assert said(line) == MISTAKES[line]


def readable_or_same(line: str) -> list[str]:
    try:
        return readable(shlex.split(line))
    except (UserError, SystemExit):
        return shlex.split(line)


def test_what_is_advised_is_taken(base):
    """Each override of the tables composes: its key is one of the config, and its choice is there."""
    words = [
        word
        for row in near.HABITS.values()
        for each in ([row] if isinstance(row, str) else row)
        for word in each.split()
    ]
    for key, _, value in (word.partition("=") for word in words):
        assert near.is_key(key, base), key
        assert "{}" in value or "." in key or value in near.choices(key), (key, value)
    for group, called in near.CALLED.items():
        assert group == "resume" or set(called.values()) <= set(near.choices(group)), group


@pytest.mark.parametrize(
    "arguments",
    [
        "-m seed=1,2",
        "--cfg job",
        "--config-dir DIR seed=1",
        "~watch",
        "--help",
        "-h",
        "--info defaults",
        "a= -m",
        "data.root='/x y'",
    ],
)
def test_what_hydra_takes_is_no_mistake(arguments):
    mistakes.refuse_flags(shlex.split(arguments), "train")
    with pytest.raises(UserError, match="^--epochs 3: facenet-train takes key=value; write trainer.epochs=3$"):
        mistakes.refuse_flags([*shlex.split(arguments), "--epochs", "3"], "train")


@pytest.mark.slow
@pytest.mark.parametrize("line", [*list(KEYS)[:2], "data.root=X", *list(CHOICES)[:5], "--Init_lr 1e-3", *OF_HYDRA])
def test_the_command_says_the_same(line, monkeypatch, capsys, tmp_path):
    whole_command(line, monkeypatch, capsys, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("line", MISTAKES | OF_HYDRA)
def test_the_command_says_the_same_of_all(line, monkeypatch, capsys, tmp_path):
    whole_command(line, monkeypatch, capsys, tmp_path)


def whole_command(line, monkeypatch, capsys, tmp_path) -> None:
    root = logging.getLogger()  # which Hydra sets up for a sweep
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(root, "handlers", [*root.handlers])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["facenet-train", *shlex.split(line)])
    monkeypatch.setattr(job, "run_job", lambda values, **others: configs.check(values, Recipe))
    for name in ("HYDRA_FULL_ERROR", "PYTHONSAFEPATH"):  # which the command sets
        monkeypatch.setenv(name, "1")
    with pytest.raises(SystemExit, match="2"), from_python.hydra_apart():
        composed.train_command()
    told = capsys.readouterr().err.rstrip("\n").removeprefix("config: 1 problem\n  ")
    assert told == (MISTAKES | OF_HYDRA)[line] and list(tmp_path.rglob("*.pt")) == []


def test_an_evaluation_is_told_its_own_keys():
    with pytest.raises(
        UserError,
        match="^--eval_batch_size 4 --checkpoint x.pt: facenet-evaluate takes key=value; write benchmark.batch_size=4 checkpoint=x.pt$",
    ):
        mistakes.refuse_flags(["--eval_batch_size", "4", "--checkpoint", "x.pt"], "evaluate")
    with pytest.raises(UserError, match=re.escape("write checkpoint=x.pt benchmark.root=lfw or data.root=lfw")):
        mistakes.refuse_flags(["--checkpoint", "x.pt", "--root", "lfw"], "evaluate")
    with pytest.raises(UserError, match=re.escape(f"write {shlex.quote(f'checkpoint={__file__}')}")):
        mistakes.refuse_flags([__file__], "evaluate")
    config = mistakes.default_config("evaluate")
    problems = configs.problems_of({**config, "batch_size": 4}, evaluate.Evaluation)
    assert f"batch_size: {NO_KEY} 'batch_size'; write benchmark.batch_size=4" in problems


def test_a_folder_of_this_name_is_meant(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert near.no_choice("data", "people", ["folder"]) == "data: no choice 'people' among folder"
    (tmp_path / "people").mkdir()
    assert near.no_choice("data", "people", ["folder"]).endswith("; write data=folder data.root=people")
    assert way_to("data.path", "people", [], {}) == "; write data=folder data.root=people"
    (tmp_path / "people" / "train.rec").touch()
    assert way_to("data.path", "people", [], {}) == "; add data=record"


def test_a_swept_choice_is_told_as_a_single_one_is(monkeypatch):
    monkeypatch.setattr(mistakes.overlays, "said", lambda: ["loss=ce,arcfase"])
    error = MissingConfigException("", missing_cfg_file="loss/arcfase", options=["arcface", "ce"])
    told = mistakes.composition_problem(error, "train")
    assert told.endswith("loss: no choice 'arcfase' among arcface, ce; did you mean 'arcface'?")
