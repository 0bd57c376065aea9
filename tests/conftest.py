"""Real faces, which live beside the checkout and never in it, and the SDAA stand-in; tests skip where what they need is absent."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import warm
from xdist.scheduler import LoadFileScheduling

# Before torch is imported, and for the processes that tests start: threads that spin on two shared cores cost ten times what they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What tests and the processes they start keep for next time does not outlive them, nor does it come from the user's own runs. Their temporary
# files are apart from those of other processes, so that plugins/leaks.py sees whose they are; pytest's and what torch compiled stay where they were.
TEMPORARY = tempfile.gettempdir()
OWN = tempfile.TemporaryDirectory(prefix="facenet-test-")
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", TEMPORARY)
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{TEMPORARY}/torchinductor_{getpass.getuser()}")
os.environ["FACENET_CACHE"] = f"{OWN.name}/cache"
os.environ["TMPDIR"] = tempfile.tempdir = f"{OWN.name}/tmp"
os.mkdir(tempfile.tempdir)

pytest_plugins = ["jobs", "leaks"]

# Files that take longest, which must not come last where two processes share the files out.
LONGEST = (
    *(
        "test_published_weights.py",
        "test_chaos.py",
        "test_standin.py",
        "test_elsewhere.py",
        "test_distribution.py",
        "test_resume.py",
        "test_walk.py",
        "test_train.py",
        "test_mlflow.py",
        "test_watched.py",
    ),
    *("test_torchrun.py", "test_local.py", "test_sweep.py", "test_composed.py", "test_evaluate.py", "test_conf.py"),
)
STANDIN = Path(__file__).parent / "sdaa_standin"
SHARED = Path(os.environ.get("FACENET_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """None for a test or a file or two: each more process imports torch anew, which is longer than most files take."""
    few = len(config.args) <= 2 and all(Path(name.partition("::")[0]).is_file() for name in config.args)
    return 0 if few else len(os.sched_getaffinity(0))


# Folders whose files share what takes a minute to make, and so run in one process.
TOGETHER = ("tests/browser/",)


class Files(LoadFileScheduling):
    """File after file, but for folders that stay together."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in TOGETHER if nodeid.startswith(folder)), super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Files:
    return Files(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    if os.environ.get("FACENET_NIGHTLY") != "1":
        for item in items:
            if item.get_closest_marker("nightly"):
                item.add_marker(pytest.mark.skip(reason="long; .ci/nightly runs it, or FACENET_NIGHTLY=1"))


# Workers of xdist start warm too: each would import torch and MLflow for itself, and its warm parent once more. Under coverage they do not, so that
# what runs when a module is imported is measured.
WORKERS = contextlib.ExitStack()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before xdist starts its workers, which it does last of all."""
    if session.config.getoption("dist", "no") != "no" and not any(name in os.environ for name in warm.MEASURING):
        WORKERS.enter_context(warm.use())


def pytest_sessionfinish() -> None:
    WORKERS.close()


@pytest.fixture(scope="session", autouse=True)
def warm_processes() -> Iterator[None]:
    """Python commands that tests start have their imports done already; see plugins/warm.py."""
    with warm.use():
        yield


@pytest.fixture(autouse=True)
def cold_where_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    with warm.cold() if request.node.get_closest_marker("cold") else contextlib.nullcontext():
        yield


@pytest.fixture(autouse=True)
def no_command_on_record() -> None:
    """A command that a test calls in this process has its words on record as long as the process lives."""
    overlays = sys.modules.get("facenet.config.overlays")
    if overlays is not None:
        overlays.said_beside.set(None)


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


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """together(code, num_processes): runs the code as so many processes that form a group on this machine; all must end with 0."""

    def run(code: str, num_processes: int, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        script = tmp_path_factory.mktemp("together") / "together.py"
        # As facenet.tasks.worker leaves: interpreter exit after a process group aborts now and then.
        script.write_text(code + "\nimport os\nos._exit(0)\n")
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(num_processes)}
        processes = [
            subprocess.Popen(
                [sys.executable, str(script)],
                env={**os.environ, **group, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(num_processes)
        ]
        errors = [process.communicate(timeout=600)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * num_processes, "\n".join(errors)

    return run


@pytest.fixture(scope="session")
def standin() -> dict[str, str]:
    """What a process needs in its environment to have the SDAA stand-in, which is compiled here if it is not yet.

    FACENET_TEST_STANDIN_BUILD names another folder for it than the user's cache. Not for this process: there is no way back from it.
    """
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler (c++) to make the SDAA stand-in with")
    # Kept for the next run, and for other processes of this one; its folders are named after torch, Python and the source.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    build = os.environ.get("FACENET_TEST_STANDIN_BUILD") or str(cache / "facenet-tests")
    path = os.pathsep.join([str(STANDIN), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": path, "SDAA_SIM_BUILD_DIR": build}
    done = subprocess.run(
        [sys.executable, "-c", "import torch_sdaa"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return environment
