"""The device suite on the SDAA stand-in, in a process of its own: the device is part of torch for as long as a process lives."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def device_suite(environment: dict[str, str], marked: str) -> dict[str, int]:
    """Runs tests/device and gives its counts: {"passed": 42, ...}."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    flags = ("-n0", "-q", "-rs", "--color=no", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(HERE / "device"), "-m", marked, *flags],
        cwd=HERE.parent,
        env={**ours, **environment, "FACENET_TEST_DEVICE": "sdaa"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout[-20_000:]
    return {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", done.stdout.splitlines()[-1])}


@pytest.mark.slow  # 22 s of a processor
def test_the_device_suite_passes_on_the_standin(standin: dict[str, str]):
    counts = device_suite(standin, "not slow")
    assert counts["passed"] >= 40 and not counts.keys() & {"skipped", "failed", "error", "errors"}


@pytest.mark.slow
def test_whole_commands_pass_on_the_standin(standin: dict[str, str]):
    counts = device_suite(standin, "slow")
    assert counts["passed"] >= 4 and not counts.keys() & {"skipped", "failed", "error", "errors"}


@pytest.mark.slow
def test_a_build_that_was_killed_does_not_stop_the_next(standin: dict[str, str], tmp_path: Path):
    """torch waits without end for the lock of a build that died. Here one that died after the compiler was done."""
    again = shutil.copytree(standin["SDAA_SIM_BUILD_DIR"], tmp_path / "again")
    finished = list(again.glob("*/whole"))
    for mark in finished:
        mark.rename(mark.with_name("lock"))
    environment = {**os.environ, **standin, "SDAA_SIM_BUILD_DIR": str(again)}
    subprocess.run([sys.executable, "-c", "import torch_sdaa"], env=environment, check=True, timeout=900)
    assert any(mark.exists() for mark in finished)
