"""The plugin that fails a test for what it leaves behind, on tests that do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parent / "plugins"
TESTS = """
import colorsys, ctypes, locale, logging, os, random, resource, shutil, signal, socket, subprocess, sys, tempfile, threading, types
import matplotlib, numpy, pytest, torch

kept, drawn = [], []

@pytest.fixture(scope="module")
def server():
    process = subprocess.Popen(["sleep", "60"])
    os.environ["SERVER"] = "here"
    yield process
    process.kill()
    process.wait()
    del os.environ["SERVER"]

def test_clean_process(): subprocess.run(["true"], check=True)
def test_clean_thread():
    thread = threading.Thread(target=lambda: None)
    thread.start(); thread.join()
def test_clean_of_a_wider_fixture(server): assert server.poll() is None
def test_clean_of_a_wider_fixture_asked_for_late(request): assert request.getfixturevalue("server").poll() is None
def test_clean_monkeypatch(monkeypatch, tmp_path):
    monkeypatch.setenv("A", "1"); monkeypatch.chdir(tmp_path)
def test_left_process(): kept.append(subprocess.Popen(["sleep", "60"]))
def test_left_orphan(): subprocess.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 &"])
def test_left_zombie(): kept.append(subprocess.Popen(["true"]))
def test_left_thread(): threading.Thread(target=threading.Event().wait, args=(60,), daemon=True, name="mine").start()
def test_left_port():
    kept.append(socket.create_server(("127.0.0.1", 0)))
def test_left_variable(): os.environ["LEFT"] = "1"
def test_left_removed_variable(): del os.environ["LEFT"]
def test_left_handler(): signal.signal(signal.SIGUSR2, lambda *_: None)
def test_left_file(): os.mkdir("mlruns")
def test_left_directory(tmp_path): os.chdir(tmp_path)
def test_clean_file(tmp_path): (tmp_path / "mlruns").mkdir(); open("written", "w").close(); os.remove("written")
def test_left_removed_directory(tmp_path): os.chdir(tmp_path); os.rmdir(tmp_path)
def test_left_temporary(): tempfile.mkdtemp()
def test_clean_temporary():
    with tempfile.TemporaryDirectory(): pass
def test_left_descriptor(): kept.append(open(__file__))
def test_left_path(): sys.path.append("/x")
def test_left_stub(): sys.modules["stub"] = types.ModuleType("stub")
def test_left_removed_module(): del sys.modules["colorsys"]
def test_clean_module(): import wave
def test_left_function(): shutil.which = lambda name: None
def test_clean_function(monkeypatch): monkeypatch.setattr(shutil, "which", lambda name: None)
def test_left_umask(): os.umask(0o007)
def test_left_blocked(): signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
def test_left_subreaper(): ctypes.CDLL(None).prctl(36, 1)
def test_left_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
def test_left_locale(): locale.setlocale(locale.LC_CTYPE, "C" if "UTF" in locale.setlocale(locale.LC_CTYPE) else "C.UTF-8")
def test_left_picture_setting(): matplotlib.rcParams["lines.linewidth"] = 9.0
def test_left_array_setting(): numpy.seterr(all="raise")
def draw(): drawn.append((random.random(), numpy.random.random(), torch.rand(1).item()))
def test_clean_random(): draw()
def test_clean_random_again():
    draw()
    assert drawn[0] == drawn[1]
def test_left_level(): logging.getLogger().setLevel(5)
def test_left_log_handler(): logging.getLogger().addHandler(logging.StreamHandler())
def test_left_dtype(): torch.set_default_dtype(torch.float64)
def test_left_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
"""
WIDE = """
import os, pytest

@pytest.fixture(scope="module")
def kept():
    os.environ["KEPT"] = "1"

def test_left_by_a_wider_fixture(kept): pass
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run of these tests says of each."""
    folder = tmp_path_factory.mktemp("leaks")
    (folder / "test_these.py").write_text(TESTS)
    (folder / "test_wide.py").write_text(WIDE)
    (folder / "temporary").mkdir()
    (folder / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(PLUGINS)!r})\nimport leaks\nleaks.GRACE_S = 0.3\nfrom leaks import *\n"
    )
    flags = ("-q", "-rA", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist")
    with (folder / "said").open("w") as out:  # no pipe, which what is left behind would hold open
        command = [sys.executable, "-m", "pytest", *flags, "test_these.py", "test_wide.py"]
        wide = {**os.environ, "COLUMNS": "1000", "TMPDIR": str(folder / "temporary")}
        process = subprocess.Popen(command, cwd=folder, env=wide, stdout=out, stderr=out, start_new_session=True)
        try:
            process.wait(300)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said: dict[str, str] = {}
    for line in (folder / "said").read_text().splitlines():
        word, _, rest = line.partition(" ")
        name, _, reason = rest.partition(" - ")
        if word in ("PASSED", "ERROR") and "::" in name:
            said[name.split("::")[1]] = reason if word == "ERROR" else said.get(name.split("::")[1], "")
    assert len(said) == TESTS.count("def test_") + 1, (folder / "said").read_text()
    return said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("process", "process "),
        ("orphan", "process "),
        ("zombie", "(ended, not waited for)"),
        ("thread", "thread mine"),
        ("port", "open listening port "),
        ("variable", "variable LEFT: None, now '1'"),
        ("removed_variable", "variable LEFT: '1', now None"),
        ("handler", "handler of SIGUSR2"),
        ("directory", "working directory"),
        ("removed_directory", "now 'removed'"),
        ("temporary", "/temporary/tmp"),
        ("descriptor", "/test_these.py"),
        ("path", "sys.path: ['"),
        ("stub", "module stub, which was made by hand"),
        ("removed_module", "module colorsys is gone"),
        ("function", "shutil.which: <function which "),
        ("umask", "umask: '00"),
        ("blocked", "blocked signals: set(), now {<Signals.SIGUSR1"),
        ("subreaper", "subreaper: False, now True"),
        ("limit", "limits: {"),
        ("locale", "locale: '"),
        ("picture_setting", "matplotlib's rcParams: {"),
        ("array_setting", "NumPy's errors: {"),
        ("by_a_wider_fixture", "variable KEPT: None, now '1'"),
        ("file", "/mlruns"),
        ("level", "level of the root logger: 30, now 5"),
        ("log_handler", 'handlers of the root logger: [], now ["<StreamHandler <'),
        ("dtype", "torch's default dtype: 'torch.float32', now 'torch.float64'"),
        ("group", "a process group"),
    ],
)
def test_what_a_test_leaves_behind_fails_it(lines: dict[str, str], name: str, said: str):
    assert "left behind" in lines[f"test_left_{name}"] and said in lines[f"test_left_{name}"]


def test_what_a_test_puts_back_and_what_a_wider_fixture_holds_is_fine(lines: dict[str, str]):
    clean = {name: reason for name, reason in lines.items() if name.startswith("test_clean")}
    assert len(clean) == 11 and not any(clean.values()), clean
