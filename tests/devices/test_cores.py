"""Cores of a container, and threads of each process."""

from __future__ import annotations

from pathlib import Path

import pytest

from facenet.devices import cores


@pytest.mark.parametrize(
    ("visible", "quota", "found"), [(64, None, 64), (64, 2.0, 2), (64, 2.5, 2), (64, 0.5, 1), (2, 8.0, 2)]
)
def test_a_containers_limit_counts(monkeypatch, visible, quota, found):
    monkeypatch.setattr(cores, "visible_cores", lambda: visible)
    monkeypatch.setattr(cores, "container_cores", lambda: quota)
    assert cores.available_cores() == found


@pytest.mark.parametrize(
    ("said", "threads"), [(None, 2), ("3", 3), ("0", 2), ("4,2", 4), (" 3 ", 3), ("x", 2), ("", 2)]
)
def test_threads_of_a_process(monkeypatch, said, threads):
    monkeypatch.setattr(cores, "available_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert cores.threads_of(4) == threads
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cores.threads_of(16) == 1


def written(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("cpu_", "cpu.", 1)).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("group", "files", "found"),
    [
        ("0::/user/me\n", {"user": "max 100000", "user/me": "150000 100000"}, 1.5),
        ("0::/user/me\n", {"user": "100000 100000", "user/me": "150000 100000"}, 1.0),  # the least of all
        ("0::/user/me\n", {"user": "max 100000"}, None),
        ("0::/\n", {"": "250000 100000"}, 2.5),
        ("0::/../../x\n", {"": "50000 100000"}, 0.5),
        ("nonsense", {"": "400000 100000"}, 4.0),
        ("0::/user\n", {"user": "soon"}, None),
        ("0::/user\n", {"user": "100000 0"}, None),
    ],
)
def test_the_limit_of_a_unit_of_systemd_counts(tmp_path: Path, group: str, files: dict[str, str], found: float | None):
    """The processes of one machine do not all stand in its root group, whose folder has no limit."""
    for folder, text in files.items():
        written(tmp_path / "fs" / folder, cpu_max=text)
    (tmp_path / "own").write_text(group)
    assert cores.container_cores(tmp_path / "fs", tmp_path / "own") == found


def test_the_older_kind_of_groups(tmp_path: Path):
    written(tmp_path / "cpu" / "docker" / "a", cpu_cfs_quota_us="300000", cpu_cfs_period_us="100000")
    (tmp_path / "own").write_text("4:memory:/docker/a\n2:cpu,cpuacct:/docker/a\n")
    assert cores.container_cores(tmp_path, tmp_path / "own") == 3.0
    assert cores.container_cores(tmp_path, tmp_path / "none") is None
    (tmp_path / "cpu" / "docker" / "a" / "cpu.cfs_quota_us").write_text("-1")
    assert cores.container_cores(tmp_path, tmp_path / "own") is None
