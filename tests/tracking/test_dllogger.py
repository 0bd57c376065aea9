import ast
import json
import os
import signal
import subprocess
import sys
from datetime import datetime

import pytest

from facenet.errors import UserError
from facenet.tracking.dllogger import VendorLog, read_metric


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "dllogger-2.json"
    log = VendorLog(path, 2)
    log.train(0, 20, loss=2.5, ips=300.25, lr=1e-3)
    log.train(0, 40, loss=0.1, ips=310.0, lr=5e-4)
    log.val(0, 40, 3, loss=1.5, ips=900.0)
    log.close()
    return path


def as_the_vendor_reads(path):
    """[(step, data)] of LOG lines: json first, then the string `data` as Python."""
    rows = []
    for line in path.read_text().splitlines():
        assert line.startswith("TCAPPDLL")
        entry = json.loads(line.split("TCAPPDLL")[1].strip())
        if entry["type"] == "LOG":
            assert isinstance(entry["data"], str)
            rows.append((entry["step"], ast.literal_eval(entry["data"])))
    return rows


def test_the_vendors_way_to_read_gives_what_was_written(written):
    rows = as_the_vendor_reads(written)
    assert rows[:3] == [
        ([0, 20], {"rank": "2", "train.loss": "2.5", "train.ips": "300.25", "train.lr": "0.001"}),
        ([0, 40], {"rank": "2", "train.loss": "0.1", "train.ips": "310.0", "train.lr": "0.0005"}),
        ([0, 40, 3], {"rank": "2", "val.loss": "1.5", "val.ips": "900.0"}),
    ]
    # Their loss.py counts each line with train.loss as an iteration: the summary must not be one.
    assert [float(data["train.loss"]) for _, data in rows if "train.loss" in data] == [2.5, 0.1]
    step, summary = rows[3]
    assert step == "summary" and len(rows) == 4
    assert summary == {
        "rank": "2",
        "summary.train.loss": "0.1",
        "summary.train.ips": "310.0",
        "summary.train.lr": "0.0005",
        "summary.val.loss": "1.5",
        "summary.val.ips": "900.0",
    }


def test_metadata_come_first_and_every_line_has_its_times(written):
    entries = [json.loads(line.removeprefix("TCAPPDLL ")) for line in written.read_text().splitlines()]
    assert [entry["type"] for entry in entries] == ["METADATA"] * 5 + ["LOG"] * 4
    metadata = {entry["metric"]: entry["metadata"] for entry in entries[:5]}
    assert metadata["train.ips"] == {"unit": "imgs/s", "format": ":.3f", "GOAL": "MAXIMIZE", "STAGE": "TRAIN"}
    assert metadata["val.loss"] == {"unit": "", "format": ":.6f", "GOAL": "MINIMIZE", "STAGE": "VALID"}
    assert set(metadata) == {"train.loss", "train.ips", "train.lr", "val.loss", "val.ips"}
    for entry in entries:
        at = datetime.fromisoformat(entry["datetime"]).timestamp()
        assert float(entry["timestamp"]) == pytest.approx(at, abs=1e-3) and 0 <= float(entry["elapsedtime"]) < 60


def test_a_second_run_appends(written):
    before = written.read_text()
    log = VendorLog(written, 2)
    log.train(0, 20, loss=float("nan"), ips=1.0, lr=0.1)
    log.close()
    assert written.read_text().startswith(before)
    assert as_the_vendor_reads(written)[4][1]["train.loss"] == "nan"


def test_a_log_without_points_has_no_summary(tmp_path):
    VendorLog(tmp_path / "log", 0).close()
    assert as_the_vendor_reads(tmp_path / "log") == []


KILLED = """
import pathlib, sys, time
from facenet.tracking.dllogger import VendorLog
log = VendorLog(pathlib.Path(sys.argv[1]), 0)
log.train(0, 1, loss=0.5, ips=1.0, lr=0.1)
print("written", flush=True)
time.sleep(60)
"""


def test_a_killed_process_leaves_its_lines(tmp_path):
    path = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "written\n"
        os.kill(process.pid, signal.SIGKILL)
    assert [step for step, _ in as_the_vendor_reads(path)] == [[0, 1]]


def test_what_was_written_is_read(written):
    assert read_metric(written, "train.loss") == [(0, 20, 2.5), (0, 40, 0.1)]
    assert read_metric(written, "val.ips") == [(0, 40, 900.0)]


DIALECTS = {
    "the vendor's file": [
        'TCAPPDLL {"timestamp": "1.5", "type": "METADATA", "metric": "train.loss", "metadata": {"unit": ""}}',
        "TCAPPDLL {\"type\": \"LOG\", \"step\": [0, 0], \"data\": \"{'rank': '0', 'train.loss': '2.5', 'x': None}\"}",
        'INFO {"local_rank": 0, "type": "INFO", "data": {"lr": 0.1}}',
        'TCAPPDLL {"type": "LOG", "step": [0, 1], "data": "{\'rank\': \'0\', \'train.loss\': \'1.25\'}"}',
    ],
    "NVIDIA's file": [
        'DLLL {"type": "METADATA", "metric": "train.loss", "metadata": {}}',
        'DLLL {"type": "LOG", "step": "PARAMETER", "data": {"train.loss": 9}}',
        'DLLL {"type": "LOG", "step": [0, 0], "data": {"train.loss": 2.5, "lr": null}}',
        'DLLL {"type": "LOG", "step": [0, 1], "data": {"train.loss": 1.25}}',
        'DLLL {"type": "LOG", "step": [0], "data": {"train.loss": 1.875}}',  # the mean of an epoch
        'DLLL {"type": "LOG", "step": [], "data": {"train.loss": 1.0}}',
    ],
    "the vendor's console, with a launcher's prefix and other ranks": [
        "[rank0]: loading",
        "[rank0]:TCAPPDLL 2025-07-04 06:27:57.8 - Epoch: 0 Iteration: 0  rank : 0  train.loss : 2.5  train.ips : 575.1 imgs/s",
        "[rank1]:TCAPPDLL 2025-07-04 06:27:57.8 - Epoch: 0 Iteration: 0  rank : 1  train.loss : 7.5  train.ips : 575.1 imgs/s",
        "[rank0]:TCAPPDLL 2025-07-04 06:27:57.9 - Epoch: 0 Iteration: 1  rank : 0  train.loss : 1.25  train.ips : 865.8 imgs/s",
    ],
    "NVIDIA's console": [
        "DLL 2020-11-05 10:25:15.5 - PARAMETER batch_size : 96 ",
        "DLL 2020-11-05 10:25:16.5 - (0, 0) train.loss : 2.5  lr : 0.1 ",
        "DLL 2020-11-05 10:25:17.5 - [0, 1] train.loss : 1.25  lr : 0.1 ",
    ],
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_read(dialect, tmp_path):
    (tmp_path / "log").write_text("\n".join(DIALECTS[dialect]) + "\n")
    assert read_metric(tmp_path / "log", "train.loss") == [(0, 0, 2.5), (0, 1, 1.25)]


GOOD = DIALECTS["the vendor's file"][3]


@pytest.mark.parametrize(
    "line",
    [
        GOOD[:-20],
        GOOD.replace("'1.25'", "'1.25"),
        GOOD.replace("1.25", "much"),
        'TCAPPDLL {"type": "LOG", "step": [0, 1]}',
        'TCAPPDLL {"type": "LOG", "step": [0, 1], "data": "[1]"}',
        'DLLL {"type": "LOG", "step": [0, null], "data": {"train.loss": 1}}',
        'DLLL {"type": "LOG", "step": [0, 1], "data": {"train.loss": null}}',
        "TCAPPDLL 2025-07-04 06:27:57.8 - Epoch: 0 Iteration: 0  train.loss : None",
    ],
)
def test_a_broken_line_is_named_by_its_number(line, tmp_path):
    path = tmp_path / "log"
    path.write_text(f"{GOOD}\n{line}\n{GOOD}\n")
    with pytest.raises(UserError, match=f"^{path}:2: not a whole log line .*; repair or delete it$"):
        read_metric(path, "train.loss")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("epoch 1: loss 0.5\n", "no TCAPPDLL or DLLL line of an iteration in it"),
        (GOOD, "no metric val.loss in it; it has rank, train.loss"),
    ],
)
def test_a_file_without_the_metric_says_what_is_wrong(text, message, tmp_path):
    path = tmp_path / "log"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as raised:
        read_metric(path, "val.loss")
    assert str(raised.value) == f"{path}: {message}"
