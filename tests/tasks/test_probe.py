"""A machine is asked once, and a note that is damaged or another machine's costs no more than asking again."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch import nn

from facenet.tasks import probe
from facenet.tasks.probe import Probe

FOUND = Probe({"fp32": 2.0, "bf16": 1.0}, {"fp32": 3.0, "bf16": 4.0})


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """How often the machine was."""
    monkeypatch.setenv("FACENET_CACHE", str(tmp_path / "cache"))
    times = []
    monkeypatch.setattr(probe, "measure", lambda name, threads: times.append(threads) or FOUND)
    return times


def test_the_machine_is_asked_once_per_number_of_threads(asked, tmp_path):
    assert [probe.probe_or_recall("cpu", 2) for _ in range(3)] == [FOUND] * 3 and asked == [2]
    assert probe.probe_or_recall("cpu", 1) == FOUND and asked == [2, 1]
    assert len(list((tmp_path / "cache" / "machines").iterdir())) == 2


def test_a_look_leaves_nothing(asked, tmp_path):
    assert probe.probe_or_recall("cpu", 2, keep=False) == FOUND
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "changed",
    [
        "",
        "nothing of JSON",
        "[]",
        '{"machine": 1}',
        {"machine": {"device": "cpu"}},
        {"convolution": {"bf16": 1.0}},
        {"convolution": {"fp32": 0.0}},
        {"update": {"fp32": float("nan")}},
        {"update": {"fp32": "fast"}},
        {"update": {"fp32": 1.0, "int4": 1.0}},
        {"update": None},
    ],
    ids=str,
)
def test_a_damaged_or_foreign_note_costs_only_the_probe(asked, tmp_path, changed):
    probe.probe_or_recall("cpu", 2)
    (note,) = (tmp_path / "cache" / "machines").iterdir()
    told = json.loads(note.read_text())
    note.write_text(changed if isinstance(changed, str) else json.dumps({**told, **changed}))
    assert probe.probe_or_recall("cpu", 2) == FOUND and asked == [2, 2]
    assert probe.probe_or_recall("cpu", 2) == FOUND and asked == [2, 2], "mended"


def test_where_nothing_can_be_kept_the_machine_is_asked_each_time(asked, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("FACENET_CACHE", str(file / "below"))
    assert [probe.probe_or_recall("cpu", 2) for _ in range(2)] == [FOUND] * 2 and asked == [2, 2]


def test_a_device_is_known_by_its_name_or_else_by_its_host(asked, monkeypatch):
    for model, host, times in (("A", "one", 1), ("A", "two", 1), ("B", "two", 2), ("", "one", 3), ("", "two", 4)):
        monkeypatch.setattr(probe, "model_of", lambda name, model=model: model)
        monkeypatch.setattr(probe.platform, "node", lambda host=host: host)
        assert probe.probe_or_recall("cuda", 2) == FOUND and len(asked) == times


@pytest.mark.parametrize("field", ["vendor_id", "model name", "flags"])
def test_cpus_of_one_name_with_other_instructions_are_two(tmp_path, field):
    core = "processor\t: {}\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\ncpu MHz\t: {}\nflags\t: fpu avx2{}\n\n"
    path = tmp_path / "cpuinfo"
    path.write_text(core.format(0, 2400.1, "") + core.format(1, 2400.1, ""))
    one = probe.processor_text(path)
    path.write_text(core.format(0, 3100.7, ""))
    assert probe.processor_text(path) == one and "2400" not in one, "its clock changes by the second"
    path.write_text(path.read_text().replace(f"{field}\t: ", f"{field}\t: other "))
    assert probe.processor_text(path) != one
    assert probe.processor_text(tmp_path / "absent") == ""


def test_how_slow_a_precision_is_comes_from_the_convolutions(monkeypatch):
    real, slept = nn.functional.conv2d, {torch.float32: 0.0, torch.bfloat16: 0.2}

    def slow(maps, kernel, **options):
        product = real(maps, kernel, **options)
        time.sleep(slept[product.dtype])
        return product

    monkeypatch.setattr(nn.functional, "conv2d", slow)
    monkeypatch.setattr(probe, "updates", lambda at: {"fp32": 1.0})
    monkeypatch.setattr(probe, "ROUNDS", 1)
    found = probe.measure("cpu", torch.get_num_threads())
    assert found.convolution.keys() == {"fp32", "bf16"}
    assert found.convolution["bf16"] > 3 * found.convolution["fp32"]


def test_what_is_hopeless_is_called_once_and_what_is_refused_left_out():
    calls = []

    def refused():
        raise RuntimeError("not on this device")

    works = {"fp32": lambda: calls.append("fp32"), "bf16": lambda: calls.append(time.sleep(0.05)), "fp16": refused}
    found = probe.time_in_turn(works, probe.computing("cpu", "fp32"))
    assert found.keys() == {"fp32", "bf16"} and found["bf16"] >= 0.05
    assert calls.count(None) == 1 and calls.count("fp32") == 1 + probe.ROUNDS
    with pytest.raises(RuntimeError, match="not on this device"):
        probe.time_in_turn({"fp32": refused}, probe.computing("cpu", "fp32"))


def test_calls_come_in_turn():
    calls = []
    works = {name: lambda name=name: calls.append(time.sleep(0.001) or name) for name in ("fp32", "bf16")}
    probe.time_in_turn(works, probe.computing("cpu", "fp32"))
    assert calls == ["fp32", "bf16"] * (1 + probe.ROUNDS)


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(probe, "on_device", lambda name: torch.get_num_threads())
        assert probe.measure("cpu", before + 1) == before + 1
    assert torch.get_num_threads() == before
