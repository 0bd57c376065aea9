"""Presets beside other choices than their own, and what is said of keys that do not go together."""

from __future__ import annotations

import shlex
from importlib.resources import files

import pytest

from facenet import config as configs
from facenet.tasks.recipe import Recipe

PRESETS = sorted(file.name.removesuffix(".yaml") for file in files("facenet.experiments").joinpath("preset").iterdir())
OTHERS = ("hydra", "sweep")


def choices():
    for group in sorted(files("facenet.conf").iterdir(), key=lambda each: each.name):
        if group.is_dir() and group.name not in OTHERS:
            for file in sorted(group.iterdir(), key=lambda each: each.name):
                if file.name.endswith(".yaml"):
                    yield f"{group.name}={file.name.removesuffix('.yaml')}"


def check_together(compose_train, preset, choice):
    """They go together, or each problem says how they would."""
    given = [f"preset={preset}", choice]
    problems = [line for line in configs.problems_of(compose_train(*given), Recipe) if "needs a value" not in line]
    assert all(" sets it for another choice: add '~" in line for line in problems), problems
    left_out = [shlex.split(line.rpartition(": add ")[2].partition(",")[0])[0] for line in problems]
    again = configs.problems_of(compose_train(*given, *left_out), Recipe) if left_out else []
    assert not [line for line in again if "needs a value" not in line]
    return len(problems)


@pytest.mark.parametrize(
    ("choice", "num_problems"), [("benchmark=none", 0), ("benchmark=bin", 0), ("backbone=mobilefacenet", 2)]
)
def test_a_preset_goes_with_other_choices_or_says_what_is_in_the_way(compose_train, choice, num_problems):
    assert check_together(compose_train, "real_faces", choice) == num_problems


@pytest.mark.nightly
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_goes_with_every_choice(compose_train, preset):
    for choice in choices():
        check_together(compose_train, preset, choice)


def test_a_term_that_is_not_whole_is_told_with_all_other_problems(compose_train):
    problems = configs.problems_of(compose_train("++loss.terms.extra.weight=1", "++optimizer.lrr=3"), Recipe)
    assert [problem.split(":")[0] for problem in problems] == ["loss.terms.extra", "optimizer.lrr"]
    assert (
        problems[0]
        == "loss.terms.extra: has no loss; set loss.terms.extra.loss=..., with + before it where that is new"
    )
    assert configs.problems_of(compose_train("++loss.terms.ce.weight=0.5"), Recipe) == []
    (problem,) = configs.problems_of(compose_train("++loss.terms.ce.wieght=0.5"), Recipe)
    assert problem.startswith("loss.terms.ce.wieght: expected weight and loss alone; did you mean 'weight'?")
