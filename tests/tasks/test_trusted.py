"""Checkpoints, runs and sweeps that name a stranger's class: refused with the line that allows it, and taken where the command says that line."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import facenet
from facenet import config as configs
from facenet.commands import composed, flags
from facenet.config import overlays
from facenet.config.slots import openings_of_strangers
from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.engine import checkpoint as checkpoints
from facenet.errors import UserError
from facenet.files import trusted
from facenet.launch.local import safe_path
from facenet.tasks import resume
from facenet.tasks.evaluate import heldout_data
from facenet.tasks.recipe import Recipe
from facenet.tasks.restore import from_checkpoint
from facenet.tools import replay

NAME = "strangers_network"
CODE = """
import torch
from facenet.backbones import Embedder
from facenet.data import Data
open({mark!r}, "a").close()

class Source(Data):
    def __init__(self, *, table: object, root: str) -> None:
        super().__init__()
        object.__setattr__(self, "table", table)

    def open(self):
        raise NotImplementedError

class Flat(Embedder):
    def __init__(self, *, embedding_size: int = 8, weights_file: str = "", mode: object = "", inner: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.linear = torch.nn.Linear(192, embedding_size)

    def features(self, images):
        return self.linear(images.flatten(1))
"""
TARGET = {"_target_": f"{NAME}.Flat"}
PREPROCESS = {"_target_": "facenet.data.Preprocess", "size": [8, 8]}
ALLOWS = f"say on the command line: trust={NAME}"
ALLOWS_HERE = f"say on the command line: trust=./{NAME}; "


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strangers") / NAME
    folder.mkdir()
    (folder / "__init__.py").write_text(CODE.format(mark=str(folder / "imported")))
    return folder


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test has imported of it, for the next one."""
    yield
    trusted.finder.packages.pop(NAME, None)
    sys.modules.pop(NAME, None)


@pytest.fixture
def unseen(package: Path) -> Path:
    """The package, as if nobody had imported it."""
    (package / "imported").unlink(missing_ok=True)
    return package


def saved(folder: Path, backbone: dict[str, Any], **config: Any) -> Path:
    import torch

    linear = torch.nn.Linear(192, 8)
    weights = {f"linear.{name}": value for name, value in linear.state_dict().items()}
    whole = {"backbone": backbone, "preprocess": PREPROCESS, **config}
    rest: dict[str, Any] = {"identities": [], "loss": {}, "epoch": 1, "step": 1, "metrics": {}}
    checkpoints.save({"config": whole, "embedder": weights, **rest}, folder / "c.pt")
    return folder / "c.pt"


@pytest.mark.parametrize(
    "smuggled",
    [{}, {"trust": NAME}, {"trust": [NAME]}, {"FACENET_TRUST": f'[["{NAME}", null]]'}, {"hydra": {"trust": NAME}}],
    ids=["alone", "as a key", "as a list", "as a variable", "below hydra"],
)
def test_a_checkpoint_says_nothing_of_trust(smuggled: dict[str, Any], unseen: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=ALLOWS):
        from_checkpoint(str(saved(tmp_path, TARGET, **smuggled)))
    assert not (unseen / "imported").exists()


def test_neither_the_working_directory_nor_the_checkpoints_brings_it(
    unseen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unseen.parent)
    (tmp_path / NAME).symlink_to(unseen)
    with pytest.raises(UserError, match=ALLOWS_HERE):
        from_checkpoint(str(saved(tmp_path, TARGET)))
    with pytest.raises(UserError, match="the working directory is not searched"):
        facenet.load(saved(tmp_path, TARGET), trust=NAME, device="cpu")


def test_load_takes_it_where_the_caller_trusts_it_and_only_there(unseen: Path, tmp_path: Path) -> None:
    path = saved(tmp_path, TARGET)
    network = facenet.load(path, trust=unseen, device="cpu")
    assert type(network.embedder).__module__ == NAME and network.embedding_size == 8
    with pytest.raises(UserError, match=ALLOWS):
        facenet.load(path, device="cpu")


@pytest.mark.parametrize(
    "values",
    [
        {"weights_file": "x.pt"},
        {"weights_file": "https://x/y"},
        {"shares": {"/etc/passwd": 1.0}},
        {"inner": {"_target_": f"{NAME}.torch.nn.Linear"}},
        {"inner": {"_target_": "os.system", "command": "true"}},
        {"inner": {"_target_": f"{NAME}.torch.hub.load"}},
    ],
)
def test_a_trusted_class_of_a_checkpoint_opens_nothing_and_brings_no_other(
    values: dict[str, Any], unseen: Path, tmp_path: Path
) -> None:
    with (
        trusted.also([str(unseen)]),
        pytest.raises(UserError, match=r"which a checkpoint may not|may not be built|merely imports|no class"),
    ):
        from_checkpoint(str(saved(tmp_path, {**TARGET, **values})))


@pytest.mark.parametrize("value", [".", "..", "key.pem", "id_rsa", ["soft", "key.pem"], {"key.pem": 1}, {"soft": ".."}])
def test_a_word_that_names_what_lies_in_the_working_directory_is_no_word(
    value: Any, unseen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "id_rsa").mkdir()
    (tmp_path / "key.pem").symlink_to("nowhere")
    path, plain_word = saved(tmp_path, {**TARGET, "mode": value}), {**TARGET, "mode": ["soft", "resnet18.a1_in1k"]}
    with trusted.also([str(unseen)]):
        with pytest.raises(UserError, match="which a checkpoint may not"):
            from_checkpoint(str(path))
        assert list(openings_of_strangers({"backbone": {**TARGET, "mode": value}}, ""))
        assert not list(openings_of_strangers({"backbone": plain_word}, ""))
        from_checkpoint(str(saved(tmp_path, plain_word)))
        (tmp_path / "key.pem").unlink()
        (tmp_path / "id_rsa").rmdir()
        if ".." not in str(value) and value != ".":
            from_checkpoint(str(saved(tmp_path, {**TARGET, "mode": value})))


def faces_in(folder: Path, seed: int) -> Path:
    faces = SyntheticFaces(num_identities=2, images_per_identity=1, size=16, seed=seed)
    for index in range(2):
        (folder / str(index)).mkdir(parents=True)
        Image.fromarray(faces.load(index)).save(folder / str(index) / f"{index}.png")
    return folder


@pytest.mark.parametrize("given", [[], ["--trust"]])
def test_a_command_with_flags_takes_it_by_a_flag(
    given: list[str],
    unseen: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = [str(faces_in(tmp_path / name, seed)) for seed, name in enumerate(("train", "test"))]
    arguments = ["audit", places[0], "--against", places[1], "--checkpoint", str(saved(tmp_path, TARGET)), "--json"]
    allowed = [*given, str(unseen)] if given else []
    monkeypatch.setattr(sys, "argv", ["facenet-data", *arguments, "--accelerator", "cpu", *allowed])
    with pytest.raises(SystemExit) as ended:
        flags.data()
    told = capsys.readouterr()
    if given:
        assert ended.value.code in (0, 1) and json.loads(told.out) and (unseen / "imported").exists()
    else:
        assert ended.value.code == 2 and ALLOWS in told.err and told.err.endswith("with flags: --trust\n")
        assert not (unseen / "imported").exists()
    assert trusted.packages() == ()


def test_a_batch_is_repeated_with_it(
    unseen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(replay, "replay", lambda path: [str(path), *map(str, trusted.packages())])
    token = trusted.said.set(())
    try:
        replay.main(["nonfinite-0.pt", f"trust={unseen}"])
        assert capsys.readouterr().out == f"nonfinite-0.pt\n{unseen}\n"
        with pytest.raises(SystemExit):
            replay.main([f"trust={unseen}"])
        assert "usage: python -m facenet.tools.replay" in capsys.readouterr().err
    finally:
        trusted.said.reset(token)


def test_a_word_of_our_own_classes_is_one_whatever_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: Callable[..., dict[str, Any]]
) -> None:
    monkeypatch.chdir(tmp_path)
    backbone = compose()["backbone"]
    for word in [each for each in backbone["trunk"].values() if type(each) is str]:
        (tmp_path / word).touch()
    assert any(tmp_path.iterdir())
    configs.build(backbone, "backbone", of_others=True)


def test_a_resumed_run_says_nothing_of_trust(
    unseen: Path, tmp_path: Path, compose: Callable[..., dict[str, Any]]
) -> None:
    here = {**compose(), "resume": str(tmp_path)}
    stored = {**compose(), "backbone": TARGET, "trust": str(unseen)}
    earlier = resume.Earlier(tmp_path, stored, tmp_path / "last.pt", {})
    config = resume.config_of(earlier, here, [])
    with pytest.raises(UserError) as refused:
        configs.check(config, Recipe)
    told = str(refused.value)
    assert ALLOWS in told and "trust: this command has no parameter 'trust'" in told
    with trusted.also([str(unseen)]):
        configs.check({name: value for name, value in config.items() if name != "trust"}, Recipe)


@pytest.mark.parametrize("place", ["sampler", "data", "loss", "backbone"])
@pytest.mark.parametrize("value", ["/etc/passwd", "key.pem"])
def test_what_a_trusted_class_of_a_run_opens_is_said_again(
    place: str,
    value: str,
    unseen: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compose: Callable[..., dict[str, Any]],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key.pem").touch()
    here = {**compose(), "resume": str(tmp_path)}
    node = {"_target_": f"{NAME}.Thing", "table": value}
    earlier = resume.Earlier(tmp_path, {**compose(), place: node}, tmp_path / "last.pt", {})
    with trusted.also([str(unseen)]):
        with pytest.raises(UserError, match=rf"{place}\.table={value} is what the config in .* would open"):
            resume.config_of(earlier, here, [])
        said = resume.config_of(earlier, {**here, place: node}, [f"{place}.table={value}"])
    assert said[place] == node


@pytest.mark.parametrize(("value", "fine"), [("/etc/passwd", False), ("key.pem", False), ("soft", True), (3, True)])
def test_a_trusted_source_of_a_checkpoint_opens_nothing_unless_the_run_was_the_users(
    value: Any, fine: bool, unseen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key.pem").touch()
    config = {"data": {"_target_": f"{NAME}.Source", "table": value, "root": "/said"}}
    with trusted.also([str(unseen)]):
        with contextlib.nullcontext() if fine else pytest.raises(UserError, match="on the checkpoint's word alone"):
            assert heldout_data(config, {"root": "/said"}).table == value  # type: ignore[attr-defined]
        assert heldout_data(config, {}, own=True).table == value  # type: ignore[attr-defined]
        with pytest.raises(UserError, match=r"data\.(root|table)=.* would be opened"):
            heldout_data(config, {})


def test_another_version_than_the_runs_is_said(caplog: pytest.LogCaptureFixture, unseen: Path) -> None:
    with trusted.also([str(unseen)]):
        now = trusted.versions({"backbone": TARGET})[NAME]
        for before in (None, {}, {NAME: now}, {NAME: 3}):
            resume.tell_versions({"backbone": TARGET}, before)
        assert caplog.text == ""
        resume.tell_versions({"backbone": TARGET}, {NAME: "0.9"})
    assert f"{NAME} was 0.9 when this run was written, and is {now} now" in caplog.text


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    token = trusted.said.set(())
    monkeypatch.setattr(overlays, "said_beside", ContextVar("said_beside", default=None))
    yield lambda *arguments: composed.resumed(composed.without_trust(list(arguments)))
    trusted.said.reset(token)


@pytest.mark.parametrize(
    "recorded", [f"trust={NAME}", f"+trust=[{NAME}]", f"loss.terms.mine.loss._target_={NAME}.Mine"]
)
def test_a_sweep_on_record_says_nothing_of_trust(
    recorded: str, command: Callable[..., list[str]], unseen: Path, tmp_path: Path
) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps({"arguments": ["-m", "seed=1,2", recorded]}))
    with pytest.raises(UserError, match=r"a directory's word is not enough"):
        command(f"sweep.resume={tmp_path}")
    found = command(f"sweep.resume={tmp_path}", f"trust={unseen}")
    assert "seed=1,2" in found and not [each for each in found if "trust" in each]
    assert [each.place for each in trusted.packages()] == [str(unseen)]


def test_no_record_of_a_command_holds_it_and_what_repeats_it_does(
    command: Callable[..., list[str]], unseen: Path
) -> None:
    assert command("seed=1", f"trust={unseen}") == ["seed=1"]
    assert trusted.arguments() == [f"trust={unseen}"]


def test_it_goes_with_the_task_to_other_launchers(
    command: Callable[..., list[str]], unseen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """joblib, submitit and Ray send the task to processes of theirs by cloudpickle."""
    cloudpickle, tasks = pytest.importorskip("cloudpickle"), []
    monkeypatch.setattr(composed.hydra, "main", lambda **_: lambda task: lambda: tasks.append(cloudpickle.dumps(task)))
    monkeypatch.setattr(composed, "hide_addresses", lambda: None)
    monkeypatch.setattr(composed, "output_dir", lambda: tmp_path / "absent")
    monkeypatch.setattr(sys, "argv", ["facenet-train"])
    for name in ("HYDRA_FULL_ERROR", *safe_path()):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    command(f"trust={unseen}")
    composed.hydra_command(trusted_here, "train")
    trusted.said.set(())
    assert pickle.loads(tasks[0])(None) == [str(unseen)]


def trusted_here(_: Any) -> list[str | None]:
    return [package.place for package in trusted.packages()]
