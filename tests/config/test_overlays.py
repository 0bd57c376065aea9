"""What is taken of YAML files and commands on record in directories, and what only a command line may say."""

from __future__ import annotations

import contextlib
import json
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from facenet.commands import composed as cli
from facenet.config import hydra_files, overlays
from facenet.errors import UserError
from facenet.files import trusted
from facenet.files.plain import count_values
from facenet.sweeps.state import write_command

ROOT = Path(__file__).parents[2]
G = "# @package _global_\n"
# File below experiments -> text. Each says something that Hydra would act upon before a job is checked, or that leads elsewhere.
REFUSED: dict[str, tuple[str, str]] = {
    "callback": ("preset/x", G + "hydra: {callbacks: {x: {_target_: os.system, command: 'touch was_here'}}}"),
    "callback of ours": ("preset/x", G + "hydra: {callbacks: {x: {_target_: facenet.sweeps.PlanFirst}}}"),
    "package of callbacks": ("preset/x", "# @package hydra.callbacks.x\n_target_: facenet.sweeps.PlanFirst"),
    "package below global": ("preset/x", "# @package _global_.hydra.callbacks.x\n_target_: torch.nn.Linear"),
    "package of a launcher": ("preset/x", "# @package hydra.launcher\nsetup: [touch was_here]"),
    "package by name": ("preset/hydra", "# @package _name_\nverbose: true"),
    "default into hydra": ("preset/x", G + "defaults: [/loss@hydra.launcher: triplet]"),
    "default into its own place, a launcher's": ("hydra/launcher/x", "defaults: [facenet, /preset/quick@_here_]"),
    "default to the root": ("preset/x", G + "defaults: [/extra/more@_global_]"),
    "default to another group": ("preset/x", G + "defaults: [{/extra@data: more}]"),
    "default to a benchmark's place": ("preset/x", G + "defaults: [{/loss@benchmarks.x: more}]"),
    "benchmark below a benchmark": ("preset/x", G + "defaults: [{/benchmark@benchmarks.x.y: bin}]"),
    "default to another group, relative": ("preset/x", G + "defaults: [{loss@loss: more}]"),
    "text of a dict in an axis": (
        "preset/x",
        G
        + "hydra: {sweeper: {params: {'++backbone.trunk': '{_target_: timm.create_model, checkpoint_path: /x.pth}'}}}",
    ),
    "texts of dicts in an axis": (
        "preset/x",
        G
        + "hydra: {sweeper: {params: {'backbone.trunk': '{width: 1},{_target_: timm.create_model, model_name: hf-hub:a/b}'}}}",
    ),
    "function of a part's module": ("preset/x", G + "loss: {_target_: torch.nn.init.torch.hub.load, source: local}"),
    "default into hydra, relative": ("preset/x", G + "defaults: [{y@hydra.callbacks.x: z}]"),
    "default of a callback": ("preset/x", G + "defaults: [{override /hydra/callbacks: y}]"),
    "default of a logging": ("preset/x", G + "defaults: [{override /hydra/job_logging: y}]"),
    "default by path": ("preset/x", G + "defaults: [/hydra/callbacks/y]"),
    "default out of the directory": ("preset/x", G + "defaults: [../../../elsewhere]"),
    "default that is absolute": ("preset/x", G + "defaults: [//tmp/elsewhere]"),
    "default group out of the directory": ("preset/x", G + "defaults: [{../../elsewhere: y}]"),
    "default by resolver": ("preset/x", G + "defaults: [{/loss: '${oc.env:HOME}'}]"),
    "default of a launcher into another place": (
        "preset/x",
        G + "defaults: [{override /hydra/launcher@hydra.callbacks: basic}]",
    ),
    "job logging": ("preset/x", G + "hydra: {job_logging: {handlers: {x: {(): os.system, command: id}}}}"),
    "hydra logging": ("preset/x", G + "hydra: {hydra_logging: {formatters: {x: {(): os.system}}}}"),
    "factory anywhere": ("preset/x", G + "optimizer: {(): os.system}"),
    "launcher": ("preset/x", G + "hydra: {launcher: {_target_: facenet.launch.local.launch}}"),
    "sweeper": ("preset/x", G + "hydra: {sweeper: {_target_: torch.nn.Linear}}"),
    "sampler": ("preset/x", G + "hydra: {sweeper: {sampler: {_target_: torch.nn.Linear}}}"),
    "setup": ("preset/x", G + "hydra: {launcher: {setup: [touch was_here]}}"),
    "setup as text": ("preset/x", G + "hydra: {launcher: {setup: touch}}"),
    "srun": ("preset/x", G + "hydra: {launcher: {srun_args: ['--prolog=x']}}"),
    "python of submitit": ("preset/x", G + "hydra: {launcher: {python: ./evil}}"),
    "line break in a name": ("preset/x", G + 'hydra: {launcher: {partition: "x\\ntouch was_here"}}'),
    "line break in a key": (
        "preset/x",
        G + 'hydra: {launcher: {additional_parameters: {"x\\ntouch was_here\\n#": 1}}}',
    ),
    "reference as a name": ("preset/x", G + 'seed: "x\\ntouch was_here"\nhydra: {launcher: {partition: "${seed}"}}'),
    "pre_dispatch of joblib": ("preset/x", G + "hydra: {launcher: {pre_dispatch: '__import__(1)'}}"),
    "address of a cluster": ("preset/x", G + "hydra: {launcher: {ray: {init: {address: 'ray://evil:1'}}}}"),
    "environment of ray": ("preset/x", G + "hydra: {launcher: {ray: {init: {runtime_env: {pip: [evil]}}}}}"),
    "search space as code": ("preset/x", G + "hydra: {sweeper: {custom_search_space: evil.run}}"),
    "storage": ("preset/x", G + "hydra: {sweeper: {storage: 'mysql://evil/x'}}"),
    "direction": ("preset/x", G + "hydra: {sweeper: {direction: up}}"),
    "mode": ("preset/x", G + "hydra: {mode: '${oc.env:HOME}'}"),
    "search path": ("preset/x", G + "hydra: {searchpath: [file:///tmp]}"),
    "run directory": ("preset/x", G + "hydra: {run: {dir: /home}}"),
    "sweep directory": ("preset/x", G + "hydra: {sweep: {dir: /home}}"),
    "environment": ("preset/x", G + "hydra: {job: {env_set: {LD_PRELOAD: x}}}"),
    "environment copied": ("preset/x", G + "hydra: {job: {env_copy: [HOME]}}"),
    "hydra as text": ("preset/x", G + "hydra: x"),
    "launcher as a list": ("preset/x", G + "hydra: {launcher: [1]}"),
    "resolver": ("preset/x", G + "tracking: {run_name: '${oc.env:HOME}'}"),
    "resolver in a list": ("preset/x", G + "augment: {pipeline: ['${oc.decode:x}']}"),
    "resolver of hydra": ("preset/x", G + "tracking: {run_name: '${hydra:runtime.cwd}'}"),
    "reference into hydra": ("preset/x", G + "tracking: {run_name: '${hydra.job.env_set}'}"),
    "relative reference into hydra": ("preset/x", G + "tracking: {run_name: '${..hydra.runtime.cwd}'}"),
    "resolver inside a reference": ("preset/x", G + "tracking: {run_name: '${a.${oc.env:HOME}}'}"),
    "resolver as a key": ("preset/x", G + "'${oc.env:HOME}': 1"),
    "resolver that is escaped": ("preset/x", G + "tracking: {run_name: '\\${oc.env:HOME}'}"),
    "resolver in an axis": ("preset/x", G + "hydra: {sweeper: {params: {tracking.run_name: '${oc.env:HOME},x'}}}"),
    "pieces of one in an axis": ("preset/x", G + "hydra: {sweeper: {params: {seed: '${seed}{oc.env:HOME}'}}}"),
    "axis of hydra's": ("preset/x", G + "hydra: {sweeper: {params: {hydra.launcher.setup: '[x]'}}}"),
    "axis of hydra's, forced": ("preset/x", G + "hydra: {sweeper: {params: {++hydra.run.dir: x}}}"),
    "axis of a hydra group": ("preset/x", G + "hydra: {sweeper: {params: {+hydra/callbacks: x}}}"),
    "axis with a space": ("preset/x", G + "hydra: {sweeper: {params: {' hydra.run.dir': x}}}"),
    "axis that opens": ("preset/x", G + "hydra: {sweeper: {params: {backbone.trunk.checkpoint_path: a.pth}}}"),
    "target": ("preset/x", G + "loss: {_target_: os.system}"),
    "target of an allowed package": ("preset/x", G + "loss: {_target_: facenet.launch.local.subprocess.Popen}"),
    "target as a list": ("preset/x", G + "loss: {_target_: [os, system]}"),
    "weight file of a zoo": ("preset/x", G + "backbone: {trunk: {checkpoint_path: evil.pth}}"),
    "weights from a hub": ("preset/x", G + "backbone: {trunk: {model_name: 'hf-hub:evil/x', pretrained: true}}"),
    "weights by an address": ("preset/x", G + "backbone: {trunk: {pretrained_cfg: {url: evil.org/x}}}"),
    "weights in a group's file": ("backbone/x", "# @package backbone.trunk\nweights: evil.pth"),
    "a store elsewhere": ("preset/x", G + "tracking: {uri: 'http://evil:5000'}"),
    "data elsewhere": ("data/x", "_target_: facenet.data.ShardData\nshards: 'https://evil/{0..9}.tar'"),
    "data elsewhere by a pattern": ("data/x", "shards: '{http:,http:}//evil/x.tar'"),
    "a file for hydra": ("hydra/callbacks/x", "a: {_target_: facenet.sweeps.PlanFirst}"),
    "hydra itself": ("hydra/config", "mode: RUN"),
    "a launcher's file": ("hydra/launcher/x", "_target_: hydra_plugins.facenet_launcher.FacenetLauncher"),
    "a launcher's file elsewhere": ("hydra/launcher/x", "# @package hydra\nn_jobs: 1"),
    "a run to write into": ("preset/x", G + "resume: /home/me/best\nresume_changed: true"),
    "pictures of people": ("preset/x", G + "tracking: {upload_faces: true}"),
    "pictures of people, as an axis": ("preset/x", G + "hydra: {sweeper: {params: {tracking.upload_faces: true}}}"),
    "a run to write into, as an axis": ("preset/x", G + "hydra: {sweeper: {params: {resume: /home/me/best}}}"),
    "bytes": ("preset/x", G + "tracking: {run_name: !!binary aGk=}"),
    "object": ("preset/x", G + "seed: !!python/object/apply:os.system [id]"),
    "a list": ("preset/x", "- 1"),
    "aliases": (
        "preset/x",
        "".join(f"b{n}: &b{n} [{', '.join(['1' if n == 0 else f'*b{n - 1}'] * 9)}]\n" for n in range(9)),
    ),
}
TAKEN: dict[str, tuple[str, str]] = {
    "a second benchmark": (
        "preset/x",
        G + "defaults: [{/benchmark@benchmarks.x: heldout}, {/benchmark/protocol@benchmarks.x.protocol: flip}]",
    ),
    "values": (
        "preset/x",
        G + "defaults: [{override /loss: ce}, _self_]\nseed: 3\ndata: {batch_size: 12}\nweights: a.pth",
    ),
    "a target of ours": ("preset/x", G + "loss: {_target_: facenet.losses.LossMix, terms: {}}"),
    "a transform": ("preset/x", G + "augment: {pipeline: [{_target_: albumentations.ToGray, p: 0.5}]}"),
    "published weights": (
        "preset/x",
        G + "backbone: {trunk: {_target_: timm.create_model, model_name: resnet18.a1_in1k, pretrained: true}}",
    ),
    "a reference": (
        "preset/x",
        G + "preprocess: {size: ['${data.image_size}', '${data.image_size}']}\ntracking: {run_name: 'seed-${seed}'}",
    ),
    "a relative reference": ("data/x", "batch_size: ${.image_size}\nimage_size: 64"),
    "another preset": (
        "preset/x",
        G + "defaults: [single_card, {override /benchmark/protocol@benchmark.protocol: flip}]",
    ),
    "a choice that follows another": ("preset/x", G + "defaults: [{override /loss: '${optimizer}'}]"),
    "a mode": (
        "sweep/x",
        G + "hydra: {mode: MULTIRUN, sweeper: {params: {optimizer.lr: '1e-3,1e-4', loss: 'ce,triplet', seed: 1}}}",
    ),
    "a search": (
        "sweep/x",
        G + "defaults: [default, {override /hydra/sweeper: optuna}, {override /hydra/sweeper/sampler: tpe}]\n"
        "hydra: {sweeper: {direction: maximize, n_trials: 20, n_jobs: '${sweep.jobs_per_node}', sampler: {seed: 0}, study_name: lr, "
        "params: {optimizer.lr: 'tag(log, interval(1e-5, 1e-2))'}}}",
    ),
    "a cluster": (
        "preset/x",
        G
        + "defaults: [{override /hydra/launcher: slurm}]\nhydra: {launcher: {partition: gpu, gpus_per_node: 4, timeout_min: 60, "
        "stderr_to_stdout: true, additional_parameters: {gres: 'sdaa:4', requeue: true}}}",
    ),
    "a launcher's own file": ("hydra/launcher/x", "defaults: [slurm, _self_]\npartition: gpu\nsetup: null"),
    "a store in a file": ("preset/x", G + "tracking: {uri: 'sqlite:////tmp/mlflow.db'}"),
    "a cache": ("preset/x", G + "data: {cache_dir: /tmp/x, within: null}"),
    "a colon and a brace": ("preset/x", G + "tracking: {run_name: 'a:{b}'}"),
    "pictures of people, not sent": ("preset/x", G + "tracking: {upload_faces: false}"),
    "a run that goes on where it is": ("preset/x", G + "resume: auto"),
    "nothing": ("preset/x", ""),
}


def problems(place: str, text: str) -> list[str]:
    try:
        count_values(text, Path(place))
        content = yaml.safe_load(text) or {}
    except (UserError, yaml.YAMLError) as error:
        return [str(error)]
    try:
        content = overlays.plain(content, place)
    except UserError as error:
        return [str(error)]
    return list(overlays.problems_of(content, place, hydra_files.DirectoryFiles._get_header_dict(text).get("package")))


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_file_of_a_directory_may_not_say(name: str) -> None:
    place, text = REFUSED[name]
    assert problems(place, text)


@pytest.mark.parametrize("name", TAKEN)
def test_what_it_may_say(name: str) -> None:
    place, text = TAKEN[name]
    assert problems(place, text) == []


def test_ours_say_no_more_than_that() -> None:
    files = sorted(ROOT.glob("experiments/*/*.yaml"))
    assert {"real_faces", "lr_batch"} <= {file.stem for file in files}
    for file in files:
        assert problems(str(file.relative_to(ROOT / "experiments").with_suffix("")), file.read_text()) == [], file


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with presets, in which a command is given."""
    (tmp_path / "experiments" / "preset").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["facenet-train"])
    monkeypatch.setattr(overlays, "said_beside", ContextVar("said_beside", default=None))
    for variable in ("HYDRA_FULL_ERROR", "PYTHONSAFEPATH"):  # a command sets them, for what it starts
        monkeypatch.setenv(variable, "1")
    return tmp_path


def composed(*overrides: str) -> Any:
    assert cli.own_experiments
    GlobalHydra.instance().clear()
    with initialize_config_module("facenet.conf", version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=True)


def test_hydra_reads_through_the_check(place: Path) -> None:
    preset = place / "experiments" / "preset" / "mine.yaml"
    preset.write_text(G + "seed: 7\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}")
    config = composed("preset=mine")
    assert config.seed == 7 and config.hydra.mode.name == "MULTIRUN" and config.hydra.sweeper.params.seed == "1,2"
    preset.write_text(G + "seed: 7\nhydra: {callbacks: {x: {_target_: os.system}}}")
    with pytest.raises(UserError) as refused:
        composed("preset=mine")
    assert str(refused.value) == f"{preset}: hydra.callbacks: {overlays.ON_THE_COMMAND_LINE}"
    assert (
        composed("+hydra.callbacks.x._target_=os.getcwd").hydra.callbacks.x._target_ == "os.getcwd"
    )  # the user's own word


@pytest.mark.parametrize(("code", "end"), [("utf-8-sig", "\r"), ("utf-16", "\r\n")])
def test_presets_are_read_and_checked_in_any_encoding(place: Path, code: str, end: str) -> None:
    preset = place / "experiments" / "preset" / "mine.yaml"
    preset.write_bytes((G + "seed: 7\ntracking: {run_name: grün}\n").replace("\n", end).encode(code))
    config = composed("preset=mine")
    assert (config.seed, config.tracking.run_name) == (7, "grün")  # at the root: its first line is seen too
    for text in (G + "hydra: {callbacks: {x: {_target_: os.system}}}\n", "# @package hydra.launcher\nsetup: [x]\n"):
        preset.write_bytes(text.replace("\n", end).encode(code))
        with pytest.raises(UserError, match="say it on the command line"):
            composed("preset=mine")


@pytest.mark.parametrize("choice", ["../../outside", "../../../{place}/outside", "{place}/outside", "/{place}/outside"])
def test_a_choice_by_a_path_is_a_file_of_a_directory(place: Path, choice: str) -> None:
    """Hydra would look it up from within the package, and take it for a part of it."""
    up = "/".join([".."] * len(Path(overlays.__file__).parts))
    (place / "outside.yaml").write_text(G + "hydra: {callbacks: {x: {_target_: os.system}}}")
    given = choice.format(place=f"{up}{place}" if choice.startswith("..") else place)
    with pytest.raises((UserError, overlays.HydraException)):
        composed(f"preset={given}")


@pytest.mark.parametrize(
    "flags", [["--config-dir", "given"], ["hydra.searchpath=[file://{place}/given]"], ["-cp", "{place}/given"]]
)
@pytest.mark.parametrize(
    "text", ["hydra: {callbacks: {x: {_target_: os.mkdir, path: was_here}}}", "hydra: {launcher: {setup: [x]}}"]
)
def test_a_named_directory_is_read_like_one_that_is_found(
    place: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "given" / "preset").mkdir(parents=True)
    for name in ("preset/evil.yaml", "train.yaml"):
        (place / "given" / name).write_text(G + text)
    monkeypatch.setattr(sys, "argv", ["facenet-train", *(flag.format(place=place) for flag in flags), "preset=evil"])
    with pytest.raises(SystemExit) as end:
        cli.train()
    assert end.value.code == 2 and "say it on the command line" in capsys.readouterr().err
    assert not (place / "was_here").exists() and not (place / "outputs").exists()


@pytest.mark.parametrize("flag", ["--experimental-rerun", "--exp", "--experimental-rerun=x.pickle"])
def test_a_pickled_config_is_not_read(place: Path, monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.setattr(sys, "argv", ["facenet-train", flag, "x.pickle"])
    with pytest.raises(SystemExit) as end:
        cli.train()
    assert end.value.code == 2


RECORDED_REFUSED = [
    "+preset@data=mine",
    "++backbone.trunk={_target_: timm.create_model, checkpoint_path: /tmp/x.pth}",
    "loss@_global_=triplet",
    "hydra.callbacks.x._target_=os.system",
    "+hydra.callbacks.x={_target_:os.system}",
    "hydra.launcher.setup=[touch x]",
    "+hydra.launcher.additional_parameters.wrap=touch",
    "hydra.launcher={_target_:os.system}",
    "hydra={launcher:{setup:[x]}}",
    "hydra/callbacks=x",
    "+hydra/job_logging=x",
    "hydra/launcher=../x",
    "hydra.searchpath=[file:///tmp]",
    "hydra.run.dir=/home",
    "++hydra.job.env_set.LD_PRELOAD=x",
    "--config-dir=/tmp",
    "-cp",
    "--experimental-rerun",
    "--info",
    "data.root=${oc.env:HOME}",
    "tracking.uri=http://evil:5000",
    "resume=/home/me/best",
    "data.shards=https://evil/x.tar",
    "backbone.trunk.checkpoint_path=x.pth",
    "loss=ce,triplet/../../../x,${oc.env:HOME}",
    "word",
]
RECORDED_TAKEN = [
    "-m",
    "--multirun",
    "optimizer.lr=1e-3,1e-4",
    "+data.cache_dir=/tmp/x",
    "++optimizer.lr=1",
    "~schedule",
    "loss=ce,triplet",
    "benchmark/protocol=flip",
    "sweep=lr_batch",
    "hydra/launcher=slurm",
    "hydra/sweeper=optuna",
    "hydra/sweeper/sampler=tpe",
    "hydra.mode=MULTIRUN",
    "hydra.launcher.partition=gpu",
    "+hydra.launcher.additional_parameters.gres=sdaa:4",
    "hydra.launcher.gpus_per_node=4",
    "hydra.sweeper.n_trials=40",
    "hydra.sweeper.direction=minimize",
    "loss.terms={ce:{weight:1.0}}",
    "tracking.uri=sqlite:////tmp/x.db",
    "data.root=/data/2026-01-01T10:00",
]


@pytest.mark.parametrize("argument", RECORDED_REFUSED)
def test_what_a_command_on_record_may_not_say_unless_it_is_said_again(place: Path, argument: str) -> None:
    write_command(place / "experiments", ["-m", argument])
    with pytest.raises(UserError, match="a directory's word is not enough"):
        cli.resumed(["sweep.resume=experiments"])
    if "=" in argument and not argument.startswith("-"):
        assert argument in cli.resumed(["sweep.resume=experiments", argument])


def test_what_a_command_on_record_may_say(place: Path) -> None:
    write_command(place / "experiments", [*RECORDED_TAKEN, "hydra.sweep.dir=elsewhere"])
    assert cli.resumed(["sweep.resume=experiments"]) == [*RECORDED_TAKEN, f"hydra.sweep.dir={place / 'experiments'}"]


@pytest.mark.parametrize(
    "content", ["{}", "[]", "x", json.dumps({"arguments": {"a": 1}}), json.dumps({"arguments": [["-m"]]}), "[" * 50_000]
)
def test_a_record_that_is_none_starts_nothing(place: Path, content: str) -> None:
    (place / "experiments" / "sweep.json").write_text(content)
    with pytest.raises(UserError):
        cli.resumed(["sweep.resume=experiments"])


def test_an_address_of_a_file_is_opened_when_the_command_says_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "experiments" / "preset" / "mine.yaml").write_text(G + "tracking: {uri: 'http://team:5000'}")
    with pytest.raises(UserError, match="only opened when the command line says it too"):
        composed("preset=mine")
    monkeypatch.setattr(sys, "argv", ["facenet-train", "preset=mine", "tracking.uri=http://team:5000"])
    assert composed("preset=mine").tracking.uri == "http://team:5000"


@pytest.mark.parametrize("said", [False, True])
def test_an_address_that_references_join_is_opened_when_the_command_says_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, said: bool
) -> None:
    joined = {"tracking": {"uri": "http://127.0.0.1:9/a", "experiment": "http:"}}
    monkeypatch.setattr(overlays, "files_read", [place / "preset" / "x.yaml"])
    monkeypatch.setattr(sys, "argv", ["facenet-train", *(["tracking.uri=http://127.0.0.1:9/a"] if said else [])])
    if said:
        overlays.check_composed(joined)
    else:
        with pytest.raises(UserError, match="tracking.uri=http://127.0.0.1:9/a: is not what the command line says"):
            overlays.check_composed(joined)
    monkeypatch.setattr(overlays, "files_read", [])  # nothing of a directory's
    overlays.check_composed(joined)


@pytest.fixture
def my_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of this name is trusted."""
    monkeypatch.setattr(trusted, "packages", lambda: (trusted.Package("my_faces"),))


@pytest.mark.parametrize(
    ("said", "fine"),
    [
        ("tracking.uri=http://faces.co", True),
        ("tracking.uri='http://faces.co'", True),
        ("data.shards=[http://faces.co,http://other]", True),
        ("data.shards=http://faces.company.org/1.tar", False),
        ("tracking.uri=http://faces.co/inner", False),
    ],
)
def test_what_an_address_begins_with_is_not_said(
    monkeypatch: pytest.MonkeyPatch, my_faces: None, said: str, fine: bool
) -> None:
    monkeypatch.setattr(sys, "argv", ["facenet-train", said])
    assert (problems("preset/x.yaml", "tracking: {uri: 'http://faces.co'}") == []) is fine
    monkeypatch.setattr(overlays, "files_read", [Path("x.yaml")])
    stranger = {"loss": {"_target_": "my_faces.Compact", "path": "/home"}}
    monkeypatch.setattr(sys, "argv", ["facenet-train", "loss.path=/home" if fine else "data.root=/home/faces"])
    with contextlib.nullcontext() if fine else pytest.raises(UserError, match="opened by a class of somebody else's"):
        overlays.check_composed(stranger)


@pytest.mark.parametrize("again", [False, True])
def test_what_a_class_of_a_strangers_opens_is_not_on_record_but_said(
    place: Path, monkeypatch: pytest.MonkeyPatch, my_faces: None, again: bool
) -> None:
    opened = "loss.terms.mine.loss.table=/home/me/key"
    write_command(place / "experiments", ["-m", "seed=1,2", opened])
    arguments = cli.resumed(["sweep.resume=experiments", *([opened] if again else [])])
    assert opened in arguments
    monkeypatch.setattr(sys, "argv", ["facenet-train", *arguments])
    config = {"loss": {"terms": {"mine": {"loss": {"_target_": "my_faces.Compact", "table": "/home/me/key"}}}}}
    with contextlib.nullcontext() if again else pytest.raises(UserError, match="opened by a class of somebody else's"):
        overlays.check_composed(config)
