import os
import signal
import socket
import subprocess
import sys

from facenet.tracking.process import alive, of_this_host, start_of, this_process


def test_this_process_lives_until_its_number_is_another_ones():
    tags = this_process()
    assert tags["host"] == socket.gethostname() and tags["pid"] == str(os.getpid())
    assert of_this_host(tags) and alive(tags) and not of_this_host({**tags, "host": "elsewhere"})
    assert not alive({**tags, "pid_started": tags["pid_started"] + "1"}), "the number was used again"
    assert not alive({**tags, "pid_started": "of an earlier boot/1"})
    assert alive({"pid": str(os.getpid())}), "an earlier version's run has no time"
    assert not alive({}) and not alive({"pid": ""})


def test_one_that_has_ended_does_not_live_even_before_its_parent_noticed():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        tags = {"pid": str(process.pid), "pid_started": start_of(process.pid)}
        assert alive(tags)
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        assert not alive(tags)
    assert not alive(tags) and start_of(process.pid) is None
