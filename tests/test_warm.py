"""A process that starts warm (plugins/warm.py) is found in /proc as one that starts cold is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import warm

SAYS = "print(open('/proc/self/environ').read(), open('/proc/self/cmdline').read(), sep='|')"
TWICE = (
    "import os, subprocess, sys; "
    f"subprocess.run([sys.executable, '-c', {SAYS!r}], check=True, env={{**os.environ, 'OUTER': 'no', 'INNER': 'yes'}})"
)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc")
@pytest.mark.parametrize(
    ("code", "own"), [(SAYS, {"OUTER": "yes"}), (TWICE, {"OUTER": "no", "INNER": "yes"})], ids=["warm", "by a warm one"]
)
def test_proc_has_its_own_environment_and_command(code: str, own: dict[str, str]) -> None:
    environment = {**os.environ, "OUTER": "yes"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert warm.parents, "started cold"
    variables, _, command = done.stdout.partition("|")
    found = dict(line.split("=", 1) for line in variables.split("\0") if line)
    assert found == {**os.environ, **own}
    assert command.strip("\0\n").split("\0") == [sys.executable, "-c", SAYS]
