"""What a test takes from the checkpoint of the user's own run, and from no other: benchmarks, protocol and precision."""

from __future__ import annotations

import logging
import os
import stat

import pytest

from facenet.errors import UserError
from facenet.evaluation import Lfw, Protocol
from facenet.tasks import own_runs
from facenet.tasks.as_trained import as_trained, of_run
from facenet.tasks.own_runs import is_own, key, mark

PROTOCOL = {"_target_": "facenet.evaluation.Protocol", "distance": "l2", "flip": "none", "subtract_mean": False}
PROTOCOL |= {"thresholds": "exact"}
HELDOUT = {"_target_": "facenet.evaluation.HeldOut", "num_pairs": 60, "num_folds": 3, "seed": 5, "protocol": PROTOCOL}
LFW = {"_target_": "facenet.evaluation.Lfw", "root": "/lfw", "pairs": "/my/pairs.txt", "protocol": PROTOCOL}
BIN = {"_target_": "facenet.evaluation.Bin", "path": "/sets/agedb.bin", "protocol": PROTOCOL}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FACENET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def content(*, own=True, precision="fp32", **benchmarks):
    config = {"precision": {"_target_": "facenet.devices.Precision", "dtype": precision}, **benchmarks}
    return {"config": config, "own": mark(config) if own else None}


def test_a_mark_holds_for_its_config_and_its_user(cache, monkeypatch, tmp_path):
    found = content(benchmark=LFW)
    assert is_own(found) and stat.S_IMODE((cache / own_runs.NAME).stat().st_mode) == 0o600
    assert [path.name for path in cache.iterdir()] == [own_runs.NAME]  # and no half-written one
    assert not is_own({**found, "config": {**found["config"], "benchmark": {**LFW, "root": "/etc"}}})
    assert not is_own({**found, "own": None}) and not is_own({**found, "own": "é"}) and not is_own({"config": {}})
    assert not is_own({})  # a file of weights
    monkeypatch.setenv("FACENET_CACHE", str(tmp_path / "of another user"))
    assert not is_own(found)
    own = key()
    assert own is not None and key() == own  # the same at each use
    (tmp_path / "file").touch()
    monkeypatch.setenv("FACENET_CACHE", str(tmp_path / "file"))
    assert key() is None and mark({}) is None and not is_own(found)  # where nothing can be kept


@pytest.mark.parametrize(("mode", "owner", "own"), [(0o600, 0, True), (0o644, 0, False), (0o600, 1, False)])
def test_a_key_that_others_know_marks_nothing(cache, monkeypatch, mode, owner, own):
    cache.mkdir()  # shared, such as FACENET_CACHE=/scratch/cache
    (cache / own_runs.NAME).write_bytes(b"k" * own_runs.LENGTH)
    (cache / own_runs.NAME).chmod(mode)
    user = os.geteuid() + owner
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert (key() is not None) is own and is_own(content(benchmark=LFW)) is own


@pytest.mark.parametrize("benchmarks", [[1], "x", {"more": [1]}])
def test_benchmarks_that_are_none_count_for_nothing(benchmarks):
    named = Lfw(root="/lfw", protocol=Protocol())
    named.key = "benchmarks.more"
    assert as_trained(named, {"config": {"benchmarks": benchmarks}}, []) is named


def judged(compose_evaluate, found, *overrides):
    return of_run(compose_evaluate(*overrides), found, list(overrides))


def test_nothing_said_is_the_runs_own_benchmarks(compose_evaluate, caplog):
    found = content(benchmark=LFW, benchmarks={"agedb": BIN})
    with caplog.at_level(logging.INFO):
        config = judged(compose_evaluate, found)
    assert config["benchmark"] == LFW and config["benchmarks"] == {"agedb": BIN}
    assert (
        "tested as in training: benchmark=lfw (root=/lfw, pairs=/my/pairs.txt), benchmarks.agedb=bin (path="
        in caplog.text
    )
    assert judged(compose_evaluate, content(benchmark=HELDOUT))["benchmark"] == HELDOUT


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("benchmark.root=/moved",), {"benchmark": {**LFW, "root": "/moved"}, "benchmarks": {"agedb": BIN}}),
        (("benchmark/protocol=flip",), {"benchmark": {**LFW, "protocol": {**PROTOCOL, "flip": "concat"}}}),
        (("benchmark.protocol.flip=sum",), {"benchmarks": {"agedb": {**BIN, "protocol": {**PROTOCOL, "flip": "sum"}}}}),
        (("++benchmarks.agedb.path=/new",), {"benchmark": LFW, "benchmarks": {"agedb": {**BIN, "path": "/new"}}}),
    ],
)
def test_what_the_command_says_goes_before(compose_evaluate, overrides, expected):
    found = content(benchmark=LFW, benchmarks={"agedb": BIN})
    config = judged(compose_evaluate, found, *overrides)
    assert {name: config[name] for name in expected} == expected


def test_a_benchmark_that_is_chosen_is_the_only_one(compose_evaluate):
    found = content(benchmark=LFW, benchmarks={"agedb": BIN})
    config = judged(compose_evaluate, found, "benchmark=heldout")
    assert config["benchmark"]["num_pairs"] == 2000 and "benchmarks" not in config
    other = judged(compose_evaluate, content(benchmark=HELDOUT), "benchmark.root=/lfw")  # the short way to ask for LFW
    assert other["benchmark"]["root"] == "/lfw" and other["benchmark"]["pairs"] is None


def test_one_that_is_added_stands_beside_them(compose_evaluate):
    said = ("+benchmark@benchmarks.more=bin", "benchmarks.more.path=/more.bin")
    config = judged(compose_evaluate, content(benchmark=LFW, benchmarks={"agedb": BIN}), *said)
    assert list(config["benchmarks"]) == ["agedb", "more"] and config["benchmark"] == LFW
    strange = judged(compose_evaluate, content(own=False, benchmark=LFW), *said)
    assert list(strange["benchmarks"]) == ["more"] and strange["benchmark"]["root"] == "???"


@pytest.mark.parametrize("stored", [LFW, HELDOUT, None, 3, {"root": "/lfw"}])
def test_what_a_strangers_checkpoint_names_is_not_opened(compose_evaluate, stored):
    found = content(own=False, benchmark=stored, precision="bf16")
    for overrides in ((), ("benchmark/protocol=flip",)):
        with pytest.raises(
            UserError, match="no run of yours on this machine.* say benchmark=heldout.* or benchmark.root=LFW"
        ):
            judged(compose_evaluate, found, *overrides)
    for overrides in (("benchmark=heldout",), ("benchmark.root=/own",)):
        assert judged(compose_evaluate, found, *overrides) == compose_evaluate(*overrides)  # precision neither


def test_the_precision_is_the_runs_where_the_device_has_it(compose_evaluate, caplog):
    found = content(benchmark=HELDOUT, precision="bf16")
    with caplog.at_level(logging.INFO):
        assert judged(compose_evaluate, found)["precision"]["dtype"] == "bf16"
        assert "the run's precision: bf16; precision= says otherwise" in caplog.text
        assert judged(compose_evaluate, found, "precision=fp32")["precision"]["dtype"] == "fp32"
        half = content(benchmark=HELDOUT, precision="fp64")
        assert judged(compose_evaluate, half)["precision"]["dtype"] == "fp32"
    assert "not in the run's precision" in caplog.text
