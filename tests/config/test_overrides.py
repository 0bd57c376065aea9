"""The settings of a sweep are the distinct values that were swept, however they are written."""

from __future__ import annotations

import math
import string

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hypothesis import given as drawn
from hypothesis import seed, settings
from hypothesis import strategies as st

from facenet.config.overrides import given, key_in, key_of
from facenet.reports.ranking import rank
from facenet.reports.study import study_of
from facenet.tasks.compared import run_name
from facenet.tracking.facts import AXES, GIVEN, LONGEST_TAG, value_tags
from facenet.tracking.reading import RunRecord


def settings_of(arguments: list[str], *, elsewhere: bool = False) -> list[dict[str, str]]:
    """Of the jobs that Hydra makes of a sweep's arguments, as MLflow would hold them; a dict of the axes for each ranked setting."""
    parsed = OverridesParser.create().parse_overrides(arguments)
    axes = {key_in(each) for each in parsed if each.is_sweep_override()}
    records = []
    for number, items in enumerate(BasicSweeper.split_arguments(parsed, None)[0]):
        values = {key: value for key, value in given(items).items() if elsewhere or key in axes}
        tags = {"sweep_id": "s", "job_num": str(number), **value_tags(GIVEN if elsewhere else AXES, values)}
        assert all(len(tag) <= LONGEST_TAG for tag in tags.values())
        records.append(run(number, tags | {"hydra.overrides": " ".join(items)[:LONGEST_TAG]}))
    return [setting.axes for setting in rank(study_of("s", records)).settings]


def run(number: int, tags: dict[str, str]) -> RunRecord:
    params, metrics = {"plan.select": "val/loss"}, {"best/val/loss": 0.5}
    state = {"id": f"r{number}", "name": "", "experiment_id": "1", "status": "FINISHED", "end": None, "params": params}
    return RunRecord(**state, start=number, last_sign=number, tags=tags, metrics=metrics)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["++optimizer.eps=1e-8,1e-1"], [{"optimizer.eps": "1e-08"}, {"optimizer.eps": "0.1"}]),
        (["+optimizer.amsgrad=true,false", "~watch"], [{"optimizer.amsgrad": "true"}, {"optimizer.amsgrad": "false"}]),
        (["data.root='/set v=1','/set v=2'"], [{"data.root": "/set v=1"}, {"data.root": "/set v=2"}]),
        (["a=1,'1',1.0,null,'null'"], [{"a": text} for text in ("1", '"1"', "1.0", "null", '"null"')]),
        (["a=1e-3,0.001"], [{"a": "0.001"}]),
        (["a={1:x},{b:x},[x]"], [{"a": '{"1": "x"}'}, {"a": '{"b": "x"}'}, {"a": '["x"]'}]),
        (["loss@extra=ce,arcface"], [{"loss@extra": "ce"}, {"loss@extra": "arcface"}]),
        (["a=range(1,4)", "++seed=1,2"], [{"a": "1"}, {"a": "2"}, {"a": "3"}]),
        (["a=1,2", "++a=3,4"], [{"a": "3"}, {"a": "4"}]),  # the last one stands in the config
    ],
)
def test_settings_are_values(arguments, expected):
    found = [{key: value for key, value in axes.items() if key != "seed"} for axes in settings_of(arguments)]
    assert found == expected


@pytest.mark.slow  # Hydra's parser takes 0.1 ms a character
def test_a_command_longer_than_a_tag_keeps_its_settings():
    arguments = [f"a='{'x' * 9000}1','{'x' * 9000}2'", *(f"b{number}={'y' * 300}" for number in range(40))]
    assert len(settings_of(arguments)) == len(settings_of(arguments, elsewhere=True)) == 2


def test_a_run_is_named_after_what_is_swept():
    tags = value_tags(AXES, given(["++optimizer.eps=1e-8"]))
    assert run_name({}, ["++optimizer.eps=1e-8", "data.batch_size=12"], tags, "12:00") == "eps 1e-8"


def test_what_is_said_anew_replaces_however_it_is_applied():
    assert key_of("++optimizer.lr=1") == key_of("optimizer.lr=choice(1,2)") == key_of("~optimizer.lr") == "optimizer.lr"


WORDS = st.text(string.ascii_letters + string.digits + " =,:;'\"\\[]{}()+~@$%#!?/.-_äß人", max_size=12)
LONG = st.builds(lambda word: "x" * 8200 + word, st.text("ab", max_size=2))
PLAIN = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, width=16)
NAMES = st.text("abc", min_size=1, max_size=2)


def values(leaves):
    return st.recursive(
        leaves, lambda each: st.lists(each, max_size=3) | st.dictionaries(NAMES, each, max_size=2), max_leaves=3
    )


KEYS = st.sampled_from(["optimizer.eps", "optimizer/x", "loss@extra", "data.root", "a.b@_global_", "trainer.epochs"])


def typed(value):
    """Equal for equal values alone: in Python 1, 1.0 and True are the same."""
    if isinstance(value, dict):
        return frozenset((typed(key), typed(each)) for key, each in value.items())
    return tuple(map(typed, value)) if isinstance(value, list) else (type(value).__name__, str(value))


def text_of(value, quote):
    if isinstance(value, str):
        return QuotedString(value, quote).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(text_of(each, quote) for each in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{text_of(each, quote)}" for key, each in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, (bool, float)) else str(value)


def sweeps(leaves):
    return {
        "swept": st.dictionaries(KEYS, st.lists(values(leaves), min_size=2, max_size=3), min_size=1, max_size=2),
        "prefix": st.sampled_from(["", "+", "++"]),
        "quote": st.sampled_from(list(Quote)),
        "chosen": st.booleans(),
        "elsewhere": st.booleans(),
    }


@drawn(**sweeps(PLAIN | WORDS))
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
def test_settings_are_the_distinct_values_swept(**sweep):
    check_settings(**sweep)


@pytest.mark.nightly
@seed(0)
@drawn(**sweeps(PLAIN | WORDS | LONG))
@settings(max_examples=200, deadline=None, database=None)
def test_settings_are_the_distinct_values_of_many_sweeps(**sweep):
    check_settings(**sweep)


def check_settings(swept, prefix, quote, chosen, elsewhere):
    arguments = []
    for key, values in swept.items():
        text = ",".join(text_of(value, quote) for value in values)
        arguments.append(f"{prefix}{key}={f'choice({text})' if chosen and None not in values else text}")
    distinct = {key: {typed(value) for value in values} for key, values in swept.items()}
    several = [len(values) for values in distinct.values()]
    assert len(settings_of(arguments, elsewhere=elsewhere)) == math.prod(several)
