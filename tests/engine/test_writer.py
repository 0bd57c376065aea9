import threading
import time

import pytest
import torch

from facenet.engine import checkpoint, writer
from facenet.engine.writer import Writer
from facenet.errors import UserError

CONTENT = {"config": {}, "identities": [], "embedder": {}, "loss": {}, "epoch": 1, "step": 1, "metrics": {}}


def saving(path):
    return lambda: checkpoint.write(CONTENT, path)


def test_the_loop_goes_on_while_one_write_at_a_time_is_done():
    may_end, order = threading.Event(), []

    def slow(name):
        may_end.wait(60)
        order.append(name)

    with Writer() as background:
        began = time.monotonic()
        background.start(lambda: slow("first"))
        assert order == []
        threading.Timer(0.3, may_end.set).start()
        background.start(lambda: slow("second"))  # waits for the first
        assert order == ["first"] and 0.2 < time.monotonic() - began < 5
    assert order == ["first", "second"]


def test_a_checkpoint_pauses_the_loop_for_less_than_50_ms(tmp_path):
    """Beyond the copy; the best of ten, for the cores may be shared."""
    content, pauses = {**CONTENT, "embedder": {"weight": torch.randn(5_000_000)}}, []
    with Writer() as background:
        for _ in range(10):
            background.finish()
            began = time.perf_counter()
            background.start(lambda: checkpoint.write(content, tmp_path / "last.pt"))
            pauses.append(time.perf_counter() - began)
    assert min(pauses) < 0.05
    assert torch.equal(checkpoint.load(tmp_path / "last.pt")["embedder"]["weight"], content["embedder"]["weight"])


def test_a_write_that_fails_is_told_and_comes_through_later(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(writer, "RETRY_S", 0.02)
    path = tmp_path / "away" / "last.pt"
    with Writer() as background:
        background.start(saving(path))
        while not caplog.records:
            time.sleep(0.01)
        path.parent.mkdir()
        while not path.exists():
            time.sleep(0.01)
    told, after = (record.getMessage() for record in caplog.records)
    assert told.startswith(
        f"checkpoint: {path} cannot be written (No such file or directory; {path.parent} is not there)"
    )
    assert "training goes on" in told and after == "the checkpoint is written after all"
    assert checkpoint.load(path)["step"] == 1


def test_one_that_fails_until_the_next_is_due_ends_the_run(tmp_path):
    background, path = Writer(), tmp_path / "away" / "last.pt"
    background.start(saving(path))
    began = time.monotonic()
    with pytest.raises(UserError, match=f"checkpoint: {path} cannot be written"):
        background.start(saving(tmp_path / "other.pt"))
    assert time.monotonic() - began < 5 and not (tmp_path / "other.pt").exists()  # it does not wait RETRY_S
    background.finish()  # nothing is left
    with pytest.raises(UserError, match="cannot be written"), background:
        background.start(saving(path))


def test_a_run_that_fails_for_another_reason_says_both(tmp_path, caplog):
    with pytest.raises(ValueError, match="boom"), Writer() as background:
        background.start(saving(tmp_path / "away" / "last.pt"))
        raise ValueError("boom")
    assert "away/last.pt cannot be written" in caplog.text
    with pytest.raises(ValueError, match="boom"), Writer() as background:
        background.start(saving(tmp_path / "last.pt"))
        raise ValueError("boom")
    assert checkpoint.load(tmp_path / "last.pt")["epoch"] == 1  # what was under way is done
