"""Processes that tests leave behind end with the run, and are told each in a line; on a run of tests that do (plugins/leaks.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parent / "plugins"
TESTS = """
import os, subprocess, sys, time
import warm

kept = []

def start(name, *command, **more):
    kept.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, **more))
    open(name, "w").write(str(kept[-1].pid))

def test_left(): start("left", "sleep", "600")
def test_own_session(): start("session", "sleep", "600", start_new_session=True)
def test_other_environment(): start("other", "sleep", "600", env={})
def test_warm():
    with warm.use():
        start("warm", sys.executable, "-c", "import time; time.sleep(600)")
        os.write(told, b"x")
        time.sleep(wait)
"""


def begin(folder: Path, wait: int) -> tuple[subprocess.Popen[bytes], int]:
    """A run of these tests, whose last takes so many seconds; what is written when it has started its process can be read."""
    reading, writing = os.pipe()
    (folder / "test_these.py").write_text(f"told, wait = {writing}, {wait}\n{TESTS}")
    (folder / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(PLUGINS)!r})\nimport leaks\nleaks.GRACE_S = 0.3\nfrom leaks import *\n"
    )
    flags = ("-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist")
    with (folder / "said").open("w") as out:  # no pipe, which what is left behind would hold open
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *flags, "test_these.py"],
            cwd=folder,
            env={**os.environ, "COLUMNS": "1000"},
            stdout=out,
            stderr=out,
            pass_fds=[writing],
        )
    os.close(writing)
    return process, reading


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
@pytest.mark.parametrize("stopped", [False, True])
def test_what_is_left_behind_ends_with_the_run(tmp_path: Path, stopped: bool) -> None:
    process, reading = begin(tmp_path, 600 if stopped else 0)
    try:
        assert os.read(reading, 1) == b"x", (tmp_path / "said").read_text()
        if stopped:
            process.send_signal(signal.SIGINT)
        process.wait(300)
    finally:
        os.close(reading)
        process.kill()
        process.wait()
    said = (tmp_path / "said").read_text()
    numbers = {name: int((tmp_path / name).read_text()) for name in ("left", "session", "other", "warm")}
    end = time.monotonic() + 60
    while (alive := [name for name, number in numbers.items() if Path(f"/proc/{number}").exists()]) and (
        time.monotonic() < end
    ):
        time.sleep(0.02)
    for name in alive:
        os.kill(numbers[name], signal.SIGKILL)
    assert alive == [], said
    lines = [line for line in said.splitlines() if line.startswith("left behind: process ")]
    assert len(lines) == (3 if stopped else 4) and "Traceback" not in said, said
    assert all(line.count("process ") == 1 for line in lines), lines
