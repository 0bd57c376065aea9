"""`.ci/run` and `.ci/nightly` with commands that only say that they were called: what runs in which order, and how it ends."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CI = TESTS.parent / ".ci"
COMMANDS = ("python3", "python", "pytest", "ruff", "mypy", "lint-imports", "sphinx-build", "chromium")
SAYS = """#!/bin/sh
line="$(basename "$0") $*"
echo "$line" >> "$CALLS"
case "$line" in *"$FAILS"*) exit 1 ;; esac
"""


def run(tmp_path: Path, fails: str, *command: str) -> tuple[int, list[str], str]:
    """Exit code of .ci/run, or of another command there, lines of what it called, and what it said; a command whose line holds `fails` fails."""
    for name in COMMANDS:
        (tmp_path / name).write_text(SAYS)
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"
    calls.write_text("")
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "CALLS": str(calls), "FAILS": fails}
    env["FACENET_NIGHTLY_STATE"] = str(tmp_path / "state")
    script, *arguments = command or ("run",)
    ended = subprocess.run([CI / script, *arguments], env=env, capture_output=True, text=True, timeout=60)
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


def test_each_nightly_test_is_in_a_part_of_the_night(tmp_path: Path) -> None:
    _, calls, _ = run(tmp_path, "-m venv", "nightly")
    given = {
        word for line in calls if line.startswith("pytest -m nightly") for word in line.split() if "tests/" in word
    }
    parts = [TESTS.parent / word for word in given]
    marked = [path for path in TESTS.rglob("test_*.py") if "mark.nightly" in path.read_text()]
    assert len(marked) > 10 and [path for path in marked if not {path, *path.parents} & set(parts)] == []


def test_a_stopped_night_goes_on(tmp_path: Path) -> None:
    code, calls, said = run(tmp_path, "tests/engine", "nightly")
    assert code == 1 and "failed: engine: pytest -m nightly -n0 tests/engine" in said.replace("\n", " ")
    assert sum("pytest -m nightly" in line for line in calls) > 10
    _, calls, said = run(tmp_path, "-m venv", "nightly")
    assert [line for line in calls if "pytest -m nightly" in line] == ["pytest -m nightly -n0 tests/engine"]
    assert "=== data: passed before" in said


def test_a_room_that_is_not_there_is_told(tmp_path: Path) -> None:
    code, calls, said = run(tmp_path, "nothing fails", "nightly", "nowhere")
    assert (code, calls) == (2, []) and "no tests/nowhere; rooms: " in said and "tests/" in said
