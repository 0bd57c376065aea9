"""What a sweep's values cannot be is told with the way to write them."""

from __future__ import annotations

import pytest

from facenet.commands.composed import readable
from facenet.commands.mistakes import composition_problem
from facenet.errors import UserError


@pytest.mark.parametrize("argument", ["seed=1,", "seed=1,2, "])
def test_a_comma_without_a_value_after_it(argument):
    with pytest.raises(UserError, match=r"ends with a comma, after which a value is missing; write seed=1(,2)?$"):
        readable([argument])
    assert readable(["seed=1,2"]) == ["seed=1,2"]


def test_an_interval_is_for_a_search():
    told = composition_problem(ValueError("BasicSweeper does not support sweep type : INTERVAL_SWEEP"), "train")
    assert told.startswith("config: interval(...) is for a search") and "hydra/sweeper=optuna" in told
