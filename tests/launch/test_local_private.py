"""What the processes of a job keep to themselves: the working directory's modules stay out, and nobody on the network gets in."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from facenet.devices.table import loopback_only
from facenet.launch.local import local_store, module_command
from facenet.tasks.origin import git_state

LISTENING = """
import os
held = set()
for number in os.listdir("/proc/self/fd"):
    try:
        held.add(os.readlink(f"/proc/self/fd/{number}"))
    except OSError:
        pass
for kind in ("tcp", "tcp6"):
    for line in open(f"/proc/self/net/{kind}").read().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in held:
            print(kind, fields[1].rpartition(":")[0])
"""
LOOPBACK = {"tcp 0100007F", "tcp6 00000000000000000000000001000000", "tcp6 0000000000000000FFFF00000100007F"}
GROUP = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1); dist.all_reduce(total); assert total == 2
exec(os.environ["LISTENING"])
print("end", flush=True); dist.barrier(); os._exit(0)
"""
STRANGERS = ("secrets", "random", "tempfile", "runpy", "torch", "sitecustomize", "numpy", "facenet")


def listeners(said: str) -> set[str]:
    return {line for line in said.splitlines() if line.startswith("tcp")}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks the kernel for its listeners")
def test_the_group_of_a_job_listens_on_this_machine_alone():
    store = local_store()
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2", "LISTENING": LISTENING}
    place |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}  # torch 2.4 asks for both
    place |= loopback_only()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", GROUP],
            env={**os.environ, **place, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=180)[0] for process in processes]
    assert all("end" in text and listeners(text) for text in said)  # gloo does listen
    assert set().union(*map(listeners, said)) <= LOOPBACK
    assert listeners(own_listeners()) and listeners(own_listeners()) <= LOOPBACK  # the store is this process's own


def own_listeners() -> str:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(LISTENING, {})
    return said.getvalue()


def test_the_table_says_the_interface_for_every_backend():
    assert set(loopback_only().values()) == {"lo"}
    assert {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TCCL_SOCKET_IFNAME"} == loopback_only().keys()


@pytest.mark.cold
def test_a_module_of_ours_takes_nothing_from_the_working_directory(tmp_path: Path):
    for name in STRANGERS:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} ')\n")
    for module in ("facenet.tasks.worker", "facenet.sweeps.job"):  # both end with an error for want of arguments
        done = subprocess.run([*module_command(module)], cwd=tmp_path, capture_output=True, text=True)
        assert "IndexError" in done.stderr and not (tmp_path / "ran").exists(), done.stderr
    done = subprocess.run([sys.executable, "-m", "facenet", "--version"], cwd=tmp_path / "..", capture_output=True)
    assert done.returncode == 0


@pytest.mark.cold
def test_a_module_of_ours_still_takes_what_the_user_puts_on_the_path(tmp_path: Path):
    (tmp_path / "mine.py").write_text("print('mine')\n")
    command = module_command("mine")
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.stdout == "mine\n", done.stderr
    safe = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    assert subprocess.run(command, env=safe, capture_output=True, text=True).stdout == "mine\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Somebody's, whose config and attributes name programs for all that git asks them for; one file is committed."""
    folder, mark = tmp_path / "theirs", tmp_path / "ran"
    folder.mkdir()
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho ran >> {mark}\ncat\n")
    program.chmod(0o755)

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)

    git("init", "-q")
    (folder / "file").write_text("one\n")
    git("add", "file")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "one")
    (folder / ".gitattributes").write_text("* filter=odd=name diff=odd\n")
    for key in (
        "core.fsmonitor",
        "core.pager",
        "diff.external",
        "diff.odd.textconv",
        "core.sshCommand",
        "core.askPass",
    ):
        git("config", key, str(program))
    for key in ("clean", "smudge", "process"):
        with (folder / ".git" / "config").open("a") as config:
            config.write(f'[filter "odd=name"]\n\t{key} = {program}\n')
    hooks = folder / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("post-index-change", "fsmonitor-watchman", "pre-commit"):
        (hooks / hook).write_text(program.read_text())
        (hooks / hook).chmod(0o755)
    return folder


@pytest.mark.parametrize("change", ["none", "touched", "changed"])
def test_no_program_of_a_strangers_repository_runs(repository: Path, tmp_path: Path, change: str):
    file = repository / "file"
    if change == "touched":
        os.utime(file, (1, 1))
    if change == "changed":
        file.write_text("two\n")
    state = git_state(repository)
    assert not (tmp_path / "ran").exists()
    assert len(state["mlflow.source.git.commit"]) == 40
    assert state["git.dirty"] == ("true" if change == "changed" else "false")
    before = (repository / ".git" / "index").read_bytes()
    assert git_state(repository) == state and (repository / ".git" / "index").read_bytes() == before
    subprocess.run(["git", "-C", str(repository), "status"], check=True, capture_output=True)
    assert (tmp_path / "ran").exists()  # as git does by itself


def test_the_state_of_a_worktree_and_of_a_subfolder_is_known(repository: Path, tmp_path: Path):
    (repository / "deeper").mkdir()
    assert git_state(repository / "deeper") == git_state(repository)
    subprocess.run(["git", "-C", str(repository), "config", "--unset-all", "core.fsmonitor"], check=True)
    add = [
        "git",
        "-C",
        str(repository),
        "-c",
        "core.hooksPath=/dev/null",
        "worktree",
        "add",
        "-q",
        str(tmp_path / "tree"),
    ]
    subprocess.run(add, check=True, capture_output=True)
    assert git_state(tmp_path / "tree") == git_state(repository)
    assert git_state(tmp_path) == {}
