"""Files, names and addresses of strangers: nothing in them runs, leads out of its folder, or shows a password."""

from __future__ import annotations

import ast
import contextlib
import os
import pickle
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import facenet
from facenet.data.files.annotation import read_annotation
from facenet.data.source import AnnotationData
from facenet.engine import checkpoint as checkpoints
from facenet.errors import UserError
from facenet.evaluation.benchmarks.pairs_file import read_pairs
from facenet.privacy.addresses import mask
from facenet.tasks import resume
from facenet.tasks.evaluate import run_evaluation
from facenet.tasks.origin import origin
from facenet.tools.overlap import restore_network
from facenet.tracking.store import page

CODE = sorted(Path(facenet.__file__).parent.rglob("*.py"))


class Bomb:
    """Makes a folder when it is unpickled in full."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.fixture(params=["zip", "pickle"])
def bomb(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    path.parent.mkdir(parents=True)
    content = {"format": checkpoints.FORMAT, "version": checkpoints.VERSION, "config": Bomb(tmp_path / "exploded")}
    if request.param == "zip":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def entries(compose_evaluate: Callable[..., dict[str, Any]], path: Path) -> dict[str, Callable[[], object]]:
    where = {"run_dir": path.parent / "out", "overrides": []}
    return {
        "facenet-evaluate checkpoint=": lambda: run_evaluation(
            compose_evaluate(f"checkpoint={path}", "benchmark=none"), **where
        ),
        "facenet-evaluate weights=": lambda: run_evaluation(
            compose_evaluate(f"weights={path}", "benchmark=none"), **where
        ),
        "facenet-train resume=": lambda: resume.find(str(path), path.parent),
        "facenet-data audit --checkpoint": lambda: restore_network(str(path), None, "mobilenet_v1", "resize", 64),
        "facenet-data audit --weights": lambda: restore_network(None, str(path), "mobilenet_v1", "resize", 64),
    }


def test_a_pickle_bomb_is_refused_unexecuted_at_every_door(
    bomb: Path, tmp_path: Path, compose_evaluate: Callable[..., dict[str, Any]]
) -> None:
    for entry in entries(compose_evaluate, bomb).values():
        with pytest.raises(UserError, match=r"last\.pt") as refused:
            entry()
        assert "weights_only" not in str(refused.value)  # torch's advice to load it all the same
    assert resume.find("auto", bomb.parents[1]) is None  # passed over, and said
    assert not (tmp_path / "exploded").exists()
    with contextlib.suppress(RuntimeError):  # of torch, once the bomb has gone off
        torch.load(bomb, weights_only=False)
    assert (tmp_path / "exploded").exists()


@pytest.mark.slow
def test_a_pickle_bomb_is_refused_by_a_run_that_starts_from_it(tmp_path: Path, facenet_train: Any) -> None:
    torch.save({"state_dict": Bomb(tmp_path / "exploded")}, tmp_path / "w.pth")
    done = facenet_train(f"weights={tmp_path / 'w.pth'}")
    assert done.code == 2 and "damaged or holds more than tensors" in done.err and "Traceback" not in done.err
    assert not (tmp_path / "exploded").exists()


def cyclic() -> dict[str, Any]:
    config: dict[str, Any] = {"preprocess": None}
    config["backbone"] = config
    return config


@pytest.mark.parametrize(
    "backbone",
    [
        {"_target_": "os.system", "command": "true"},
        {"_target_": "facenet.launch.local.subprocess.Popen", "args": ["true"]},
        {"_target_": "torch.nn.Linear", "in_features": "x", "out_features": None},
        {"_target_": ["os", "system"]},
        {"_target_": "facenet.backbones.FaceNet", "trunk": 7},
        "${oc.env:HOME}",
        cyclic(),
        [[]],
    ],
    ids=str,
)
def test_the_config_of_a_checkpoint_builds_networks_only(tmp_path: Path, backbone: Any) -> None:
    config = {"backbone": backbone, "preprocess": {"_target_": "facenet.data.Preprocess", "size": [8, 8]}}
    content = {"config": config, "identities": [], "embedder": {}, "loss": {}, "epoch": 1, "step": 1, "metrics": {}}
    checkpoints.save(content, tmp_path / "c.pt")
    with pytest.raises(UserError):
        restore_network(str(tmp_path / "c.pt"), None, "", "", 8)


def test_weights_that_hold_themselves_end(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="a list or dict that holds itself"):
        restore_network(None, str(tmp_path / "w.pth"), "mobilenet_v1", "resize", 64)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for folder in (root / "a", root / "b", tmp_path / "other"):
        folder.mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(folder / "0.png")
    (root / "b" / "link.png").symlink_to(tmp_path / "other" / "0.png")
    return root


@pytest.mark.parametrize(
    ("second", "alone", "bounded"),
    [
        ("b/0.png", True, True),
        ("b/../b/0.png", True, True),
        ("../other/0.png", False, False),
        ("b/../../other/0.png", False, False),
        ("{root}/b/0.png", True, True),
        ("{root}/../other/0.png", True, False),  # absolute, as in the reference's lists
        ("b/link.png", True, False),
        ("/dev/zero", True, False),
    ],
)
def test_where_the_paths_of_a_list_may_lead(faces: Path, second: str, alone: bool, bounded: bool) -> None:
    (faces / "list.txt").write_text(f"0;a/0.png\n1;{second.format(root=faces)}\n")
    for allowed, within in ((alone, None), (bounded, str(faces))):
        if allowed:
            assert len(AnnotationData(list=str(faces / "list.txt"), within=within).open()) == 2
        else:
            with pytest.raises(UserError, match=r"data\.within"):
                AnnotationData(list=str(faces / "list.txt"), within=within).open()


def test_a_bound_may_be_wider_than_the_folder_of_the_list(faces: Path) -> None:
    (faces / "list.txt").write_text("0;a/0.png\n1;../other/0.png\n")
    assert len(read_annotation(faces / "list.txt", within=str(faces.parent))) == 2


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", ".", "a/b", "/etc", "a\0b"])
def test_names_of_pairs_stay_in_their_root(tmp_path: Path, name: str) -> None:
    (tmp_path / "pairs.txt").write_text(f"2 1\n{name}\t1\t2\n")
    with pytest.raises(UserError, match="line 2: a name is a folder of benchmark.root"):
        read_pairs(tmp_path / "pairs.txt")


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:hunter2@host:5000/x",
        "postgresql://me:hun@ter2@db/mlflow",
        "postgresql://me:hun/ter2@db/mlflow",
        "mysql://:hunter2@db/mlflow",
        "postgresql://db/mlflow?user=me&password=hunter2&ssl=1",
        "https://host/api?access_token=hunter2",
    ],
)
def test_no_part_of_a_password_is_shown(uri: str, compose: Callable[..., dict[str, Any]]) -> None:
    for text in (mask(uri), page(uri, "#/x"), str(origin("facenet-train", [f"tracking.uri={uri}"], {}))):
        assert "hun" not in text and "ter2" not in text


def test_a_command_to_copy_is_one_command(tmp_path: Path) -> None:
    evil = f"sqlite:///x'; touch {tmp_path}/made; echo '$(touch {tmp_path}/made).db"
    command = page(evil, "#/x").splitlines()[0]
    assert shlex.split(command)[3] == evil
    repeated = origin("facenet-train", [f"data.root=x; touch {tmp_path}/made", "a=$(id)"], {})["command"]
    assert shlex.split(repeated)[1:] == [f"data.root=x; touch {tmp_path}/made", "a=$(id)"]
    for line in (command, repeated):
        subprocess.run(["sh", "-c", f"set -- {line}"], check=True)
    assert not (tmp_path / "made").exists()


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def problems(source: str) -> list[str]:
    found = []
    for name, call in calls(ast.parse(source)):
        keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if name in ("eval", "exec", "os.system", "os.popen", "yaml.load", "pickle.load", "pickle.loads"):
            found.append(name)
        if name.endswith((".extractall", ".extract", ".unpack_archive")):
            found.append(name)
        if (
            name == "torch.load"
        ):  # weights_only has a hole in torch 2.4 and 2.5: facenet.files.tensor_file reads instead
            found.append("torch.load")
        if name.startswith("subprocess.") and keywords.get("shell", "False") != "False":
            found.append("a shell")
    addresses = source.replace('.split("::")', "")  # of a list of patterns
    return found + [text for text in ("0.0.0.0", '"::"') if text in addresses]


def test_no_code_runs_text_unpacks_archives_or_listens_to_the_network() -> None:
    assert len(CODE) > 90
    assert {str(path): found for path in CODE if (found := problems(path.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "eval(x)",
        "torch.load(p, weights_only=True)",
        "subprocess.run(x, shell=True)",
        "file.extractall(d)",
        "listen('0.0.0.0')",
        'listen("::")',
        "os.system(x)",
    ],
)
def test_the_search_finds_them(line: str) -> None:
    assert len(problems(line)) == 1
