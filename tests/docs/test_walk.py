"""README's blocks, run as they are written, in one folder, one after the other; sizes alone are cut down by overrides behind them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jobs import BIN
from pages import ROOT, blocks
from PIL import Image

import facenet
from facenet.data import transforms
from facenet.data.drawn.synthetic import SyntheticFaces

assert transforms  # torch and albumentations are imported here, so that no test is the one that does it
pytestmark = pytest.mark.slow
SMALL = (
    *("data.image_size=32", "data.batch_size=12", "data.num_workers=1", "trainer.max_steps=2", "accelerator=cpu"),
    *("backbone.trunk.width=0.25", "backbone.trunk.init=kaiming", "tracking.system_metrics=false"),
)
HELDOUT = ("data.val_identities=0.34", "benchmark.num_pairs=60", "benchmark.num_folds=3")
DRAWN = ("data.num_identities=12", "data.images_per_identity=8", *HELDOUT)


def written(root: Path, *, seed: int, name: str) -> None:
    """12 identities x 8 images as root/<identity>/<identity>_0001.jpg"""
    faces = SyntheticFaces(num_identities=12, images_per_identity=8, size=32, seed=seed)
    for index in range(len(faces)):
        person, image = divmod(index, 8)
        path = root / f"{name}_{person}" / f"{name}_{person}_{image + 1:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.load(index)).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEOPLE, LFW with pairs.txt of 10 folds, anna.jpg and berta.png."""
    folder, rng = tmp_path_factory.mktemp("walk"), np.random.default_rng(0)
    written(folder / "PEOPLE", seed=1, name="anna")
    written(folder / "LFW", seed=2, name="berta")
    lines = ["10\t2"]
    for _ in range(10):
        lines += [f"berta_{person}\t1\t2" for person in rng.choice(12, 2, replace=False)]
        lines += [
            f"berta_{one}\t3\tberta_{other}\t4" for one, other in (rng.choice(12, 2, replace=False) for _ in "ab")
        ]
    (folder / "LFW" / "pairs.txt").write_text("\n".join(lines) + "\n")
    Image.open(folder / "PEOPLE/anna_0/anna_0_0001.jpg").save(folder / "anna.jpg")
    Image.open(folder / "PEOPLE/anna_1/anna_1_0001.jpg").save(folder / "berta.png")
    return folder


def cut_down(words: list[str]) -> list[str]:
    """The command with small sizes behind it, where it does not sweep them; README's sweep of six jobs ends with its table."""
    if words[0] != "facenet-train":
        return words
    given = {word.partition("=")[0] for word in words}
    small = [*SMALL, *(HELDOUT if "data.root" in given else DRAWN)]
    if "data.batch_size" in given:
        return [*words, *(each for each in small if not each.startswith("data.batch_size")), "sweep.dry_run=true"]
    return [*words, *small]


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(BIN / words[0]), *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def walked(folder: Path) -> Path:
    """The folder after every command of README that starts with facenet-."""
    bash = [words for block in blocks("README.md") if block.language == "bash" for words in block.commands()]
    commands = [words for words in bash if words[0].startswith("facenet-")]
    (folder / "my_faces").mkdir()
    (folder / "my_faces/__init__.py").write_text(python_of("README.md")[0])
    for words in commands:
        done = run(cut_down(words), folder)
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return folder


def python_of(page: str) -> list[str]:
    return [block.text for block in blocks(page) if block.language == "python"]


def test_the_walk_of_the_front_page(walked: Path, monkeypatch: pytest.MonkeyPatch):
    assert (walked / "report-losses.html").is_file()
    loss, network = python_of("README.md")
    names: dict[str, object] = {}
    exec(loss, names)
    a_loss_works(names["Centre"])
    monkeypatch.chdir(walked)
    exec(network, names)
    assert len(names["rows"]) == 2  # type: ignore[arg-type]


def a_loss_works(kind: object) -> None:
    import torch

    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    value, figures = kind()(rows, rows, torch.tensor([0, 0, 1]))  # type: ignore[operator]
    assert float(value) == pytest.approx(1 / 3) and set(figures) == {
        "spread"
    }  # two rows, each 0.5 from their mean; one alone


def test_blocks_of_the_pages_in_python(walked: Path, monkeypatch: pytest.MonkeyPatch):
    """The library's, on the run that the walk left, and one of its own."""
    monkeypatch.chdir(walked)
    (text,) = python_of("docs/training.md")
    true = facenet.train
    small = [*SMALL, *HELDOUT, "trainer.epochs=1", "hydra.run.dir=outputs/library"]
    monkeypatch.setattr(facenet, "train", lambda overrides: true([*overrides, *small]), raising=False)
    (walked / "outputs/2026-01-31").mkdir(parents=True, exist_ok=True)
    (walked / "outputs/2026-01-31/12-00-00").symlink_to(walked / "runs/losses/0")
    exec(text, {})
    assert (walked / "outputs/library/result.json").is_file()


@pytest.mark.nightly
def test_data_commands_write_what_they_say(folder: Path):
    bash = [words for block in blocks("docs/data.md") if block.language == "bash" for words in block.commands()]
    for words in bash:
        if words[0] == "facenet-data" and "--weights" not in words:
            done = run(words, folder)
            assert done.returncode == 0, (words, done.stderr[-2000:])
    assert (
        (folder / "cls_train.txt").is_file()
        and (folder / "PACK/train.rec").is_file()
        and (folder / "SHARDS/index.npz").is_file()
    )


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/*.py")), ids=lambda path: path.stem)
def test_an_example_runs(example: Path, tmp_path: Path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert example.read_text().count("# %%") >= 4
