"""What `auto` becomes on recorded machines, and that a run, its sequel and its sweep keep to one choice."""

from __future__ import annotations

import json

import pytest

from facenet import config as configs
from facenet.devices.table import sound_halves
from facenet.sweeps.plans import Job, Planner
from facenet.sweeps.state import state_of
from facenet.tasks import auto, probe
from facenet.tasks.auto import Choice, choice_of, settle
from facenet.tasks.probe import Probe

# Seconds of a probe. Recorded: the stand-in, and the convolution of AVX2 alone, whose update follows from its speed of products. From speeds
# recorded by other tools, for the same work: the other two CPUs. No GPU and no card was at hand: these two are what their vendors' figures come to.
ZEN_2 = Probe({"fp32": 1.63e-3, "bf16": 13.9e-3}, {"fp32": 7.1e-3, "bf16": 82e-3})  # AVX2 alone, one thread
ZEN_5 = Probe({"fp32": 0.51e-3, "bf16": 0.27e-3}, {"fp32": 5.3e-3, "bf16": 1.44e-3})  # AVX-512 with bf16
XEON = Probe({"fp32": 0.66e-3, "bf16": 0.18e-3}, {"fp32": 3.1e-3, "bf16": 0.4e-3})  # AMX
GPU = Probe({"fp32": 1.2e-3, "fp16": 0.161e-3, "bf16": 0.165e-3}, {"fp32": 2.1e-3, "bf16": 0.62e-3})
OLD_GPU = Probe({"fp32": 1.3e-3, "fp16": 0.3e-3}, {"fp32": 4.0e-3, "bf16": 9.0e-3})  # refuses bf16
STAND_IN = Probe({"fp32": 2.33e-3, "fp16": 23.7e-3, "bf16": 23.0e-3}, {"fp32": 1.53e-3, "bf16": 65.7e-3})
CARD = Probe({"fp32": 9e-3, "fp16": 1e-3, "bf16": 2e-3}, {"fp32": 4.0e-3, "bf16": 2.0e-3})  # as the vendor describes it


@pytest.mark.parametrize(
    ("device", "found", "precision", "update"),
    [
        ("cpu", ZEN_2, "fp32", False),
        ("cpu", ZEN_5, "bf16", True),
        ("cpu", XEON, "bf16", True),
        ("cuda", GPU, "bf16", True),
        ("cuda", OLD_GPU, "fp16", False),
        ("sdaa", STAND_IN, "fp32", False),
        ("sdaa", CARD, "fp16", True),
    ],
)
def test_the_choice_on_recorded_machines(device, found, precision, update):
    choice = choice_of(found, sound_halves(device))
    assert (choice.precision, choice.update) == (precision, update)


def test_the_reason_says_what_was_measured():
    choice = choice_of(ZEN_2, ["bf16"])
    assert choice.precision_why == "a convolution takes 8.5 times as long in bf16 as in fp32"
    assert choice.update_why == "an update takes 12 times as long in bf16 as in fp32"
    assert choice_of(GPU, ["bf16", "fp16"]).precision_why == (
        "a convolution takes 0.14 times as long in bf16 and 0.13 times as long in fp16 as in fp32"
    )
    assert choice_of(Probe({"fp32": 1.0}, {"fp32": 1.0}), ["bf16"]).precision == "fp32"


def test_a_half_type_that_gains_too_little_is_left():
    assert choice_of(Probe({"fp32": 1.2, "bf16": 1.0}, {"fp32": 1.2, "bf16": 1.0}), ["bf16"]).precision == "fp32"
    assert choice_of(Probe({"fp32": 1.4, "bf16": 1.0}, {"fp32": 1.4, "bf16": 1.0}), ["bf16"]).precision == "bf16"
    both = Probe({"fp32": 9.0, "bf16": 4.0, "fp16": 1.0}, {"fp32": 1.0})
    assert choice_of(both, ["bf16", "fp16"]).precision == "fp16", "the preferred one is four times slower"


@pytest.fixture
def machine(monkeypatch):
    """machine(probe): what this machine is found to be; returns how often it was asked."""
    asked = []

    def becomes(found):
        monkeypatch.setattr(probe, "probe_or_recall", lambda name, threads, **_: asked.append(threads) or found)
        return asked

    return becomes


@pytest.fixture(scope="module")
def composed(compose_train):
    small = ["data.num_identities=20", "data.images_per_identity=6", "tracking=none"]
    return compose_train("optimizer=muon", "precision=auto", "accelerator=cpu", *small)


@pytest.fixture
def recipe(composed):
    """recipe(dtype, bf16): the config with these."""
    return lambda dtype="auto", bf16="auto": settled_on(composed, dtype, bf16)


def test_a_config_is_settled_and_says_why(machine, recipe):
    machine(ZEN_5)
    config, chosen = settle(recipe())
    assert (config["precision"]["dtype"], config["optimizer"]["bf16"]) == ("bf16", True)
    assert chosen == (
        "precision=bf16: a convolution takes 0.53 times as long in bf16 as in fp32; "
        "optimizer.bf16=true: an update takes 0.27 times as long in bf16 as in fp32"
    )


def test_what_is_named_stays_and_costs_no_probe(machine, recipe):
    asked = machine(ZEN_2)
    config = recipe("bf16", True)
    assert settle(config) == (config, "") and asked == []
    named, chosen = settle(recipe("bf16"))
    assert (named["precision"]["dtype"], named["optimizer"]["bf16"]) == ("bf16", False)
    assert "precision" not in chosen


@pytest.mark.parametrize("processes", [1, 3])
def test_threads_are_those_of_a_process(machine, recipe, monkeypatch, processes):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("facenet.devices.cores.available_cores", lambda: 7)
    asked = machine(ZEN_2)
    settle({**recipe(), "distributed": {"num_processes": processes}})
    assert asked == [7 // processes]


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (ZEN_2, ["precision=bf16: a convolution takes 8.5 times", "optimizer.bf16=true: an update of Muon takes 12"]),
        (XEON, []),
    ],
)
def test_what_was_asked_for_and_is_slow_is_warned_of(machine, recipe, caplog, found, lines):
    machine(found)
    auto.warn_of_slow(recipe("bf16", True))
    assert len(caplog.messages) == len(lines)
    assert all(message.startswith(line) for message, line in zip(caplog.messages, lines, strict=True))
    caplog.clear()
    auto.warn_of_slow(recipe("fp32", None))
    assert caplog.messages == []


def test_a_run_that_goes_on_keeps_what_auto_became(recipe):
    before = recipe("bf16", True)
    assert auto.as_recorded(recipe(), before) == before
    assert auto.as_recorded(recipe("fp32"), before)["precision"]["dtype"] == "fp32", "named by the command"
    assert auto.as_recorded(recipe(), {"precision": None})["precision"]["dtype"] == "auto"


def settled_on(config, precision, update):
    return {
        **config,
        "precision": {**config["precision"], "dtype": precision},
        "optimizer": {**config["optimizer"], "bf16": update},
    }


def test_a_job_of_a_sweep_is_known_by_what_auto_became(recipe, tmp_path):
    configs.write(recipe("bf16", True), tmp_path / "resolved.yaml")
    assert state_of(tmp_path, recipe()).kind == "half-done"
    assert state_of(tmp_path, recipe("fp32")).kind == "changed"


def test_all_jobs_of_a_sweep_have_the_first_ones_choice(machine, recipe, tmp_path):
    machine(XEON)
    configured = [{**recipe(), "seed": seed} for seed in (0, 1, 1)]
    jobs = [Job(num, [], {}, each, tmp_path / str(num)) for num, each in enumerate(configured)]
    first = Planner(tmp_path).plan(jobs[:1])
    machine(ZEN_2)  # as another node of a cluster
    others = Planner(tmp_path).plan(jobs[1:])
    assert [job.plan.machine.precision for job in (*first, *others)] == ["bf16"] * 3
    assert [job.twin for job in others] == [None, 1]
    config, chosen = settle(configured[2], sweep_dir=tmp_path)
    assert config["optimizer"]["bf16"] is True and "0.13 times as long in bf16" in chosen


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        json.dumps({"precision": "fp64", "update": True, "why": ["", ""]}),
        json.dumps({"precision": "fp16", "update": True, "why": ["", ""]}),
        json.dumps({"precision": "bf16", "update": "yes", "why": ["", ""]}),
        json.dumps({"precision": ["bf16"], "update": True, "why": 3}),
    ],
)
def test_a_strange_note_in_the_directory_of_a_sweep_costs_only_the_probe(machine, recipe, tmp_path, text):
    machine(ZEN_2)
    (tmp_path / "auto-cpu.json").write_text(text)
    assert settle(recipe(), sweep_dir=tmp_path)[0]["precision"]["dtype"] == "fp32"
    machine(XEON)
    assert settle(recipe(), sweep_dir=tmp_path)[0]["precision"]["dtype"] == "fp32", "noted anew"


def test_a_note_of_the_sweep_says_no_more_than_a_line(tmp_path):
    auto.note(tmp_path, "cpu", Choice("bf16", "a\n\x1b[2J" + "b" * 10_000, True, ""))
    why = auto.read_note(tmp_path, "cpu").precision_why
    assert why.startswith(r"a\n\x1b[2Jb") and len(why) == auto.LONGEST


@pytest.mark.parametrize(("preset", "dtype"), [("single_spa", "fp16"), ("single_card", "fp16"), ("real_faces", "auto")])
def test_which_recipes_leave_the_type_to_the_machine(compose_train, preset, dtype):
    given = ["data.list=x"] if dtype == "fp16" else ["data.root=x"]
    assert compose_train(f"preset={preset}", *given, "benchmark.root=x")["precision"]["dtype"] == dtype
