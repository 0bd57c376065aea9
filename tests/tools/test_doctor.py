"""The command as a newcomer runs it, on this machine; and single checks on settings and folders made for them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from facenet.devices.table import absent
from facenet.errors import UserError
from facenet.tasks.probe import Probe
from facenet.tools.doctor.collectives import ALONE
from facenet.tools.doctor.device import ask_monitor, check_choice
from facenet.tools.doctor.machine import check_cores, container_cores
from facenet.tools.doctor.report import Report
from facenet.tools.doctor.settings import check_settings
from facenet.tools.doctor.software import check_package
from facenet.tracking.store import store_state

DOCTOR = [str(Path(sys.executable).parent / "facenet-doctor")]
SETTINGS = ("MLFLOW_TRACKING_URI", "RANK", "LOCAL_RANK", "WORLD_SIZE")


def doctor(cwd: Path, *flags: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    environment |= {"TMPDIR": str(cwd / "tmp"), **settings}
    (cwd / "tmp").mkdir(parents=True)
    return subprocess.run([*DOCTOR, *flags], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture
def report() -> Report:
    return Report(say=lambda line: None)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Where the command ran, and what it left, with the device that every machine has."""
    cwd = tmp_path_factory.mktemp("doctor")
    return cwd, doctor(cwd, "--accelerator", "cpu", "--json")


def test_json_of_a_machine_that_can_train(healthy):
    _, done = healthy
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert found["verdict"] != "cannot train" and not any(problem["blocks"] for problem in found["problems"])
    assert found["software"]["torch_build"] == torch.__version__
    assert found["software"]["torch"] == metadata.version("torch")
    assert found["software"]["python"] == sys.version.split()[0]
    assert found["devices"]["cpu"] == {"count": 1, "taken": True, "reason": None}
    assert found["devices"]["sdaa"]["reason"] == absent("sdaa")
    assert found["machine"]["cores"] <= os.cpu_count()
    assert found["machine"]["memory"]["total"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_each_precision_computes_in_its_type_at_a_possible_speed(healthy):
    speed = json.loads(healthy[1].stdout)["speed"]
    assert {name: found["autocast"] for name, found in speed.items()} == {"fp32": "float32", "bf16": "bfloat16"}
    for found in speed.values():
        assert 1e-4 < found["matmul_tflops"] < 100 and 1e-4 < found["convolution_tflops"] < 100


def test_what_auto_takes_is_told(healthy):
    found = json.loads(healthy[1].stdout)["auto"]
    assert found["precision"] in ("fp32", "bf16") and isinstance(found["optimizer.bf16"], bool)


@pytest.mark.parametrize(
    ("bf16_s", "verdict", "problems"),
    [
        (0.5, "ok", []),
        (
            8.5,
            "works with remarks",
            ["precision=bf16: a convolution takes 8.5 times", "optimizer.bf16=true: an update"],
        ),
    ],
)
def test_the_verdict_warns_of_a_type_that_is_slow_here(report, bf16_s, verdict, problems):
    check_choice(report, Probe({"fp32": 1.0, "bf16": bf16_s}, {"fp32": 1.0, "bf16": bf16_s}), ["bf16"])
    assert report.verdict == verdict and len(report.problems) == len(problems)
    assert all(each.what.startswith(told) for each, told in zip(report.problems, problems, strict=True))
    assert report.facts["auto"] == {"precision": "fp32" if problems else "bf16", "optimizer.bf16": not problems}


def test_two_processes_exchange_numbers(healthy):
    found = json.loads(healthy[1].stdout)["collectives"]
    assert (found["processes"], found["results"]) == (2, "sum and gather are right")
    assert found["mean"]["bytes"] == 10_000_000 and 0.1 < found["mean"]["ms"] < 10_000


def test_nothing_is_left_behind(healthy):
    cwd, done = healthy
    tracking = json.loads(done.stdout)["tracking"]
    assert tracking == {"store": f"sqlite:///{cwd / 'mlflow.db'}", "state": "absent; the first run creates it"}
    assert list(cwd.rglob("*")) == [cwd / "tmp"]


@pytest.mark.slow
def test_the_stand_in_for_sdaa_is_found_taken_and_reached(tmp_path, standin):
    done = doctor(tmp_path, "--json", SDAA_SIM_DEVICE_COUNT="2", **standin)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"]["sdaa"] == {"count": 2, "taken": True, "reason": None}
    assert found["device"]["driver"] == "unknown: teco-smi does not tell"
    assert found["device"]["torch_device"] == "sdaa:0" and found["device"]["memory"]["free"] > 0
    assert {name: speed["autocast"] for name, speed in found["speed"].items()} == {
        "fp32": "float32",
        "fp16": "float16",
        "bf16": "bfloat16",
    }
    assert (found["collectives"]["processes"], found["collectives"]["results"]) == (2, "sum and gather are right")


@pytest.mark.parametrize(
    ("head", "versions"),
    [
        (
            "|  TCML: 1.10.0    SDAADriver: 1.1.2b1    SDAARuntime: 1.1.2b0   |",
            {"driver": "1.1.2b1", "runtime": "1.1.2b0"},
        ),
        ("| NVIDIA-SMI 550.127.05   Driver Version: 550.127.05   CUDA Version: 12.4 |", {"driver": "550.127.05"}),
        ("no devices were found", {}),
    ],
)
def test_the_drivers_version_is_read_from_the_vendors_monitor(tmp_path, head, versions):
    program = tmp_path / "monitor"
    program.write_text(f"#!/bin/sh\necho '{head}'\n")
    program.chmod(0o755)
    assert ask_monitor(str(program)) == versions


def test_a_monitor_that_is_not_there_tells_nothing(tmp_path):
    assert ask_monitor(str(tmp_path / "monitor")) == {}


@pytest.mark.skipif(absent("cuda") is None, reason="the device that is to be missed is present")
def test_a_broken_environment_is_told_line_by_line(tmp_path):
    store = {"MLFLOW_TRACKING_URI": "http://me:secret@127.0.0.1:1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = doctor(tmp_path, "--accelerator", "cuda", RANK="0", WORLD_SIZE="2", **store)
    assert done.returncode == 1
    assert re.search(rf"^  torch +{re.escape(metadata.version('torch'))} +>=2.4.0a0$", done.stdout, re.MULTILINE)
    assert "secret" not in done.stdout + done.stderr
    assert done.stdout[done.stdout.index("verdict: ") :].splitlines() == [
        "verdict: cannot train",
        "  - accelerator=cuda: torch sees no such device; install a CUDA build of torch and check nvidia-smi, "
        "or run with accelerator=auto",
        "  - RANK, WORLD_SIZE left in the environment: a command would take itself for one of several processes; "
        "unset RANK WORLD_SIZE",
        "  - tracking: MLflow at http://***@127.0.0.1:1 cannot be used (it does not answer); start it, "
        "set MLFLOW_TRACKING_URI, or tracking=none",
    ]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--acelerator", "cpu"], "unrecognized arguments"),
        (["--accelerator", "tpu"], "invalid choice: 'tpu'"),
        (["--processes", "0"], "--processes: expected 1 or more, got 0"),
    ],
)
def test_wrong_flags_end_with_2(tmp_path, flags, told):
    done = doctor(tmp_path, *flags)
    assert done.returncode == 2 and told in done.stderr and done.stdout == ""


@pytest.mark.slow
def test_processes_that_fail_are_a_remark_with_their_reason(tmp_path):
    done = doctor(tmp_path, "--accelerator", "cpu", "--json", GLOO_SOCKET_IFNAME="absent0")
    found = json.loads(done.stdout)
    assert (done.returncode, found["verdict"]) == (0, "works with remarks")
    assert "absent0" in found["collectives"]["failure"].splitlines()[-1]
    assert {"what": "collectives: 2 processes fail, as told above", "fix": ALONE, "blocks": False} in found["problems"]


@pytest.mark.slow
@pytest.mark.cold  # warm ranks are done before anybody sees them
def test_ctrl_c_leaves_no_process_and_no_folder(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [*DOCTOR, "--accelerator", "cpu", "--processes", "2"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        wait_until(lambda: len(processes_of(tmp_path)) == 2)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=300)
    assert process.returncode == 130 and told.decode().splitlines()[-1] == "interrupted"
    assert processes_of(tmp_path) == [] and list(tmp_path.iterdir()) == []


def processes_of(folder: Path) -> list[int]:
    """Processes whose command names the folder: the ranks, whose job lies in it."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(folder) in (entry / "cmdline").read_text():
                found.append(int(entry.name))
    return found


def wait_until(condition, limit_s=300.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_versions_are_held_against_the_declared_range(report):
    check_package(report, Requirement("torch>=2.4.0a0"))
    assert report.problems == [] and report.verdict == "ok"
    check_package(report, Requirement("numpy>=99"))
    assert (report.verdict, report.problems[0].fix) == ("works with remarks", "pip install 'numpy>=99'")
    check_package(report, Requirement("no-such-package>=1"))
    assert (report.verdict, report.problems[1].what) == ("cannot train", "no-such-package is not installed")
    assert report.summary().splitlines()[1] == "  - no-such-package is not installed; pip install 'no-such-package>=1'"


@pytest.mark.parametrize(
    ("name", "value", "harmful"),
    [
        ("RANK", "1", True),
        ("TORCH_SDAA_AUTOLOAD", "cuda_migrate", True),
        ("TORCH_SDAA_AUTOLOAD", "1", False),
        ("SDAA_LAUNCH_BLOCKING", "1", True),
        ("CUDA_LAUNCH_BLOCKING", "0", False),
        ("CUDA_VISIBLE_DEVICES", "0", False),
    ],
)
def test_harmful_settings(report, monkeypatch, name, value, harmful):
    for variable in SETTINGS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    check_settings(report, has_torch=True)
    assert [problem.fix for problem in report.problems] == ([f"unset {name}"] if harmful else [])


def test_cores_of_a_container(tmp_path, report, monkeypatch):
    assert container_cores(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert container_cores(tmp_path) == 1.5
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "cpu.max").write_text("max 100000\n")
    assert container_cores(newer) is None
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    check_cores(report)
    assert "4096 threads" in report.problems[0].what


def test_what_is_raised_becomes_a_finding(report):
    with report.finding("driver", "restart it", blocks=True):
        raise OSError("no answer\nand a long story")
    with report.finding("tracking", "unused"):
        raise UserError("tracking: gone; start it, or tracking=none")
    assert report.summary().splitlines() == [
        "verdict: cannot train",
        "  - driver: no answer; restart it",
        "  - tracking: gone; start it, or tracking=none",
    ]


def test_a_store_is_looked_at_and_not_made(tmp_path):
    database = tmp_path / "sub" / "mlflow.db"
    assert store_state(f"sqlite:///{database}") == "absent; the first run creates it"
    assert list(tmp_path.iterdir()) == []
    database.parent.mkdir()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
        connection.execute("INSERT INTO runs VALUES ('a')")
        connection.commit()
    assert store_state(f"sqlite:///{database}") == "1 runs"
    database.write_text(
        "no database at all, but text that is long enough to be looked at as a header of one hundred bytes......"
    )
    with pytest.raises(UserError, match=r"mlflow.db cannot be used \(file is not a database\)"):
        store_state(f"sqlite:///{database}")
    with pytest.raises(
        UserError, match=r"cannot be used \(a folder, which newer MLflow refuses without MLFLOW_ALLOW_FILE_STORE=true\)"
    ):
        store_state(str(tmp_path))
