"""Checkpoints and run directories of strangers at every door: nothing in them runs, opens a file of theirs or calls an address."""

from __future__ import annotations

import collections
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from facenet import config as configs
from facenet.engine import checkpoint as checkpoints
from facenet.errors import UserError
from facenet.tasks import resume
from facenet.tasks.evaluate import heldout_data, run_evaluation
from facenet.tasks.restore import from_checkpoint
from facenet.tools import replay
from facenet.tools.overlap import restore_network

PREPROCESS = {"_target_": "facenet.data.Preprocess", "size": [8, 8]}
TRUNK = {"_target_": "facenet.backbones.MobileNetV1"}
FACENET = "facenet.backbones.FaceNet"


def payload(place: Path) -> dict[str, Any]:
    """Makes a folder once it is built: a function of torch that runs a command line, and needs nothing else."""
    return {"_target_": "torch.utils.collect_env.run", "command": f"mkdir {place}"}


HIDDEN: dict[str, Callable[[Any], Any]] = {
    "bare": lambda evil: evil,
    "in a tuple": lambda evil: (evil,),
    "in a list in a tuple": lambda evil: ([evil],),
    "in a tuple in a value": lambda evil: {"_target_": FACENET, "trunk": (evil,)},
    "as an ordered dict": lambda evil: collections.OrderedDict(evil),
    "as a value of one": lambda evil: {"_target_": FACENET, "trunk": collections.OrderedDict(trunk=evil)},
    "in a value of a network": lambda evil: {"_target_": FACENET, "trunk": {**TRUNK, "init": [evil]}},
    "in a part": lambda evil: {"_target_": FACENET, "trunk": {**TRUNK, "init": {**evil, "_partial_": True}}},
    "by _args_": lambda evil: {"_target_": FACENET, "_args_": [evil]},
    "by another's _target_": lambda evil: {"_target_": "hydra.utils.instantiate", "config": evil},
    "by a reference": lambda evil: {"_target_": FACENET, "trunk": "${x}", "x": (evil,)},
}


def content(backbone: Any, **others: Any) -> dict[str, Any]:
    config = {
        "backbone": backbone,
        "preprocess": PREPROCESS,
        "data": {"_target_": "facenet.data.FolderData", "root": "x"},
    }
    return {
        "config": {**config, **others},
        "identities": [],
        "embedder": {},
        "loss": {},
        "epoch": 1,
        "step": 1,
        "metrics": {},
    }


@pytest.fixture(scope="module")
def evaluation(compose_evaluate: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return compose_evaluate("benchmark=none")


def doors(evaluation: dict[str, Any], path: Path) -> dict[str, Callable[[], object]]:
    where: dict[str, Any] = {"run_dir": path.parent / "out", "overrides": []}
    return {
        "facenet-evaluate": lambda: run_evaluation({**evaluation, "checkpoint": str(path)}, **where),
        "facenet-data audit": lambda: restore_network(str(path), None, "mobilenet_v1", "resize", 8),
        "replay": lambda: replay.replay(path.with_name("nonfinite-0.pt"), "cpu"),
    }


@pytest.mark.parametrize("how", HIDDEN)
@pytest.mark.parametrize("slot", ["backbone", "preprocess"])
def test_no_command_of_a_checkpoint_runs(how: str, slot: str, tmp_path: Path, evaluation: dict[str, Any]) -> None:
    hidden = HIDDEN[how](payload(tmp_path / "was_here"))
    stranger = content({"_target_": FACENET, "trunk": TRUNK})
    stranger["config"][slot] = hidden
    path = tmp_path / "c.pt"
    checkpoints.save(stranger, path)
    dump = {"config": {**stranger["config"], "loss": hidden, "precision": hidden}, "batches": [], "identities": 1}
    torch.save(dump, tmp_path / "nonfinite-0.pt")
    for door, enter in doors(evaluation, path).items():
        with pytest.raises(UserError) as refused:
            enter()
        assert len(str(refused.value).splitlines()) == 1, door
    assert not (tmp_path / "was_here").exists()


def test_the_payload_is_one(tmp_path: Path) -> None:
    evil = payload(tmp_path / "was_here")
    torch.utils.collect_env.run(evil["command"])
    assert (tmp_path / "was_here").is_dir()


def test_a_checkpoint_of_plain_values_is_restored(tmp_path: Path) -> None:
    from facenet.backbones.embedder import FaceNet
    from facenet.backbones.mobilenet_v1 import MobileNetV1

    own = content({"_target_": FACENET, "trunk": {**TRUNK, "init": "kaiming"}, "embedding_size": 16, "dropout": 0.1})
    own["embedder"] = FaceNet(trunk=MobileNetV1(), embedding_size=16).state_dict()
    checkpoints.save(own, tmp_path / "c.pt")
    found = restore_network(str(tmp_path / "c.pt"), None, "", "", 8)
    assert found is not None and found.embedder.embedding_size == 16 and found.preprocess.size == [8, 8]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "backbone",
    [
        {
            "_target_": "facenet.backbones.MobileFaceNet",
            "blocks": [[1, 1, 10**9, 1]],
            "input_size": [8, 8],
        },
        {"_target_": FACENET, "trunk": TRUNK, "embedding_size": 10**5},
        {"_target_": FACENET, "trunk": TRUNK, "embedding_size": 10**9},
        {
            "_target_": FACENET,
            "trunk": {
                "_target_": "torch.nn.TransformerEncoder",
                "encoder_layer": {"_target_": "torch.nn.Identity"},
                "num_layers": 10**9,
            },
        },
    ],
    ids=["layers", "a layer", "more than any memory", "a part without tensors"],
)
def test_a_checkpoint_of_a_few_bytes_makes_no_large_network(backbone: dict[str, Any], tmp_path: Path) -> None:
    checkpoints.save(content(backbone), tmp_path / "c.pt")
    with pytest.raises(
        UserError, match=r"far larger network than its weights|cannot be built|as often as a number says"
    ):
        restore_network(str(tmp_path / "c.pt"), None, "", "", 8)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def called(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize(
    "pattern", ["http://{at}/x.tar", "http://{at}", "x.tar::http://{at}/{{0..1}}.tar", "{{http:,http:}}//{at}/x.tar"]
)
def test_no_address_of_a_checkpoint_is_called(pattern: str, listener: socket.socket) -> None:
    shards = pattern.format(at="{}:{}".format(*listener.getsockname()))
    with pytest.raises(UserError, match=r"data\.shards=.* is an address that only the checkpoint names"):
        heldout_data({"data": {"_target_": "facenet.data.ShardData", "shards": shards}}, {}).open()
    assert not called(listener)
    found = heldout_data({"data": {"_target_": "facenet.data.ShardData", "shards": shards}}, {"shards": shards})
    assert getattr(found, "shards", None) == shards  # the command line says it too


@pytest.mark.parametrize(
    "shards", ["pipe:touch was_here", "s3://bucket/x.tar", "PIPE:touch was_here", "file:///etc/passwd"]
)
def test_no_program_of_a_checkpoint_reads_shards(shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        heldout_data({"data": {"_target_": "facenet.data.ShardData", "shards": shards}}, {}).open()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data", [None, [], {}, {"_target_": FACENET, "trunk": TRUNK}, {"_target_": "facenet.data.source.Data"}, "x"]
)
def test_a_checkpoint_without_data_has_no_held_out_faces(data: Any) -> None:
    with pytest.raises(UserError):
        heldout_data({"data": data}, {}).open()


def test_where_a_checkpoints_faces_are_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "faces" / name / "0.png")
    node = {"_target_": "facenet.data.FolderData", "root": str(tmp_path / "faces")}
    with caplog.at_level(logging.INFO):
        assert len(heldout_data({"data": node}, {}).open()) == 2
    assert f"the checkpoint says where its faces are: data.root={tmp_path / 'faces'}" in caplog.text


PLAIN = {
    "backbone": {"trunk": {"_target_": "timm.create_model", "model_name": "resnet18"}},
    "data": {"shards": "/data/x.tar"},
}
OPENING: dict[str, dict[str, Any]] = {
    "published weights": {"backbone": {"trunk": {**PLAIN["backbone"]["trunk"], "pretrained": True}}},
    "a weight file": {"backbone": {"trunk": {**PLAIN["backbone"]["trunk"], "checkpoint_path": "x.pth"}}},
    "a hub": {"backbone": {"trunk": {"_target_": "timm.create_model", "model_name": "hf-hub:evil/x"}}},
    "an address of shards": {"data": {"shards": "http://evil/x.tar"}},
    "an address in a list": {"data": {"shards": ["http://evil/x.tar"]}},
}


@pytest.mark.parametrize("how", OPENING)
def test_a_run_directory_opens_what_the_command_says_too(how: str) -> None:
    stored = {**PLAIN, **OPENING[how]}
    with pytest.raises(UserError, match="say it again on the command line"):
        resume.check_sources(stored, {**PLAIN, "resume": "x"}, Path("x"))
    resume.check_sources(stored, {**stored, "resume": "x"}, Path("x"))
    resume.check_sources(PLAIN, {"resume": "x"}, Path("x"))


def test_a_checkpoint_asks_for_no_images_larger_than_faces(tmp_path: Path) -> None:
    asked = content({"_target_": FACENET, "trunk": TRUNK, "embedding_size": 16})
    asked["config"]["preprocess"] = {**PREPROCESS, "size": [30_000, 30_000]}
    asked["embedder"] = configs.build(asked["config"]["backbone"], "backbone").state_dict()
    checkpoints.save(asked, tmp_path / "c.pt")
    with pytest.raises(UserError, match="is no size of a face"):
        from_checkpoint(str(tmp_path / "c.pt"))


def test_held_out_faces_of_a_checkpoint_are_not_drawn_without_end() -> None:
    drawn = {"_target_": "facenet.data.SyntheticData", "num_identities": 10**8, "images_per_identity": 8}
    with pytest.raises(UserError, match="more drawn faces than any run has"):
        heldout_data({"data": drawn}, {})


def test_a_run_directory_chooses_no_store_and_no_place_for_a_cache(tmp_path: Path) -> None:
    own = {"tracking": {"uri": None}, "data": {"cache_dir": None}}
    theirs = {"tracking": {"uri": "http://127.0.0.1:9/a"}, "data": {"cache_dir": "/home/me"}}
    with pytest.raises(UserError, match="names the store http://127.0.0.1:9/a, .* tracking.uri=http://127.0.0.1:9/a"):
        resume.check_store(theirs, own, tmp_path)
    resume.check_store(theirs, theirs, tmp_path)  # the command line says it too
    assert resume.own_places(theirs, [])["data"] == {"cache_dir": None}
    assert resume.own_places(theirs, ["data.cache_dir=/home/me"]) == theirs
    sent = {**theirs, "tracking": {"upload_faces": True}}
    assert resume.own_places(sent, [])["tracking"] == {"upload_faces": False}
    assert resume.own_places(sent, ["tracking.upload_faces=true", "data.cache_dir=/home/me"]) == sent
