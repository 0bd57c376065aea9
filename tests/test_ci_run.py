"""`.ci/run` and `.ci/nightly` with commands that only say that they were called: what runs in which order, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CI = TESTS.parent / ".ci"
COMMANDS = ("python3", "python", "pytest", "ruff", "mypy", "lint-imports", "sphinx-build")
SAYS = """#!/bin/sh
line="$(basename "$0") $*"
echo "$line" >> "$CALLS"
case "$line" in *"$HEARS"*) exec "$PYTHON" -c "$LISTENS" ;; esac
case "$line" in *"$WAITS"*) echo "$$" > "$STARTED"; exec sleep 600 ;; esac
IFS='|'
for part in $FAILS; do
    case "$line" in *"$part"*) exit "${CODE:-1}" ;; esac
done
"""
LISTENS = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
with open(os.environ["STARTED"], "w") as out:
    out.write(str(os.getpid()))
heard = [signal.sigwait([signal.SIGINT])]
while signal.sigtimedwait([signal.SIGINT], 1) is not None:  # what comes twice comes at once
    heard.append(signal.SIGINT)
with open(os.environ["CALLS"], "a") as out:
    out.write(f"heard {len(heard)}\\n")
raise SystemExit(2)
"""
TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


def started(
    tmp_path: Path,
    fails: str,
    *command: str,
    waits: str = "nothing waits",
    before: Sequence[str] = (),
    **variables: str,
) -> subprocess.Popen[str]:
    """.ci/run, or another command there; of its commands those fail whose line holds a part of `fails`, and that waits which holds `waits`. `before`:
    words before the command."""
    for name in (*COMMANDS, *([variables["BROWSER"]] if variables.setdefault("BROWSER", "chromium") else [])):
        (tmp_path / name).write_text(SAYS)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "calls").write_text("")
    (tmp_path / "a place").mkdir(exist_ok=True)
    if not (tmp_path / "started").exists():
        os.mkfifo(tmp_path / "started")
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path / "a place")}
    env |= {"CALLS": str(tmp_path / "calls"), "STARTED": str(tmp_path / "started"), "FAILS": fails, "WAITS": waits}
    env |= {"FACENET_NIGHTLY_STATE": str(tmp_path / "state"), "HEARS": "nothing hears", "LISTENS": LISTENS}
    env["PYTHON"] = sys.executable
    script, *arguments = command or ("run",)
    words, pipe = [*before, str(CI / script), *arguments], subprocess.PIPE
    return subprocess.Popen(
        words, env=env | variables, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def ended(tmp_path: Path, process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """Exit code, lines of what was called, and what was said."""
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, (tmp_path / "calls").read_text().splitlines(), out + err


def run(tmp_path: Path, fails: str, *command: str, **variables: str) -> tuple[int, list[str], str]:
    return ended(tmp_path, started(tmp_path, fails, *command, **variables))


def told(said: str) -> list[str]:
    """What is said to have failed, each by its beginning."""
    failed = [line.removeprefix("failed: ") for line in said.splitlines() if line.startswith("failed: ")]
    return [line.partition(": pytest")[0].partition(" -")[0] for line in failed]


GROUPS = ["fast tests", "ratios, alone on the machine", "runs", "everything else", "joblib, optuna, submitit", "ray"]


@pytest.mark.parametrize(
    ("fails", "groups", "failed"),
    [
        ("nothing fails", 6, []),
        ("-m not slow", 1, GROUPS[:1]),  # told at once: no slow group is waited for
        ("-n0 tests/bench", 6, [GROUPS[1]]),  # told at the end, with all others
        ("-m slow", 6, GROUPS[1:]),
        ("-n0 tests/bench|spent.py --slowest", 6, [GROUPS[1], "python .ci/spent.py"]),
        ("-n0 tests/bench|joblib", 5, [GROUPS[1], "python"]),  # Ray is tested all the same
        ("ruff format", 0, ["ruff format"]),
        ("mypy", 0, ["mypy"]),
        ("ruff check|lint-imports|sphinx-build", 0, ["ruff check .", "lint-imports", "sphinx-build"]),
        ("venv", 0, ["python3"]),
        ("install --quiet torch", 0, ["python"]),
    ],
)
def test_ends_as_its_parts_ended(tmp_path: Path, fails: str, groups: int, failed: list[str]) -> None:
    returned, calls, said = run(tmp_path, fails)
    assert len([line for line in calls if line.startswith("pytest -p spent")]) == groups
    assert told(said) == failed and returned == bool(failed), said
    assert not failed or said.splitlines()[-1] == f".ci/run: {len(failed)} failed, exit code 1"
    assert list((tmp_path / "a place").iterdir()) == []


@pytest.mark.parametrize("code", ["2", "3", "5", "137"])  # interrupted, a fault of pytest's, nothing collected, killed
def test_a_group_fails_by_any_exit_code_but_0(tmp_path: Path, code: str) -> None:
    returned, _, said = run(tmp_path, "-n0 tests/bench|-k ray", CODE=code)
    assert returned == 1 and told(said) == [GROUPS[1], GROUPS[5]]


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("waits", ["mypy", "pytest -p spent --spent"])
def test_a_signal_ends_it_at_once_with_all_that_it_started(tmp_path: Path, how: int, code: int, waits: str) -> None:
    """Ctrl-C was not heard until the group that ran had ended."""
    process = started(tmp_path, "ruff check" if waits == "mypy" else "nothing fails", waits=waits)
    child = int((tmp_path / "started").read_text())
    os.kill(process.pid, how)
    returned, _, said = ended(tmp_path, process)
    assert returned == code and not Path(f"/proc/{child}").exists()
    assert told(said) == (["ruff check ."] if waits == "mypy" else [])
    assert said.endswith(f"failed, exit code {code}\n") and list((tmp_path / "a place").iterdir()) == []


@pytest.mark.cold
@pytest.mark.parametrize(
    ("command", "hears", "who"),
    [
        (["run"], "pytest -p spent", "terminal"),
        (["run"], "pytest -p spent", "shell"),
        (["nightly", "data"], "tests/data", "terminal"),
        (["nightly", "data"], "tests/data", "shell"),
        (["nightly", "floors"], "-m venv", "terminal"),
        (["nightly", "floors"], "-m venv", "shell"),
    ],
)
def test_an_interrupt_is_heard_once(tmp_path: Path, command: list[str], hears: str, who: str) -> None:
    """Ctrl-C at a terminal came twice, the second amid pytest's cleaning up; sent to .ci/nightly alone it was not heard within a leg."""
    before = [sys.executable, "-c", TERMINAL] if who == "terminal" else []
    process = started(tmp_path, "nothing fails", *command, before=before, HEARS=hears)
    (tmp_path / "started").read_text()
    if who == "terminal":
        assert process.stdin is not None
        process.stdin.write("\x03")
        process.stdin.flush()
    else:
        os.kill(process.pid, signal.SIGINT)
    code, calls, said = ended(tmp_path, process)
    assert (code, calls[-1]) == (130, "heard 1"), said


def test_tests_that_take_too_long_are_ended_and_told(tmp_path: Path) -> None:
    process = started(tmp_path, "-n0 tests/bench", waits="-m slow tests/tasks", FACENET_CI_STOP_S="2")
    child = int((tmp_path / "started").read_text())
    returned, calls, said = ended(tmp_path, process)
    assert returned == 1 and not Path(f"/proc/{child}").exists()
    assert told(said) == [
        *GROUPS[1:3],
        "the groups after this one, which were not run: the tests take more than 2 s here",
    ]
    assert "the slowest that ended" in said and any("spent.py --slowest 20" in line for line in calls)


@pytest.mark.parametrize("user", ["root", "another"])
def test_no_browser_is_told_at_the_end(tmp_path: Path, user: str) -> None:
    """Root's apt-get fails, too, where no server of packages is reached."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "env", "basename", "dirname", "mktemp", "rm", "xargs", "timeout", "sleep"):
        (tools / name).symlink_to(str(shutil.which(name)))
    for name, code in (("id", f"echo {0 if user == 'root' else 1000}"), ("apt-get", "exit 100")):
        (tools / name).write_text(f"#!/bin/sh\n{code}\n")
        (tools / name).chmod(0o755)
    code, calls, said = run(tmp_path, "nothing fails", PATH=f"{tmp_path}:{tools}", BROWSER="")
    assert code == 0 and len(calls) > 10
    assert said.splitlines()[-1] == "left out: tests/browser, which want a browser: install chromium"


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


def test_a_signal_ends_the_night_and_tells_what_failed_before(tmp_path: Path) -> None:
    process = started(tmp_path, "tests/data", "nightly", waits="tests/engine")
    child = int((tmp_path / "started").read_text())
    os.kill(process.pid, signal.SIGINT)
    code, calls, said = ended(tmp_path, process)
    assert code == 130 and not Path(f"/proc/{child}").exists() and "tests/engine" in calls[-1]
    assert told(said) == ["data"] and not (tmp_path / "state" / "engine").exists()
    assert list((tmp_path / "a place").iterdir()) == []


def test_a_room_that_is_not_there_is_told(tmp_path: Path) -> None:
    code, calls, said = run(tmp_path, "nothing fails", "nightly", "nowhere")
    assert (code, calls) == (2, []) and "no tests/nowhere; rooms: " in said and "tests/" in said


@pytest.mark.parametrize("asked", ["data", "data/", "root"])
def test_one_room_of_the_night(tmp_path: Path, asked: str) -> None:
    """Of `data/`, as the list of rooms and a shell's completion say it, the mark could not be made: the part passed and the night failed."""
    code, calls, said = run(tmp_path, "nothing fails", "nightly", asked)
    name = asked.rstrip("/")
    assert code == 0 and len(calls) == 1 and f"\n=== {name}: " in said and (tmp_path / "state" / name).is_file()
    assert calls[0].startswith("pytest -m nightly -n0 tests/" + ("test_" if asked == "root" else "data"))


@pytest.mark.parametrize("leg", ["newest", "floors", "python3.10", "python3.13"])
def test_one_leg_of_the_night(tmp_path: Path, leg: str) -> None:
    """Two of the four could not be asked for by name."""
    (tmp_path / leg).write_text(SAYS)
    (tmp_path / leg).chmod(0o755)
    _, calls, said = run(tmp_path, "-m venv", "nightly", leg)
    assert (
        ["-m venv" in call for call in calls].count(True) == 1
        and "-m venv" in calls[-1]
        and told(said) == [f"{leg}: bash"]
    )


def test_a_python_of_which_only_the_shim_is_there_is_looked_for_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "python3.10").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "python3.10").chmod(0o755)
    _, _, said = run(tmp_path, "nothing fails", "nightly", "python3.10")
    assert said.splitlines() == ["=== python3.10: no such Python here, left out"]
    there = tmp_path / ".pyenv/versions/3.10.2/bin/python"
    there.parent.mkdir(parents=True)
    there.write_text(SAYS)
    there.chmod(0o755)
    _, calls, _ = run(tmp_path, "-m venv", "nightly", "python3.10")
    assert calls[0].startswith("python -c") and calls[1].startswith("python -m venv")


@pytest.mark.parametrize("command", [("nightly", "--help"), ("coverage", "--help"), ("coverage",)])
def test_commands_say_how_they_are_called(tmp_path: Path, command: tuple[str, ...]) -> None:
    """`--help` was taken for a room; without a folder there was a message of the shell's."""
    code, calls, said = run(tmp_path, "nothing fails", *command)
    assert (code, calls) == (2, []) and f".ci/{command[0]} " in said.splitlines()[0]
