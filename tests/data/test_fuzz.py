"""A million inputs for the parsers of files from outside: FACENET_NIGHTLY=1 pytest tests/data/test_fuzz.py"""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.timeout(7200),
]
HARNESS = Path(__file__).parents[1] / "test_fuzz.py"
# A weight file is opened twice, as weights and as a checkpoint, and takes fifty times as long as a text.
INPUTS = {"annotation": 310_000, "pairs": 320_000, "log": 320_000, "index": 20_000, "set": 20_000, "weights": 10_000}
GUIDED = {"annotation": 20_000, "pairs": 20_000, "log": 20_000, "weights": 2_000}
SLOWEST_S = 10.0
TARGET = """
import atheris, logging, runpy, sys
with atheris.instrument_imports(include=["facenet"]):
    import facenet.backbones.weights, facenet.data.files.annotation, facenet.engine.checkpoint
    import facenet.tracking.dllogger, facenet.evaluation.benchmarks.pairs_file
from pathlib import Path
logging.disable()
harness, kind, place, *flags = sys.argv[1:]
feed = runpy.run_path(harness)["feed"]
atheris.Setup([sys.argv[0], *flags], lambda content: feed(kind, content, Path(place)))
atheris.Fuzz()
"""


def fast_dir(tmp_path: Path) -> Path:
    """In memory where there is such a folder: each input is a file."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        return tmp_path
    folder = memory / f"facenet-fuzz-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    return folder


def test_a_million_are_fed() -> None:
    assert sum(INPUTS.values()) >= 1_000_000


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.filterwarnings("ignore")
def test_damage_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    harness: dict[str, Any] = runpy.run_path(str(HARNESS))
    seed = int(os.environ.get("FACENET_FUZZ_SEED", "0"))
    draw, path, slowest, taken = random.Random(seed), fast_dir(tmp_path) / "x", 0.0, 0
    logging.disable()
    try:
        for number in range(INPUTS[kind]):
            content = harness["damaged"](kind, draw)
            started = time.monotonic()
            try:
                taken += harness["feed"](kind, content, path) > 0
            except BaseException:
                kept = tmp_path / f"{kind}-{number}"
                kept.write_bytes(content)
                print(f"input {number} of seed {seed}: {kept}")
                raise
            slowest = max(slowest, time.monotonic() - started)
    finally:
        logging.disable(logging.NOTSET)
    print(f"{kind}: {INPUTS[kind]:,} inputs, {taken:,} accepted, slowest {slowest:.3f} s")
    assert 0 < taken < INPUTS[kind]
    assert slowest < SLOWEST_S


@pytest.mark.parametrize("kind", GUIDED)
def test_guided_by_coverage(kind: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: pip install facenet[fuzz]")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(runpy.run_path(str(HARNESS))["SEEDS"][kind]):
        (corpus / str(number)).write_bytes(seed)
    flags = [f"-runs={GUIDED[kind]}", "-timeout=10", "-rss_limit_mb=4096", f"-artifact_prefix={tmp_path}/", str(corpus)]
    command = [sys.executable, "-c", TARGET, str(HARNESS), kind, str(fast_dir(tmp_path) / "x"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=3600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {GUIDED[kind]} runs" in done.stderr
