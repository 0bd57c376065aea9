"""Fixtures over real faces. They live beside the checkout and never in it; where they are absent the tests that need them skip."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

# Before torch is imported, and for the processes that tests start: threads that spin on two shared cores cost ten times what they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(os.environ.get("FACENET_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not (SHARED / "lfw" / "pairs.txt").is_file():
        pytest.skip(f"no real faces at {SHARED}; set FACENET_TEST_DATA to the folder that holds lfw/ and train_faces/")
    return SHARED


def unpacked(target: Path, archives: list[Path]) -> Path:
    for archive in archives:
        with zipfile.ZipFile(archive) as file:
            file.extractall(target)
    return target


@pytest.fixture(scope="session")
def lfw_dir(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 7,701 images that the standard pairs name, as root/<identity>/<image>."""
    return unpacked(tmp_path_factory.mktemp("lfw"), [shared_data / "lfw" / "lfw_160_pairs.zip"])


@pytest.fixture(scope="session")
def train_faces_dir(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,827 images of 359 identities."""
    return unpacked(tmp_path_factory.mktemp("train_faces"), sorted((shared_data / "train_faces").glob("*.zip")))
