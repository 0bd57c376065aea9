"""Every command of the pages that one machine can run: at night, each page in a folder of its own on small faces.

By day README's run (test_walk.py), the pages' of data, evaluation and MLflow there too, extending's (tests/test_extending.py); pip, pytest and the
site's build are what .ci/run does itself, the wheel tests/test_distribution.py, servers tests/browser.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pages import Block, blocks, english
from PIL import Image
from walk import DRAWN, HELDOUT, SMALL, fill, run

from facenet.backbones import FaceNet, InceptionResNetV1, MobileFaceNet, MobileNetV1
from facenet.data import transforms

assert transforms  # albumentations is imported here, so that no test is the one that does it
BY_DAY = ("README.md", "docs/extending.md")
BLOCKS = [block for page in english() for block in blocks(page) if block.language == "bash" and not block.not_run]
PAGES = sorted({block.page for block in BLOCKS} - set(BY_DAY))
# Words of a command that stand for what only a reader has, or that reach another machine.
NOT_HERE = re.compile(r"HOST|--nnodes|^(pip|python3?|pytest|mlflow|sphinx-build|ruff|mypy|lint-imports|ray)$")
REFERENCE = ("preset=single_spa", "preset=single_card", "preset=reference_as_shipped")


def commands(block: Block) -> Iterator[list[str]]:
    """Those to run, without the dots that stand for more."""
    for words in block.commands():
        if not any(NOT_HERE.search(word) for word in words) and (
            words[0].startswith("facenet-") or words[0] == "torchrun"
        ):
            yield [word for word in words if word != "..."]


def swept(words: list[str]) -> set[str]:
    """Keys that take several values, which one behind them would replace."""
    found = {word.partition("=")[0] for word in words if re.search(r"=[^\[(]*,", word)}
    return found | ({"data.batch_size", "optimizer.lr"} if "sweep=lr_batch" in words else set())


def small(words: list[str]) -> list[str]:
    """The command with small sizes behind it."""
    joined = " ".join(words)
    if words[0] == "facenet-evaluate":
        return [*words, "accelerator=cpu"]
    if (words[0] not in ("facenet-train", "torchrun")) or "--help" in words or "--cfg" in words or "resume=" in joined:
        return words
    words = [word for word in words if not word.startswith("accelerator=")]
    extra = [*SMALL]
    if "inception" in joined or any(
        each in words for each in REFERENCE
    ):  # a network that is not narrowed, nor fed 32 pixels
        extra = [each for each in extra if "trunk" not in each and "image_size" not in each] + ["data.image_size=96"]
    if any(each in words for each in REFERENCE):
        extra.append("precision=fp32")
    own_data = re.search(r"\bdata=|data\.root=|data\.list=|preset=", joined)
    tested = re.search(r"benchmark=(?!heldout)|benchmark\.root=|preset=", joined)
    extra += [] if tested else HELDOUT if own_data else DRAWN
    extra += ["hydra.sweeper.n_trials=2"] if "sweep=optuna_lr" in words else []
    if "data.batch_size" in swept(words) and not own_data:  # up to 96 images
        extra = [each for each in extra if "images_per_identity" not in each] + ["data.images_per_identity=24"]
    return [*words, *(each for each in extra if each.partition("=")[0] not in swept(words))]


def weights(folder: Path) -> None:
    """Files under the names that the pages use, of networks that were never trained."""
    networks = {
        "facenet_mobilenet.pth": FaceNet(trunk=MobileNetV1()),
        "facenet_inception_resnetv1.pth": FaceNet(trunk=InceptionResNetV1()),
    }
    table = [[2, 64, 5, 2], [4, 128, 1, 2], [2, 128, 6, 1], [4, 128, 1, 2], [2, 128, 2, 1]]
    for name, size in (("arcface_mobilefacenet.pth", [112, 112]), ("068.ckpt", [112, 96])):
        networks[name] = MobileFaceNet(blocks=table, input_size=size)  # type: ignore[assignment]
    for name, network in networks.items():
        torch.save(network.state_dict(), folder / name)


def verification_set(path: Path) -> None:
    """60 pairs of small images, every other of one."""
    images = []
    for number in range(60):
        for shade in (number, number + number % 2):
            buffer = io.BytesIO()
            Image.new("RGB", (32, 32), (4 * shade, shade, 200 - 3 * shade)).save(buffer, "PNG")
            images.append(buffer.getvalue())
    path.write_bytes(pickle.dumps((images, [number % 2 == 0 for number in range(60)]), protocol=4))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces, lists, packs, weights, and what earlier commands of a reader left."""
    folder = fill(tmp_path_factory.mktemp("pages"))
    weights(folder)
    verification_set(folder / "agedb_30.bin")
    for words in (
        ["facenet-data", "annotate", "PEOPLE", "--out", "cls_train.txt"],
        ["facenet-data", "pack", "PEOPLE", "PACK"],
        ["facenet-data", "shard", "PEOPLE", "SHARDS"],
        ["facenet-train", *SMALL, *DRAWN, "trainer.epochs=1", "hydra.run.dir=outputs/DATE/TIME"],
        ["facenet-train", "-m", "optimizer.lr=1e-4,1e-3", *SMALL, *DRAWN, "hydra.sweep.dir=multirun/TIME"],
    ):
        done = run(words, folder)
        assert done.returncode == 0, (words, done.stderr[-2000:])
    shutil.copy(folder / "outputs/DATE/TIME/checkpoints/best.pt", folder / "FROM_SOMEBODY_ELSE.pt")
    return folder


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page: str, place: Path) -> None:
    for block in (block for block in BLOCKS if block.page == page):
        for words in commands(block):
            if "sweep=optuna_lr" in words and importlib.util.find_spec("optuna") is None:
                continue  # an extra
            for written in (word for word in words if word in ("PACK", "SHARDS") and words[0] == "facenet-data"):
                shutil.rmtree(place / written, ignore_errors=True)
            done = run(small(words), place)
            found = (
                {0, 1} if "audit" in words else {0}
            )  # 1: people of the test set, as a network that was never trained sees them
            assert done.returncode in found, (str(block), small(words), done.stdout[-2000:], done.stderr[-3000:])


def test_no_block_is_left_out_unsaid() -> None:
    """One that nothing here runs consists of what .ci/run, tests/test_distribution.py and tests/browser do."""
    others = {"pip", "python", "pytest", "sphinx-build", "mlflow", "ruff"}
    idle = [block for block in BLOCKS if block.page not in BY_DAY and not list(commands(block))]
    assert [str(block) for block in idle if not all(words[0] in others for words in block.commands())] == []
    assert len(idle) <= 6


def test_what_is_small_leaves_what_a_command_asks_for() -> None:
    assert small(["facenet-train", "-m", "data.batch_size=30,96"])[:2] == ["facenet-train", "-m"]
    assert "data.batch_size=12" not in small(["facenet-train", "-m", "data.batch_size=30,96"])
    assert "data.batch_size=12" in small(["facenet-train"]) and small(["facenet-train", "--help"]) == [
        "facenet-train",
        "--help",
    ]
    assert list(commands(Block("page", 1, "bash", "pip install .\nfacenet-train ... seed=1"))) == [
        ["facenet-train", "seed=1"]
    ]
