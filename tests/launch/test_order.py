"""What a launcher tells a process of its job: nobody else, nowhere on a disk."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

from facenet.launch.order import RankOrder
from facenet.launch.signals import StopFlag
from facenet.tasks.pruning import Pruner
from facenet.tasks.run import Run

RULE = {"uri": "postgresql://me:hunter2@host/db", "sweep_id": "s", "job_num": "1", "min_jobs": 3, "warmup_epochs": 1}
ORDER = RankOrder(
    run_id="abc",
    lock=7,
    pruning=RULE,
    parent=1,
    grace_s=20.0,
    longest_s=math.inf,
    patience=5,
    stack=6,
    trusted=[["mine", "/place"], ["theirs", None]],
)
SAID = "import sys; sys.stdout.write(open(int(sys.argv[1])).read())"


def test_a_process_reads_its_order_from_a_pipe_and_no_descriptor_is_left(tmp_path):
    before = os.listdir("/proc/self/fd")
    with ORDER.handed() as descriptor:
        assert os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
        command = [sys.executable, "-S", "-c", SAID, str(descriptor)]
        process = subprocess.Popen(command, pass_fds=[descriptor], stdout=subprocess.PIPE, text=True)
    said = process.communicate(timeout=60)[0]
    assert json.loads(said)["pruning"] == RULE and os.listdir("/proc/self/fd") == before
    path = tmp_path / "order"
    path.write_text(said)
    assert RankOrder.read(os.open(path, os.O_RDONLY)) == ORDER


def test_a_process_that_reads_nothing_is_no_error_of_its_launcher():
    before = os.listdir("/proc/self/fd")
    with ORDER.handed():
        pass
    assert os.listdir("/proc/self/fd") == before


def test_a_run_is_what_its_order_says():
    stop = StopFlag(1.0)
    run = Run.of(ORDER, Path("run"), {"seed": 1}, stop)
    assert (run.directory, run.config, run.id, run.stop, run.pruner) == (
        Path("run"),
        {"seed": 1},
        "abc",
        stop,
        Pruner(**RULE),
    )
    stop.close()
