"""The commands as a user runs them: installed, in processes of their own, each in an empty directory."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from facenet.backbones.embedder import FaceNet
from facenet.backbones.mobilenet_v1 import MobileNetV1
from facenet.commands.composed import end_with, resumed, without_secrets
from facenet.commands.mistakes import first_value
from facenet.engine import checkpoint
from facenet.errors import UserError
from facenet.privacy import addresses
from facenet.sweeps.command import Command
from facenet.sweeps.state import write_command

BIN = Path(sys.executable).parent
DRAWN = ["data.num_identities=12", "data.images_per_identity=6", "data.image_size=32", "data.batch_size=12"]
QUIET = ["benchmark=none", "tracking=none", "trainer.max_steps=2"]
FOLDER = ["facenet-train", "data=folder", "data.image_size=32", "data.batch_size=3", *QUIET]
LIST = ["facenet-train", "data=annotation", "data.image_size=32", "data.batch_size=6", *QUIET]
EVALUATE = ["facenet-evaluate", "benchmark.root={inputs}/people", "benchmark.pairs={inputs}/pairs.txt", "tracking=none"]
HYDRA_NOTES = {"cli.log", "config.yaml", "hydra.yaml", "overrides.yaml", "multirun.yaml"}
RANK_NOTES = {"tracking.json", "metrics.jsonl", ".lock", "resolved.yaml", "split.json", "train.log", "failure-0.json"}


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str
    directory: Path

    def files(self) -> set[str]:
        """Names of what lies in the directory, without what Hydra notes of every command."""
        return {path.name for path in self.directory.rglob("*") if path.is_file()} - HYDRA_NOTES


def run(directory: Path, *command: str, python: tuple[str, ...] = ()) -> Ran:
    ours = ("FACENET_CACHE", "FACENET_TEST_PROCESS")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in ours or not name.startswith(("MLFLOW_", "FACENET_"))
    }
    arguments = [*python, str(BIN / command[0]), *command[1:]]
    done = subprocess.run(arguments, cwd=directory, env=environment, capture_output=True, text=True, timeout=600)
    return Ran(done.returncode, done.stdout, done.stderr, directory)


# What is wrong: the command, the whole of stderr or its beginning, and what the command may leave behind.
REFUSED: dict[str, tuple[list[str], str, set[str]]] = {
    "typos and types": (
        ["facenet-train", "optimizer=sgd", "optimizer.momentom=1", "trainer.epochs=abc", "sed=1", "trainer.keeep=1"],
        "config: 4 problems\n"
        "  optimizer.momentom: torch.optim.SGD has no parameter 'momentom'; write optimizer.momentum=1\n"
        "  trainer.epochs: expected int, got 'abc'\n"
        "  trainer.keeep: facenet.engine.Settings has no parameter 'keeep'; write trainer.keep=1\n"
        "  sed: this command has no parameter 'sed'; write seed=1\n",
        set(),
    ),
    "unknown choices": (
        ["facenet-train", "data=foldr", "data.root=x", "loss=", "benchmark=null", "benchmark/protocol=x", "seed=x"],
        "config: 5 problems\n"
        "  benchmark: no choice 'null' among bin, heldout, lfw, none; did you mean 'none'?\n"
        "  benchmark/protocol: no choice 'x' among flip, flip_mean, plain, reference\n"
        "  data: no choice 'foldr' among annotation, folder, record, shards, synthetic; did you mean 'folder'?\n"
        "  loss: no choice '' among arcface, arcface_sharded, ce, ce_sharded, cosface, cosface_sharded, cosface_triplet, "
        "triplet, triplet_all, triplet_ce, triplet_distance_weighted, triplet_hard, triplet_semi_hard\n"
        "  seed: expected int, got 'x'\n",
        set(),
    ),
    "missing value": (
        ["facenet-train", "data=folder", "benchmark=lfw", "~optimizer"],
        "config: 3 problems\n"
        "  data.root: needs a value; set data.root=...\n"
        "  benchmark.root: needs a value; set benchmark.root=...; without LFW, benchmark=heldout tests on people of your own data, "
        "benchmark=bin on a file\n"
        "  optimizer: this command needs it; set optimizer=...\n",
        set(),
    ),
    "no override": (
        ["facenet-train", "optimizer.lr=["],
        "optimizer.lr=[: its [ is not closed; write 'optimizer.lr=[]'\n",
        set(),
    ),
    "in a sweep": (
        ["facenet-train", "-m", "optimizer.lr=abc,1e-3x", *DRAWN, *QUIET],
        "config: 1 problem\n  optimizer.lr: expected float or Tensor, got 'abc'\n",
        {".lock", "sweep.json", "plan.csv", "plan.txt"},
    ),
    "batch size": (
        ["facenet-train", "data.batch_size=47", *QUIET],
        "data.batch_size=47: must be a multiple of 3 (1 process(es) x trainer.accumulate=1 x 3 for triplet batches); "
        "the nearest valid values are 45 or 48\n",
        set(),
    ),
    "empty folder": ([*FOLDER, "data.root={inputs}/empty"], "data.root: {inputs}/empty: no images; expected ", set()),
    "no list": (
        [*LIST, "data.list={inputs}/nowhere.txt"],
        "data.list: {inputs}/nowhere.txt cannot be read (No such file or directory); write one with: facenet-data annotate ",
        set(),
    ),
    "wrong line of a list": (
        [*LIST, "data.list={inputs}/wrong.txt"],
        "{inputs}/wrong.txt:3: expected <label>;<path> with a label of 0 or more, got 'three people/x.png'; it seems to be "
        "a path without label: write the label and ; before each path\n",
        set(),
    ),
    "wrong line of pairs": (
        ["facenet-train", *DRAWN, "tracking=none", "benchmark=lfw", "benchmark.root={inputs}", "benchmark.pairs={inputs}/pairs_wrong.txt"],
        "{inputs}/pairs_wrong.txt, line 3: image numbers must be whole numbers, got 'cy 1 two'\n",
        set(),
    ),
    "unwritable": (
        ["facenet-train", *DRAWN, *QUIET, "hydra.run.dir={inputs}/file/run"],
        "hydra.run.dir: {inputs}/file/run: Not a directory; choose another with hydra.run.dir=DIR\n",
        set(),
    ),
    "tracking server": (
        ["facenet-train", *DRAWN, "benchmark=none", "tracking.uri=http://127.0.0.1:9"],
        "tracking: MLflow at http://127.0.0.1:9 cannot be used (it does not answer); ",
        {".lock", "resolved.yaml"},
    ),
    "corrupt checkpoint": (
        [*EVALUATE, "checkpoint={inputs}/corrupt.pt"],
        "checkpoint={inputs}/corrupt.pt: damaged, or no checkpoint (",
        set(),
    ),
    "checkpoint of another backbone": (
        [*EVALUATE, "checkpoint={inputs}/other.pt"],
        "checkpoint={inputs}/other.pt: its weights do not fit its own network (",
        set(),
    ),
    "hostile checkpoint": (
        [*EVALUATE, "checkpoint={inputs}/hostile.pt"],
        "trunk._target_: 'os.system' may not be built from a config; ",
        set(),
    ),
    "weights of another backbone": (
        [*EVALUATE, "weights={inputs}/mobilenet.pth", "backbone=inception_resnet_v1"],
        "weights: {inputs}/mobilenet.pth does not fill this network: ",
        set(),
    ),
    "annotate an empty folder": (
        ["facenet-data", "annotate", "{inputs}/empty", "--out", "list.txt"],
        "{inputs}/empty: no images; expected ",
        set(),
    ),
    "annotate what is no image": (
        ["facenet-data", "annotate", "{inputs}/texts", "--out", "list.txt"],
        "{inputs}/texts: no images (12 .txt); expected ",
        set(),
    ),
    "annotate one identity": (
        ["facenet-data", "annotate", "{inputs}/hermit", "--out", "list.txt"],
        "{inputs}/hermit: only one identity has images (ann), at least two are needed; ",
        set(),
    ),
    "annotate into a file": (
        ["facenet-data", "annotate", "{inputs}/people", "--out", "{inputs}/file/list.txt"],
        "{inputs}/file/list.txt: cannot be written (",
        set(),
    ),
}  # fmt: skip
# Found only when a rank reads files: stderr begins with the rank's log.
REFUSED_BY_A_RANK = {
    "one image per identity": (
        [*FOLDER, "data.root={inputs}/single"],
        "sampler=triplet: no identity has two images, so there is no positive; ",
    ),
    "unreadable images": (
        [*FOLDER, "data.root={inputs}/broken"],
        "data: ",
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad folders, lists, pairs and weights."""
    root = tmp_path_factory.mktemp("inputs")
    make_folders(root)
    make_lists(root)
    make_weights(root)
    (root / "file").write_text("a file, not a folder")
    return root


def make_folders(root: Path) -> None:
    (root / "empty").mkdir()
    for person in ("ann lee", "bo;b", "cy"):
        for number in range(1, 7):
            draw(root / "people" / person / f"{person}_{number:04d}.png")
        draw(root / "single" / person / "only.png")
    (root / "people" / "cy" / "notes.txt").write_text("no face")
    (root / "people" / "README").write_text("no identity")
    for number in range(6):
        draw(root / "hermit" / "ann" / f"{number}.png")
        for person in ("ann", "bob"):
            write(root / "broken" / person / f"{number}.jpg", b"\xff\xd8\xff cut short")
            write(root / "texts" / person / f"{number}.txt", b"no face")


def make_lists(root: Path) -> None:
    people = enumerate(("ann lee", "bo;b", "cy"))
    lines = [f"{5 * label};people/{name}/{name}_{number:04d}.png" for label, name in people for number in range(1, 7)]
    (root / "gaps.txt").write_text("\n".join(lines) + "\n")
    (root / "wrong.txt").write_text("\n".join([*lines[:2], "three people/x.png"]) + "\n")
    (root / "pairs.txt").write_text("2 1\nann lee\t1\t2\nann lee\t1\tcy\t1\ncy\t1\t3\nann lee\t2\tcy\t2\n")
    (root / "pairs_wrong.txt").write_text("2 1\ncy 1 2\ncy 1 two\n")
    (root / "pairs_absent.txt").write_text("2 1\ncy\t1\t2\ncy\t1\tdan\t1\ncy\t1\t3\ncy\t2\tdan\t2\n")


def make_weights(root: Path) -> None:
    weights = FaceNet(trunk=MobileNetV1(init="kaiming"), embedding_size=128, dropout=0.0).state_dict()
    torch.save(weights, root / "mobilenet.pth")
    (root / "corrupt.pt").write_bytes((root / "mobilenet.pth").read_bytes()[:5000])
    conf = yaml.safe_load(run(root, "facenet-train", "--cfg", "job", "backbone=inception_resnet_v1", "--resolve").out)
    content = {"config": conf, "identities": [], "embedder": weights, "loss": {}, "epoch": 1, "step": 1, "metrics": {}}
    checkpoint.save(content, root / "other.pt")
    conf["backbone"]["trunk"] = {"_target_": "os.system", "command": f"touch {root}/was_here"}
    checkpoint.save(content, root / "hostile.pt")


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(zlib.crc32(path.name.encode()))
    Image.fromarray(noise.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(path)


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_one_message(name: str, inputs: Path, tmp_path: Path):
    command, message, left = REFUSED[name]
    ran = run(tmp_path, *(part.format(inputs=inputs) for part in command))
    assert ran.code == 2, ran.err
    message = message.format(inputs=inputs)
    assert message in ran.err if name in ("in a sweep", "hostile checkpoint") else ran.err.startswith(message)
    assert "Traceback" not in ran.out + ran.err
    assert ran.err.count("\n") == max(1, message.count("\n")) or name in ("in a sweep", "no override"), ran.err
    assert ran.files() <= left
    assert not (inputs / "was_here").exists()


@pytest.mark.parametrize("name", REFUSED_BY_A_RANK)
def test_bad_input_that_a_rank_finds_is_refused_in_one_message(name: str, inputs: Path, tmp_path: Path):
    command, message = REFUSED_BY_A_RANK[name]
    ran = run(tmp_path, *(part.format(inputs=inputs) for part in command))
    assert ran.code == 2, ran.err
    *log, last = ran.err.splitlines()
    assert last.startswith(message)
    assert (
        "of 12 images cannot be read, more than data.max_unreadable=0.01 allows; " in last
        or name != "unreadable images"
    )
    assert "Traceback" not in ran.out + ran.err
    assert all(line[9:].startswith(("INFO ", "WARNING ")) for line in log), log
    assert ran.files() <= RANK_NOTES


def test_a_list_with_gaps_blanks_and_semicolons_trains(inputs: Path, tmp_path: Path):
    sampler = ["sampler=identity", "sampler.images_per_identity=3"]
    ran = run(tmp_path, *LIST, f"data.list={inputs}/gaps.txt", *sampler, "hydra.run.dir=here")
    assert ran.code == 0, ran.err
    told = f"{inputs}/gaps.txt: 8 of 11 labels have no image; labels renumbered to 0..2"
    assert (ran.out + ran.err).count(told) == 1 and told in (tmp_path / "here" / "train.log").read_text()
    assert "18 images of 3 identities" in ran.out and f"checkpoint  {tmp_path}/here/checkpoints/best.pt" in ran.out
    content = checkpoint.load(tmp_path / "here" / "checkpoints" / "best.pt")
    assert content["identities"] == ["ann lee", "bo;b", "cy"] and content["step"] == 2
    assert "mlflow.db" not in ran.files()


def test_annotate_counts_what_is_no_image_and_writes_the_same_twice(inputs: Path, tmp_path: Path):
    first, second = (run(tmp_path, "facenet-data", "annotate", f"{inputs}/people", "--out", out) for out in "ab")
    assert first.code == 0, first.err
    assert first.out == "a: 18 images of 3 identities; left out: 1 .txt, 1 other\n"
    assert second.code == 0 and (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    lines = (tmp_path / "a").read_text().splitlines()
    assert (
        lines[0] == f"0;{inputs}/people/ann lee/ann lee_0001.png" and lines[-1] == f"2;{inputs}/people/cy/cy_0006.png"
    )


FLAG_COMMANDS = ("facenet-data", "facenet-doctor", "facenet-compare-loss", "facenet-runs", "facenet-report")


@pytest.mark.parametrize("command", ["facenet-train", "facenet-evaluate", *FLAG_COMMANDS])
def test_help_is_there_before_torch_and_mlflow(command: str, tmp_path: Path):
    ran = run(tmp_path, command, "--help", python=(sys.executable, "-X", "importtime"))
    assert ran.code == 0
    imported = {line.rsplit("|", 1)[-1].strip() for line in ran.err.splitlines() if line.startswith("import time:")}
    assert ("facenet.commands.flags" if command in FLAG_COMMANDS else "facenet.commands.help_text") in imported
    assert not imported & {"torch", "mlflow", "numpy", "albumentations", "matplotlib", "hydra", "omegaconf"}
    if command not in FLAG_COMMANDS:
        examples = ran.out.split("Examples\n")[1].splitlines()
        assert all(line.startswith(f"  {command}") for line in examples if line.strip()) and len(examples) >= 3
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["facenet-train", "facenet-evaluate"])
def test_the_config_is_shown_from_any_directory(command: str, tmp_path: Path):
    ran = run(tmp_path, command, "--cfg", "job", "backbone=mobilefacenet", "data.image_size=112")
    assert ran.code == 0, ran.err
    shown = yaml.safe_load(ran.out)
    assert shown["backbone"]["_target_"] == "facenet.backbones.MobileFaceNet"
    assert shown["data"]["image_size"] == 112
    assert not any(tmp_path.iterdir())


def test_a_users_own_presets_are_found(tmp_path: Path):
    write(tmp_path / "experiments" / "preset" / "mine.yaml", b"# @package _global_\noptimizer: {lr: 0.5}\nseed: 7\n")
    ran = run(tmp_path, "facenet-train", "--cfg", "job", "preset=mine", "seed=8")
    assert ran.code == 0, ran.err
    shown = yaml.safe_load(ran.out)
    assert shown["optimizer"]["lr"] == 0.5 and shown["seed"] == 8  # the command line has the last word


def test_a_resumed_sweep_is_its_command_with_what_is_said_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    arguments = ["-m", "optimizer.lr=1,2", "sweep.jobs_per_node=1", "hydra.sweep.dir=elsewhere"]
    write_command(tmp_path / "old", arguments)
    told = resumed(["sweep.resume=old", "sweep.jobs_per_node=2", "tracking=none"])
    here = f"hydra.sweep.dir={tmp_path / 'old'}"
    assert told == ["-m", "optimizer.lr=1,2", "sweep.jobs_per_node=2", "tracking=none", here]
    write_command(tmp_path / "old", [*arguments[1:], "-m"])  # argparse would not take an override behind it
    assert resumed(["sweep.resume=old", "sweep.jobs_per_node=2", "tracking=none"]) == told
    assert resumed(["-m", "seed=1"]) == ["-m", "seed=1"]
    with pytest.raises(UserError, match="sweep.resume=new: no sweep began there; name the directory of one"):
        resumed(["sweep.resume=new"])
    with pytest.raises(UserError, match="name the directory of one; did you mean 'old'?"):
        resumed(["sweep.resume=oldd"])


def test_a_mistake_that_shows_at_the_end_of_a_sweep_is_told_as_one(capsys):
    """Not as a traceback behind hours of jobs: the directory of one that was finished before names a store that is not known here."""

    class Session:
        outcomes: ClassVar[dict[int, int]] = {0: 0}

        def close(self) -> int:
            raise UserError("sweep/0: names the store sqlite:////gone/mlflow.db")

    with pytest.raises(SystemExit, match="2"):
        end_with(Command(Session()))
    assert capsys.readouterr().err.strip() == "sweep/0: names the store sqlite:////gone/mlflow.db"


def test_an_address_with_a_password_goes_into_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(addresses.VARIABLE, "[]")
    plain = ["seed=1", "tracking.uri=http://host:5000", "optimizer.lr=1e-3"]
    assert without_secrets(plain) == plain and os.environ[addresses.VARIABLE] == "[]"
    secret = "postgresql://me:hunter2@host/db"
    for given in (f"tracking.uri={secret}", f"++tracking.uri='{secret}'"):
        assert without_secrets(["seed=1", given]) == ["seed=1", given.replace("me:hunter2", "***")]
        assert addresses.restore_secrets("postgresql://***@host/db") == secret
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI for them"):
        without_secrets(["hydra/launcher=ray_cluster", f"tracking.uri={secret}"])


@pytest.mark.parametrize(
    ("override", "first"),
    [
        *[("a.b=1,2", "a.b=1"), ("a=[1,2],[3]", "a=[1,2]"), ("a=range(1,4)", "a=1"), ("a=choice(x,y)", "a=x")],
        *[("a='x,y'", "a='x,y'"), ("a=interval(0,1)", "a=interval(0,1)"), ("a=(", "a=("), ("a=1", "a=1")],
    ],
)
def test_a_swept_key_is_checked_by_the_first_of_its_values(override, first):
    """`-m benchmark.pairs=1,2` was told to write +benchmark.pairs, and that then to leave it."""
    assert first_value(override) == first
