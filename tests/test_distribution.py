"""What is shipped: the wheel is built from a copy of the sources, installed beside the checkout, and run from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PRESET = "# @package _global_\nseed: 5\n"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "setup.cfg").is_file(), reason="the tests lie outside a source tree"),
]


def run(directory: Path, *command: str, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, **environment}, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that the build leaves nothing in the checkout; with one preset more."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    for name in ("facenet", "hydra_plugins", "conf", "experiments", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "experiments" / "preset" / "of_this_test.yaml").parent.mkdir(exist_ok=True)
    (copy / "experiments" / "preset" / "of_this_test.yaml").write_text(PRESET)
    return copy


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(sources, tmp_path_factory.mktemp("wheel"))


def build(sources: Path, out: Path) -> Path:
    offline = ["--no-build-isolation"] if importlib.util.find_spec("setuptools") else []
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--wheel-dir", str(out), *offline]
    run(sources, *command, SOURCE_DATE_EPOCH="1764374400")
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that comes first on the path; what it needs is found in the environment of the tests."""
    target = tmp_path_factory.mktemp("installed")
    run(target, sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    return target


def test_the_wheel_holds_all_code_and_yaml_and_nothing_else(wheel: Path, sources: Path):
    folders = {"facenet": ("facenet", "*.py*"), "conf": ("facenet/conf", "*.yaml")}
    folders |= {"hydra_plugins": ("hydra_plugins", "*.py")}
    folders |= {f"experiments/{name}": (f"facenet/experiments/{name}", "*.yaml") for name in ("preset", "sweep")}
    expected = {
        f"{home}/{file.relative_to(sources / folder).as_posix()}"
        for folder, (home, pattern) in folders.items()
        for file in (sources / folder).rglob(pattern)
        if file.suffix != ".pyc" and file.is_file()
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected |= {f"facenet/reports/page.{kind}" for kind in ("css", "html", "js")} | {
        "facenet/py.typed",
        "facenet/commands/completion.sh",
        "facenet/config/near.yaml",
        "facenet/tools/project.txt",
    }
    assert packed == expected | {"facenet/conf/__init__.py", "facenet/experiments/__init__.py"}


def test_the_wheel_built_twice_is_the_same_bytes(wheel: Path, sources: Path, tmp_path: Path):
    again = shutil.copytree(sources, tmp_path / "again", ignore=shutil.ignore_patterns("build", "*.egg-info", "tests"))
    for file in again.rglob("*.py"):
        os.utime(file, (1, 1))
    assert build(again, tmp_path).read_bytes() == wheel.read_bytes()


def test_the_wheel_names_its_commands_and_requirements(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    notes = {name.split("/")[-1]: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    commands = {"train": "front", "evaluate": "front", "data": "flags", "report": "flags", "runs": "flags"}
    for command, module in commands.items():
        assert f"facenet-{command} = facenet.commands.{module}:{command}\n" in notes["entry_points.txt"]
    assert "facenet = facenet.commands.front:facenet\n" in notes["entry_points.txt"]
    assert "Requires-Python: >=3.10\n" in notes["METADATA"]
    required = [
        line for line in notes["METADATA"].splitlines() if line.startswith("Requires-Dist:") and "extra" not in line
    ]
    names = {line.split()[1].split(">")[0].split("<")[0] for line in required}
    assert "torch" in names and not names & {"torchvision", "torch_sdaa", "torch-sdaa", "scipy", "pytest"}


def test_an_installation_shows_its_config_and_presets_from_anywhere(installed: Path, tmp_path: Path):
    train = [sys.executable, str(installed / "bin" / "facenet-train")]
    where = run(
        tmp_path, sys.executable, "-c", "import facenet.conf; print(facenet.conf.__file__)", PYTHONPATH=str(installed)
    )
    assert where.strip() == str(installed / "facenet" / "conf" / "__init__.py")
    shown = yaml.safe_load(run(tmp_path, *train, "--cfg", "job", "preset=of_this_test", PYTHONPATH=str(installed)))
    assert shown["seed"] == 5 and shown["backbone"]["_target_"] == "facenet.backbones.FaceNet"
    assert not any(tmp_path.iterdir())


def test_an_installation_trains_from_anywhere(installed: Path, tmp_path: Path):
    tiny = ["data.num_identities=12", "data.images_per_identity=6", "data.image_size=32", "data.batch_size=12"]
    tiny.append("backbone.trunk.width=0.25")
    quiet = ["trainer.max_steps=2", "benchmark=none", "tracking=none", "hydra.run.dir=here"]
    command = [sys.executable, "-c", "from facenet.commands.composed import train; train()", *tiny, *quiet]
    out = run(tmp_path, *command, PYTHONPATH=str(installed), OMP_NUM_THREADS="1")
    assert f"checkpoint  {tmp_path}/here/checkpoints/best.pt" in out
    assert (tmp_path / "here" / "checkpoints" / "best.pt").is_file()


def test_an_installation_sweeps_by_its_own_preset_from_anywhere(installed: Path, tmp_path: Path):
    tiny = ["data.num_identities=12", "data.images_per_identity=12", "data.image_size=32", "data.val_identities=0.34"]
    quiet = ["benchmark=none", "tracking=none", "accelerator=cpu", "trainer.max_steps=1", "hydra.sweep.dir=here"]
    command = [
        sys.executable,
        "-c",
        "from facenet.commands.composed import train; train()",
        "sweep=lr_batch",
        *tiny,
        *quiet,
    ]
    environment = {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    planned = run(tmp_path, *command, "sweep.dry_run=true", **environment)
    assert [line.split()[:4] for line in planned.splitlines()[2:8]] == [
        [str(job), "new", lr, size]
        for job, (lr, size) in enumerate((lr, size) for lr in ("0.0001", "0.0003", "0.001") for size in ("30", "96"))
    ]
    pinned = run(tmp_path, *command, "optimizer.lr=1e-3", "data.batch_size=12", **environment)
    assert pinned.count(": finished, ") == 1
    assert (tmp_path / "here" / "0" / "result.json").is_file() and not (tmp_path / "here" / "1").exists()
