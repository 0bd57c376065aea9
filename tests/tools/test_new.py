"""facenet new: what it writes is a project that trains and whose tests pass, and nothing is overwritten."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from facenet.errors import UserError
from facenet.files.folders import partial_of
from facenet.losses import Term  # noqa: F401  torch, before a test's own state is looked at
from facenet.tools.new import run_new

WRITTEN = {
    "README.md",
    "my_faces/__init__.py",
    "my_faces/losses.py",
    "experiments/loss/compact.yaml",
    "experiments/preset/first.yaml",
    "tests/test_losses.py",
}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    told = run_new("my-faces")
    assert told.splitlines()[1:3] == ["  cd my-faces", "  facenet train preset=first trust=./my_faces"]
    return tmp_path / "my-faces"


def files_in(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_it_writes_a_package_with_the_name_of_the_directory(project):
    assert files_in(project) == WRITTEN
    assert not any("NAME" in path.read_text() for path in project.rglob("*") if path.is_file())
    assert "_target_: my_faces.losses.Compact" in (project / "experiments/loss/compact.yaml").read_text()


def test_its_tests_pass(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    namespace = {"__name__": "written"}
    exec(compile((project / "tests/test_losses.py").read_text(), "test_losses.py", "exec"), namespace)
    tests = [test for name, test in namespace.items() if name.startswith("test_")]
    for test in tests:
        test()
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_faces"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    assert len(tests) == 4


def test_nothing_is_overwritten(project):
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="my-faces: exists; choose another place or remove it"):
        run_new("my-faces")
    os.symlink("nowhere", "link")
    with pytest.raises(UserError, match="link/inner: cannot be written"):
        run_new("link/inner")
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["torch", "json", "numpy"])
def test_a_name_that_a_package_has_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{name}: there is a package {name} already; choose another name$"):
        run_new(name)
    with pytest.raises(UserError, match="^3: the package in it is called as the directory"):
        run_new("3")
    assert files_in(tmp_path) == set()


def test_what_an_interrupted_one_left_is_cleared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_new("faces")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    left = partial_of(tmp_path / "faces")
    assert left.is_dir()
    (left / ".facenet-is-writing").touch()
    run_new("faces")
    assert not left.exists() and (tmp_path / "faces" / "README.md").is_file()


@pytest.mark.slow
def test_the_written_project_trains(project):
    small = ["data.num_identities=12", "data.images_per_identity=6", "data.batch_size=12", "trainer.max_steps=2"]
    more = [
        "backbone.trunk.width=0.25",
        "benchmark=none",
        "tracking=none",
        "hydra.run.dir=run",
    ]
    command = [str(Path(sys.executable).parent / "facenet-train"), "preset=first", "trust=./my_faces", *small, *more]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads((project / "run" / "result.json").read_text())["metrics"]["train/compact/spread"] > 0


def test_what_to_do_next_can_be_typed(tmp_path):
    place = str(tmp_path / "it's new")
    assert shlex.split(run_new(place).splitlines()[1]) == ["cd", place]
