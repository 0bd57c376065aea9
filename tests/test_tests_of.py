"""`.ci/tests_of.py`: the tests of a module, by what names it and by what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cold  # it imports nothing that takes long; a warm parent is made in 6 s
ROOT = Path(__file__).parents[1]


def asked(*arguments: str, cwd: Path = ROOT) -> tuple[int, list[str], str]:
    command = [sys.executable, str(ROOT / ".ci" / "tests_of.py"), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize(
    ("module", "first", "among"),
    [
        ("losses/triplet.py", "losses/test_triplet.py", "losses/test_mix.py"),  # named by what the room offers
        ("errors.py", "backbones/test_contract.py", "test_fuzz.py"),
        ("engine/watch/signs.py", "engine/test_watch.py", "engine/test_watch.py"),
        ("files/pickled_names.py", "files/test_tensor_file.py", "tasks/test_untrusted.py"),  # no test names it
        ("tasks/worker.py", "commands/test_torchrun.py", "launch/test_local_private.py"),  # as the program of a process
    ],
)
def test_own_file_first_then_those_that_name_it_or_its_nearest_users(module: str, first: str, among: str) -> None:
    code, lines, _ = asked(f"facenet/{module}")
    assert code == 0 and lines[0] == f"tests/{first}" and f"tests/{among}" in lines
    assert len(lines) == len({*lines}) and all((ROOT / line).is_file() for line in lines)


def test_several_files_and_from_elsewhere() -> None:
    one, other = (asked(name)[1] for name in ("facenet/losses/triplet.py", "facenet/files/atomic.py"))
    code, both, _ = asked("triplet.py", "../files/atomic.py", cwd=ROOT / "facenet" / "losses")
    assert code == 0 and {*both} == {*one, *other}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["facenet/files/nothing.py"], "no module of facenet: facenet.files.nothing"),
        (["/nothing.py"], "no module of facenet: /nothing.py"),
        (["--coverage", "nowhere", "facenet/errors.py"], "no nowhere/data; `.ci/coverage nowhere TESTS` makes it"),
    ],
)
def test_what_is_not_there_is_told_in_a_line(arguments: list[str], said: str) -> None:
    code, lines, err = asked(*arguments)
    assert (code, lines) == (2, []) and err.splitlines()[-1] == f"tests_of.py: error: {said}"


def test_by_what_was_measured_the_quickest_first(tmp_path: Path) -> None:
    coverage = pytest.importorskip("coverage")
    data = coverage.CoverageData(basename=str(tmp_path / "data"))
    for test, arcs in (("tests/a.py::slow", [(-1, 7), (7, 8)]), ("tests/a.py::quick", [(-1, 7), (7, 9)])):
        data.set_context(test)
        data.add_arcs({str(ROOT / "facenet" / "errors.py"): arcs})
    data.write()
    notes = [{"test": "tests/a.py::slow", "call": 5.0}, {"test": "tests/a.py::quick", "call": 0.1}]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    for place, expected in (("", ["quick", "slow"]), (":7", ["quick", "slow"]), (":8", ["slow"]), (":9", ["quick"])):
        code, lines, err = asked("--coverage", str(tmp_path), f"facenet/errors.py{place}")
        assert (code, lines) == (0, [f"tests/a.py::{test}" for test in expected]), err
    code, _, err = asked("--coverage", str(tmp_path), "facenet/network.py")
    assert code == 2 and f"no test in {tmp_path} reaches facenet/network.py" in err
