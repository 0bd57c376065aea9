import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from facenet.errors import UserError
from facenet.tracking import journal
from facenet.tracking.journal import Journal


def written(path, *records):
    log = Journal(path)
    for record in records:
        log.add(**record)
    log.close()


@pytest.fixture
def path(tmp_path):
    return journal.begin(tmp_path, "a" * 32, "sqlite:///x")


def test_anybody_can_read_it(path):
    written(path, {"step": 1, "metrics": {"loss": 0.5}}, {"artifact": "roc.png", "folder": "curves"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"run": "a" * 32, "store": "sqlite:///x"}
    assert [{**line, "time": 0} for line in lines[1:]] == [
        {"time": 0, "step": 1, "metrics": {"loss": 0.5}},
        {"time": 0, "artifact": "roc.png", "folder": "curves"},
    ]


def test_a_run_goes_on_in_its_journal_without_a_line_that_was_cut_off(path, tmp_path):
    written(path, {"step": 3, "metrics": {"loss": 0.5, "lr": 1.0}}, {"step": 5, "metrics": {"loss": 0.25}})
    before = path.read_bytes()
    path.write_bytes(before + b'{"time": 1, "step": 7, "metr')
    assert journal.last_steps(path) == {"loss": 5, "lr": 3}
    assert journal.begin(tmp_path, "a" * 32, None).read_bytes() == before


def test_another_run_begins_its_own_and_leaves_what_was_not_sent(path, tmp_path):
    written(path, {"step": 1, "metrics": {"loss": 0.5}})
    before = path.read_bytes()
    begun = before.index(b"\n") + 1
    with journal.marked(path) as mark:
        mark.move(begun)
    assert journal.read(journal.begin(tmp_path, "b" * 32, None)).__next__()[0]["run"] == "b" * 32
    other = tmp_path / f"metrics-{'a' * 32}.jsonl"
    assert other.read_bytes() == before and journal.sent(other) == begun
    assert journal.sent(path) == 0 and journal.journals(tmp_path) == sorted([path, other])
    with journal.marked(path) as mark:
        mark.move(journal.whole(path))
    journal.begin(tmp_path, "c" * 32, None)
    assert journal.journals(tmp_path) == sorted([path, other]), "one that was sent is replaced"


def test_the_end_is_the_last_line_or_none(path):
    assert journal.last_end(path) is None
    written(path, {"end": "KILLED", "error": "x" * 100_000})
    assert journal.last_end(path)["end"] == "KILLED"
    written(path, {"step": 1, "metrics": {"loss": 0.5}})
    assert journal.last_end(path) is None, "it was taken up again"


def test_lines_of_several_writers_stay_whole(path):
    values = {f"system/{number}": 0.123456789 for number in range(200)}  # 6 KiB a line
    threads = [
        threading.Thread(target=written, args=(path, *[{"step": step, "metrics": values} for step in range(200)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("step" in record for record, _ in journal.read(path)) == 800


def test_a_full_disk_is_told():
    full = "^/dev/full: cannot be written .No space left on device.; free space or set"
    with contextlib.closing(Journal(Path("/dev/full"))) as log, pytest.raises(UserError, match=full):
        log.add(step=1, metrics={"loss": 0.5})


def test_one_sender_at_a_time(path):
    order = []

    def second():
        with journal.marked(path) as mark:
            order.append(mark.place)

    with journal.marked(path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
        with journal.mark_path(path).open("r+") as file:
            file.write(str(journal.whole(path)))
    thread.join()
    assert order == ["first", journal.whole(path)]


CUT = """
import os, resource, signal, sys
from facenet.errors import UserError
from facenet.tracking.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = Journal(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    while True: log.add(step=1, metrics={"a": 1.0})
except UserError as error: print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
log.add(end="FAILED", error="")
"""


def test_a_line_that_the_disk_takes_only_in_part_is_taken_back(tmp_path):
    path = journal.begin(tmp_path, "a" * 32, None)
    done = subprocess.run([sys.executable, "-c", CUT, str(path)], capture_output=True, text=True, check=True)
    assert "no space for all of a line" in done.stdout
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records[-1]["end"] == "FAILED" and len(records) > 5 and 900 < path.stat().st_size < 1100
