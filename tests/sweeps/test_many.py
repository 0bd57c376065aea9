"""How many jobs a sweep would have is known before any of them is composed."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from facenet.errors import UserError
from facenet.sweeps import batch  # noqa: F401  imports torch, which a test that does is told of
from facenet.sweeps.elsewhere import check_number, num_values


def config(*task, params=None):
    return OmegaConf.create({"hydra": {"sweeper": {"params": params}, "overrides": {"task": list(task)}}})


@pytest.mark.parametrize(
    ("text", "count"),
    [
        *[
            ("1,2,3", 3),
            ("range(0,10)", 10),
            ("range(0,1,0.3)", 4),
            ("range(10,0,-3)", 4),
            ("range(5)", 5),
            ("range(3,3)", 0),
        ],
        *[("shuffle(range(4))", 4), ("choice(a,b)", 2), ("[1,2],[3]", 2), ("glob(*)", 1)],
    ],
)
def test_values_of_an_axis(text, count):
    assert num_values(OverridesParser.create().parse_override(f"x={text}").value()) == count


def test_a_sweep_of_more_jobs_than_anybody_means_is_refused_at_once():
    with pytest.raises(
        UserError, match=r"seed: 100,000 values make this a sweep of 200,000 jobs, .* at most 5,000 .*optuna"
    ):
        check_number(config("seed=range(0,100000)", "optimizer.lr=1e-3,1e-4", "trainer.epochs=3"))
    with pytest.raises(UserError, match=r"seed: 1,000,000,000 values"):
        check_number(config(params={"seed": "range(0,1000000000)"}))


def test_a_large_one_is_not():
    check_number(config("seed=range(0,2500)", "optimizer.lr=1e-3,1e-4"))
    check_number(
        config("seed=1,2", params={"seed": "range(0,100000)"})
    )  # the command's stands in place of the preset's
    check_number(config("trainer.epochs=3"))
    with pytest.raises(UserError, match="2,501 values make this a sweep of 5,002 jobs"):  # one value more
        check_number(config("seed=range(0,2501)", "optimizer.lr=1e-3,1e-4"))
