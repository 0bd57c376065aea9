"""`.ci/run` with commands that only say that they were called: what runs in which order, and how it ends."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "run"
COMMANDS = ("python3", "python", "pytest", "ruff", "mypy", "lint-imports", "sphinx-build", "chromium")
SAYS = """#!/bin/sh
line="$(basename "$0") $*"
echo "$line" >> "$CALLS"
case "$line" in *"$FAILS"*) exit 1 ;; esac
"""


def run(tmp_path: Path, fails: str) -> tuple[int, list[str], str]:
    """The script's exit code, the lines of what it called, and what it said, where a command whose line holds `fails` fails."""
    for name in COMMANDS:
        (tmp_path / name).write_text(SAYS)
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "CALLS": str(calls), "FAILS": fails}
    ended = subprocess.run([SCRIPT], env=env, capture_output=True, text=True, timeout=60)
    return ended.returncode, calls.read_text().splitlines(), ended.stdout + ended.stderr


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
@pytest.mark.parametrize(
    ("fails", "code", "groups"),
    [
        ("nothing fails", 0, 6),
        ("-m not slow", 1, 1),  # told at once: no slow group is waited for
        ("tests/bench", 1, 6),  # told at the end, with all others
        ("ruff format", 1, 0),
        ("mypy", 1, 0),
    ],
)
def test_ends_as_its_parts_ended(tmp_path: Path, fails: str, code: int, groups: int) -> None:
    returned, calls, said = run(tmp_path, fails)
    assert returned == code, said
    assert len([line for line in calls if line.startswith("pytest -p spent")]) == groups
    if groups:
        assert ("failed: " in said) == (code == 1)


def test_statics_come_before_any_test(tmp_path: Path) -> None:
    _, calls, _ = run(tmp_path, "nothing fails")
    first = next(number for number, line in enumerate(calls) if line.startswith("pytest -p spent"))
    before = [line.split()[0] for line in calls[:first] if not line.startswith(("python", "pytest"))]
    assert before == ["ruff", "ruff", "mypy", "lint-imports", "sphinx-build"]
