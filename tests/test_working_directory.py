"""A working directory that is somebody's: its modules, its settings of matplotlib, its repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from facenet.launch.local import module_command, safe_path
from facenet.tasks.origin import git_state

DRAWS = """
import os
from facenet.launch.surroundings import settle
settle()
import matplotlib
print(matplotlib.rcParams["text.usetex"], matplotlib.rcParams["lines.linewidth"], os.getcwd())
"""


def python(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONSAFEPATH", "PYTHONPATH")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env={**environment, **variables}, capture_output=True, text=True)


def test_matplotlib_is_set_by_the_user_and_not_by_the_working_directory(tmp_path: Path):
    theirs, own = tmp_path / "theirs", tmp_path / "own"
    for folder, text in ((theirs, "text.usetex: true\nlines.linewidth: 9\n"), (own, "lines.linewidth: 4\n")):
        folder.mkdir()
        (folder / "matplotlibrc").write_text(text)
    done = python("-c", DRAWS, cwd=theirs, MATPLOTLIBRC=str(own))
    assert done.stdout.split() == ["False", "4.0", str(theirs)], done.stderr


@pytest.mark.parametrize("module", ["facenet", "facenet.tools.replay"])
def test_a_command_that_python_m_starts_takes_no_module_from_the_working_directory(tmp_path: Path, module: str):
    theirs, own = tmp_path / "theirs", tmp_path / "own"
    for folder, text in ((theirs, "print('theirs')"), (own, "raise SystemExit('own')")):
        folder.mkdir()
        for name in ("torch", "hydra"):  # what is imported first
            (folder / f"{name}.py").write_text(text)
    done = python("-m", module, cwd=theirs, PYTHONPATH=str(own))
    assert (done.stdout, done.stderr) == ("", "own\n")


@pytest.mark.parametrize(("said", "kept"), [(":{own}", "{own}"), ("{own}::/none:", "{own}:/none"), (":", ""), ("", "")])
def test_an_empty_entry_of_the_path_is_not_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kept: str
):
    own = str(tmp_path)
    monkeypatch.setenv("PYTHONPATH", said.format(own=own))
    assert safe_path() == {"PYTHONPATH": kept.format(own=own), "PYTHONSAFEPATH": "1"}


def test_a_process_of_ours_takes_what_the_user_names_and_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "mine.py").write_text("import sys; print(*sys.path)")
    monkeypatch.setenv("PYTHONPATH", f":{tmp_path}:")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    done = python(*module_command("mine")[1:], cwd=theirs, **safe_path())
    assert str(tmp_path) in done.stdout.split() and str(theirs) not in done.stdout.split(), done.stderr


def test_what_is_merely_imported_changes_no_path():
    done = python(
        "-c", "import sys; before = sys.path[:]; import facenet.__main__; print(sys.path == before)", cwd=Path.cwd()
    )
    assert done.stdout == "True\n", done.stderr


def repository(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "file").write_text("one\n")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (["init", "-q"], ["add", "file"], [*author, "commit", "-q", "-m", "one"]):
        git(folder, *command)
    return folder


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


@pytest.mark.parametrize("name", ["line\nbreak", "separator\u2028\x0c", " spaces ", "not\udcffutf-8"])
def test_a_repository_of_any_name_is_known(tmp_path: Path, name: str):
    folder = repository(tmp_path / name)
    assert git_state(folder)["git.dirty"] == "false"
    (folder / "file").write_text("two\n")
    assert git_state(folder)["git.dirty"] == "true"


def test_a_file_system_without_modes_is_no_change(tmp_path: Path):
    folder = repository(tmp_path / "theirs")
    (folder / "file").chmod(0o755)
    assert git_state(folder)["git.dirty"] == "true"
    git(folder, "config", "core.fileMode", "false")
    assert git_state(folder)["git.dirty"] == "false"


def test_of_a_bare_repository_the_commit_is_known(tmp_path: Path):
    folder = repository(tmp_path / "theirs")
    git(tmp_path, "clone", "-q", "--bare", str(folder), "bare")
    assert git_state(tmp_path / "bare") == {"mlflow.source.git.commit": git_state(folder)["mlflow.source.git.commit"]}


def test_the_users_own_watcher_of_files_is_not_started_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program, config = tmp_path / "watcher", tmp_path / "config"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    program.chmod(0o755)
    config.write_text(f"[core]\n\tfsmonitor = {program}\n")
    folder = repository(tmp_path / "theirs")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    assert git_state(folder)["git.dirty"] == "false" and not (tmp_path / "ran").exists()
