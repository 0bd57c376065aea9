"""Arguments that Hydra's grammar does not take, or takes for something else, are told with a way to write them."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

import facenet.sweeps.batch
import facenet.tasks.train  # noqa: F401
from facenet.commands.composed import readable
from facenet.commands.mistakes import composition_problem
from facenet.config.overrides import parsed
from facenet.errors import UserError


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("weights=a=b.ckpt", "a=b.ckpt"),
        ("data.root=/x(1)", "/x(1)"),
        ("preset=两个", "两个"),
        ("+data.root=/faces/人,b(", "/faces/人,b("),
        ("tracking.run_name=it's", "it's"),
        ('tracking.run_name="half', '"half'),
        ("data.root=a[", "a["),
        ("data.root=C:\\faces(1)\\", "C:\\faces(1)\\"),
    ],
)
def test_what_the_grammar_does_not_take_is_told_with_what_it_takes(argument, value):
    with pytest.raises(UserError) as raised:
        readable([argument])
    said = str(raised.value)
    assert said.startswith(f"{argument}: ") and "\n" not in said
    (advised,) = shlex.split(said.rpartition("the shell: ")[2])
    assert parsed(advised).value() == value and readable([advised]) == [advised]


@pytest.mark.parametrize("argument", ["data.root", "人.x=3", "a b=3"])
def test_what_is_no_override_is_told(argument):
    with pytest.raises(UserError, match="write key=value"):
        readable([argument])


@pytest.mark.parametrize(
    "argument",
    [
        "--config-dir",
        "-m",
        "optimizer.lr=1e-3,range(1,3)",
        "~watch",
        "data.root='/x(1)'",
        "seed=${hydra:job.num}",
        "a=",
    ],
)
def test_what_hydra_takes_is_left(argument):
    given = [argument, *(["DIR(1)"] if argument == "--config-dir" else [])]
    assert readable(given) == given


@pytest.mark.parametrize(
    ("argument", "becomes"),
    [
        ("preset=1", "preset='1'"),
        ("preset=p1,2", "preset=p1,'2'"),
        ("+preset=choice(1,2)", "+preset='1','2'"),
        ("preset=p1,null", "preset=p1,'null'"),
        ("benchmark/protocol=null", "benchmark/protocol='null'"),
        ("optimizer=adam,sgd", "optimizer=adam,sgd"),
        ("optimizer.lr=1", "optimizer.lr=1"),
        ("seed=1,null", "seed=1,null"),
    ],
)
def test_a_choice_named_by_a_number_is_a_name(argument, becomes):
    assert readable([argument]) == [becomes]


def test_a_directory_of_a_sweep_that_asks_hydra_too_early_is_told(monkeypatch):
    monkeypatch.setattr("sys.argv", ["facenet-train", "seed=0,1"])
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    setup_globals()
    with pytest.raises(InterpolationResolutionError) as raised:
        OmegaConf.create({"dir": "${hydra:job.name}"}).dir  # noqa: B018
    told = composition_problem(raised.value, "train")
    assert told.startswith("config: dir: ${hydra:...} has no value before there are jobs; write a dot")


@pytest.mark.parametrize("argument", ['hydra.sweeper.params={seed: "0,1"}', '+hydra.sweeper.params.seed="0,1"'])
def test_axes_are_given_as_they_are(argument):
    with pytest.raises(UserError, match="is for YAML files; here the axes are given as they are"):
        readable(["-m", argument])
    for other in ("hydra.sweeper.max_batch_size=1", "seed=0,1"):
        assert readable(["-m", other]) == ["-m", other]


def test_an_interval_of_the_usual_sweeper_is_told_with_the_way_out(monkeypatch):
    monkeypatch.setattr("sys.argv", ["facenet-train", "-m", "seed=0,1", "optimizer.lr=interval(1e-4,1e-2)"])
    said = composition_problem(HydraException("BasicSweeper does not support sweep type : INTERVAL_SWEEP"), "train")
    assert "not for given values (optimizer.lr=interval(1e-4,1e-2)); add hydra/sweeper=optuna" in said
