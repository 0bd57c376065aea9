"""facenet.train and facenet.evaluate: the commands, called by a script or a notebook."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton

import facenet
from facenet.engine import checkpoint
from facenet.launch.signals import STOP_SIGNALS
from facenet.network import Network

ARCHIVE = Path(__file__).parents[1] / "golden" / "before_rooms.tar.xz"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, of a process whose command line is a kernel's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # else its thread stays
    return tmp_path


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["optimizer.momentom=1"], "optimizer.momentom: torch.optim.Adam has no parameter 'momentom'"),
        (["backbone=mobilenet_v9"], "backbone: no choice 'mobilenet_v9' among .*mobilenet_v1"),
        (["sweep.jobs_per_node=0"], "sweep.jobs_per_node: expected 1 or more"),
        (["-m", "seed=1"], "^-m: a flag of the command"),
        (["seed=1,2"], "^seed=1,2: several values are a sweep"),
        (["hydra.mode=MULTIRUN"], "^hydra.mode=MULTIRUN: is for the command"),
        (["hydra/launcher=joblib"], "^hydra/launcher=joblib: is for the command"),
        (["sweep.resume=x"], "^sweep.resume=x: is for the command"),
        (["seed"], "^seed: no override; write key=value"),
        ("seed=1", "^overrides: expected a list of texts"),
        ([1], "^overrides: expected a list of texts"),
    ],
)
def test_mistakes_are_raised_and_leave_nothing(here, capsys, overrides, told):
    with pytest.raises(facenet.UserError, match=told):
        facenet.train(overrides)
    assert [path for path in here.rglob("*") if path.is_file()] == [] and capsys.readouterr().out == ""


def test_mistakes_of_an_evaluation(here):
    with pytest.raises(facenet.UserError, match="give either checkpoint=FILE"):
        facenet.evaluate(["benchmark=heldout"])
    with pytest.raises(facenet.UserError, match="checkpoint=none.pt: no such file"):
        facenet.evaluate(["checkpoint=none.pt", "benchmark=heldout", "tracking=none"])
    (here / "file").touch()
    with pytest.raises(facenet.UserError, match=r"hydra.run.dir: .*file.*: Not a directory; choose another"):
        facenet.evaluate(["hydra.run.dir=file/run"])


def test_a_checkpoint_is_evaluated_and_the_process_is_as_it_was(here):
    with tarfile.open(ARCHIVE) as archive:
        member = next(each for each in archive if each.name.endswith("finished/checkpoints/best.pt"))
        (here / "best.pt").write_bytes(archive.extractfile(member).read())
    (here / "own").mkdir()
    (here / "own" / "config.yaml").write_text("place: ${oc.env:PATH}\n")
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        with initialize_config_dir(str(here / "own"), version_base="1.2"):
            before = GlobalHydra.instance().hydra, dict(Singleton._instances), dict(SourcesRegistry.instance().types)
            signals = [signal.getsignal(number) for number in STOP_SIGNALS]
            done = facenet.evaluate(["checkpoint=best.pt", "benchmark=heldout", "tracking=none", "accelerator=cpu"])
            assert before == (GlobalHydra.instance().hydra, Singleton._instances, SourcesRegistry.instance().types)
            assert signals == [signal.getsignal(number) for number in STOP_SIGNALS]
        assert not HydraConfig.initialized() and handler.formatter is None
    finally:
        logging.getLogger().removeHandler(handler)
    record = json.loads((done.directory / "heldout.json").read_text())
    assert done.metrics["heldout/accuracy"] == done.objective == record["accuracy"]
    assert done.metrics["heldout/threshold"] == record["threshold"]["value"]
    assert (
        done.checkpoint == Path("best.pt") and done.run_id is None and done.directory.is_relative_to(here / "outputs")
    )


def test_presets_beside_the_work_are_found_and_bound_as_by_the_command(here):
    presets = here / "experiments" / "preset"
    presets.mkdir(parents=True)
    (presets / "mine.yaml").write_text("# @package _global_\noptimizer: {momentom: 1}\n")
    with pytest.raises(facenet.UserError, match="momentom'; preset=mine sets it for another choice"):
        facenet.train(["preset=mine"])
    (presets / "mine.yaml").write_text("# @package _global_\ntracking: {uri: https://elsewhere.example}\n")
    with pytest.raises(
        facenet.UserError, match="tracking.uri=https://elsewhere.example: an address is only opened when"
    ):
        facenet.train(["preset=mine"])
    with pytest.raises(facenet.UserError, match="momentom"):  # said, so that it is not the address that is refused
        facenet.train(["preset=mine", "tracking.uri=https://elsewhere.example", "optimizer.momentom=1"])
    (presets / "mine.yaml").write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n")
    with pytest.raises(facenet.UserError, match="hydra.mode=MULTIRUN: a sweep is for the command: facenet-train -m"):
        facenet.train(["preset=mine"])


@pytest.mark.slow
def test_training_gives_what_the_command_gives_and_twice_in_one_process(here, tiny, tiny_run):
    done = facenet.train([*tiny, "hydra.run.dir=run", f"tracking.uri=sqlite:///{here}/mlflow.db"])
    command = json.loads((tiny_run.run_dir / "result.json").read_text())
    assert done.objective == command["objective"] and done.metrics == command["metrics"]
    assert done.directory == here / "run" and done.checkpoint == here / "run" / "checkpoints" / "best.pt"
    own, others = (checkpoint.load(each / "checkpoints" / "last.pt") for each in (done.directory, tiny_run.run_dir))
    assert all(torch.equal(tensor, others["embedder"][name]) for name, tensor in own["embedder"].items())

    from mlflow import MlflowClient

    found = MlflowClient(tracking_uri=f"sqlite:///{here}/mlflow.db").get_run(done.run_id)
    assert found.info.status == "FINISHED" and found.data.tags["command"].startswith("facenet-train backbone=")
    tested = facenet.evaluate(
        [f"checkpoint={done.checkpoint}", "benchmark=heldout", "tracking=none", "accelerator=cpu"]
    )
    assert tested.objective == done.metrics["heldout/accuracy"] and tested.directory != done.directory
    network = facenet.load(done.directory, device="cpu")
    assert isinstance(network, Network) and network.threshold.value == tested.metrics["heldout/threshold"]
    finished = facenet.train(["resume=run", "tracking=none", "resume_changed=true"])
    assert finished.metrics == done.metrics and finished.run_id == done.run_id


@pytest.mark.slow
def test_ctrl_c_saves_the_run_and_the_next_one_is_felt_again(here, tiny, capsys):
    last = here / "run" / "checkpoints" / "last.pt"

    def interrupt():
        deadline = time.monotonic() + 300
        while not last.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        facenet.train([*tiny, "hydra.run.dir=run", "tracking=none", "trainer.epochs=500"])
    thread.join()
    assert checkpoint.load(last)["step"] >= 4 and f"facenet-train resume={here}/run" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


NOTEBOOK = """
import asyncio, io, sys
import facenet

class Cell(io.StringIO):
    def fileno(self):
        raise io.UnsupportedOperation("fileno")

async def cell() -> str:
    from hydra import compose, initialize_config_dir

    def own() -> str:
        with initialize_config_dir(sys.argv[1] + "/own", version_base="1.3"):
            return str(compose("config").place)

    before = own()
    try:
        facenet.train(["optimizer.momentom=1"])
    except facenet.UserError as error:
        assert "momentom" in str(error)
    assert own() == before == "5", "the program's own files may say what a preset may not"
    done = facenet.evaluate(["checkpoint=best.pt", "benchmark=heldout", "tracking=none", "accelerator=cpu"])
    return f"{done.objective:.3f}"

sys.stdout = cell_output = Cell()
accuracy = asyncio.run(cell())
sys.stdout = sys.__stdout__
assert "heldout: 200 pairs" in cell_output.getvalue()
print(accuracy)
"""


@pytest.mark.slow
@pytest.mark.cold
def test_a_notebook_keeps_its_own_hydra_and_output(tmp_path):
    """In a process that has used Hydra before facenet, under an event loop, with an output that is no file."""
    with tarfile.open(ARCHIVE) as archive:
        member = next(each for each in archive if each.name.endswith("finished/checkpoints/best.pt"))
        (tmp_path / "best.pt").write_bytes(archive.extractfile(member).read())
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.yaml").write_text("place: ${oc.decode:'5'}\nhydra: {job: {name: mine}}\n")
    (tmp_path / "cell.py").write_text(NOTEBOOK)
    command = [sys.executable, str(tmp_path / "cell.py"), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 0.4 < float(done.stdout) < 0.6


USER = """
from pathlib import Path

import facenet

def nearest(place: Path) -> float:
    network: facenet.Network = facenet.load(place, device="cpu")
    rows = network.embed([place / "a.jpg", "b.png"])
    if network.same(rows[0], rows[1]).item():
        return float(network.distance(rows[:1], rows[1:])[0])
    done: facenet.Result = facenet.train(["optimizer.lr=1e-3"])
    tested = facenet.evaluate([f"checkpoint={done.checkpoint}"])
    return tested.metrics["lfw/accuracy"] + len(facenet.__version__)
"""


@pytest.mark.slow
@pytest.mark.cold
def test_a_users_file_passes_mypy_strict(tmp_path):
    """Of other packages nothing is read: a minute, and theirs to keep."""
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "wrong.py").write_text("import facenet\nfacenet.load(7)\nfacenet.train(7)\n")
    strangers = "".join(
        f"[mypy-{name}.*]\nfollow_imports = skip\n"
        for name in ("torch", "hydra", "omegaconf", "mlflow", "PIL", "sqlalchemy")
    )
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nstrict = true\ndisallow_subclassing_any = false\n{strangers}")
    folder = Path(facenet.__file__).parents[1]
    paths = (
        {} if folder.name.endswith("-packages") else {"MYPYPATH": str(folder)}
    )  # of a checkout, which mypy does not look for
    command = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "user.py", "wrong.py"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=900, env={**os.environ, **paths}
    )
    told = [line for line in done.stdout.splitlines() if line.startswith(("user.py", "wrong.py"))]
    assert len(told) == 2 and all(line.startswith("wrong.py:") and "error: Argument 1 to " in line for line in told), (
        done.stdout
    )
