"""Cores of a container, and threads of each process."""

from __future__ import annotations

import pytest

from facenet import cores


@pytest.mark.parametrize(
    ("visible", "quota", "found"), [(64, None, 64), (64, 2.0, 2), (64, 2.5, 2), (64, 0.5, 1), (2, 8.0, 2)]
)
def test_a_containers_limit_counts(monkeypatch, visible, quota, found):
    monkeypatch.setattr(cores, "visible_cores", lambda: visible)
    monkeypatch.setattr(cores, "container_cores", lambda: quota)
    assert cores.available_cores() == found


@pytest.mark.parametrize(("said", "threads"), [(None, 2), ("3", 3), ("0", 2), ("4,2", 2), ("", 2)])
def test_threads_of_a_process(monkeypatch, said, threads):
    monkeypatch.setattr(cores, "available_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert cores.threads_of(4) == threads
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cores.threads_of(16) == 1
