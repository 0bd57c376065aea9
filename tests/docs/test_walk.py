"""README's blocks, run as they are written, in one folder, one after the other; sizes alone are cut down by overrides behind them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pages import ROOT, blocks
from walk import DRAWN, HELDOUT, SMALL, fill, run

import facenet
from facenet.data import transforms
from facenet.reports.ranking import Comparison, Ranking, Setting, verdict

assert transforms  # torch and albumentations are imported here, so that no test is the one that does it
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("walk"))


def cut_down(words: list[str]) -> list[str]:
    """The command with small sizes behind it, where it does not sweep them; README's sweep of six jobs ends with its table."""
    if words[0] != "facenet-train":
        return words
    given = {word.partition("=")[0] for word in words}
    small = [*SMALL, *(HELDOUT if "data.root" in given else DRAWN)]
    if "data.batch_size" in given:
        return [*words, *(each for each in small if not each.startswith("data.batch_size")), "sweep.dry_run=true"]
    return [*words, *small]


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
        with (folder / "said.txt").open("a") as said:
            said.write(done.stdout + done.stderr)
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


def unsaid(shown: str, said: str) -> list[str]:
    """Words of a shortened output that no command said: what begins its lines, and names of figures."""
    begun = [re.match(r"\s*([a-z][a-z ]*?)(?=  |:|$)", line) for line in shown.splitlines()]
    words = [match[1] for match in begun if match] + re.findall(r"\b[a-z]+/[a-z]+\b(?= 0\.)", shown)
    return [
        word
        for word in words
        if not re.search(rf"^\s*{word}\b" if " " in word else rf"(?<!\w){word}\b", said, re.MULTILINE)
    ]


def test_what_the_front_page_shows_is_what_is_said(walked: Path):
    said = (walked / "said.txt").read_text()
    run, ranking, _ = (block.text for block in blocks("README.md") if not block.language)
    assert unsaid(run, said) == [] and "beside others" in run
    _, header, *_, answer, p = ranking.splitlines()
    assert [word for word in ("rank", "to the best", "p") if word not in header.split("  ")] == []
    assert re.search(r"\n  rank  .*  to the best  p\n", said)
    best, second = (
        Setting({"optimizer.lr": "0.003", "data.batch_size": batch}, (), place, mean, None, ())
        for place, (batch, mean) in enumerate({"30": 0.8055, "90": 0.7185}.items(), start=1)
    )
    study = SimpleNamespace(metric="heldout/accuracy", lower_is_better=False)
    told = verdict(Ranking(study, (best, second), (None, Comparison(0.087, 10, 0.0098, False)), ()))  # type: ignore[arg-type]
    assert f"{answer} {p.strip()}".replace("...", second.label) == told
    assert unsaid("plan\n  steps_of_all  3\nsee the page: x", "plan\n  steps  3\n") == ["see the page"]


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


def commands_of(page: str, *programs: str) -> list[list[str]]:
    """Those of a page that begin with one of these words."""
    bash = [words for block in blocks(page) if block.language == "bash" for words in block.commands()]
    found = [words for words in bash if words[0] in programs]
    assert found, f"{page} has no {' or '.join(programs)}"
    return found


def test_data_commands_write_what_they_say(folder: Path):
    for words in commands_of("docs/data.md", "facenet-data"):
        if "--weights" not in words:  # a network made elsewhere: test_every_block.py
            done = run(words, folder)
            assert done.returncode == 0, (words, done.stderr[-2000:])
    assert (
        (folder / "cls_train.txt").is_file()
        and (folder / "PACK/train.rec").is_file()
        and (folder / "SHARDS/index.npz").is_file()
    )


def test_the_walk_s_runs_are_tested_and_read_as_the_pages_say(walked: Path, monkeypatch: pytest.MonkeyPatch):
    """The pages on evaluation and on MLflow; in this process."""
    monkeypatch.chdir(walked)
    (walked / "outputs/DATE").mkdir(parents=True, exist_ok=True)
    (walked / "outputs/DATE/TIME").symlink_to(walked / "runs/losses/0")
    for words in commands_of("docs/evaluation.md", "facenet-evaluate"):
        tested = facenet.evaluate([*words[1:], "accelerator=cpu"])
        assert ("lfw/accuracy" if "benchmark.root=LFW" in words else "heldout/accuracy") in tested.metrics
    for words in commands_of("docs/mlflow.md", "facenet-runs"):
        assert run(words, walked).returncode == 0
    (walked / "run").symlink_to(walked / "runs/losses/0")
    names: dict[str, object] = {}
    exec(next(block for block in python_of("docs/mlflow.md") if "metrics.jsonl" in block), names)
    assert "train/loss" in names["table"].columns  # type: ignore[attr-defined]
    exec(python_of("docs/api.md")[0], {})


LONG = ("compare_networks", "first_training")  # trainings of their own, 10 to 20 s of a processor each


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.nightly] if path.stem in LONG else [])
        for path in sorted(ROOT.glob("examples/*.py"))
    ],
)
def test_an_example_runs(example: Path, tmp_path: Path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert example.read_text().count("# %%") >= 4
