"""Commands without a home directory, with closed streams, and with nobody who reads what they say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from facenet.files import home
from facenet.files.cache_dir import cache_dir
from facenet.launch import surroundings

BIN = Path(sys.executable).parent
# Prints more than a pipe holds, then says on a file how it went, and which number a new file gets.
TALKS = """
import os, sys
from facenet.launch.surroundings import settle
settle()
import subprocess
for line in range(20000): print("a line that is printed", line)
print("an error", file=sys.stderr)
subprocess.run(["sh", "-c", "echo from a process 2>&-"], check=CHECK)
opened = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(opened, f"{opened > 2}".encode())
sys.stdout.flush()
"""


def talked(tmp_path, *redirected, check=True):
    told = tmp_path / "told"
    command = [sys.executable, "-c", TALKS.replace("CHECK", str(check)), str(told)]
    shell = ["sh", "-c", f'"$@" {" ".join(redirected)}', "sh", *command]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=120)
    return done, told.read_text()


@pytest.mark.parametrize("redirected", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere_and_no_file_takes_their_numbers(tmp_path, redirected):
    done, told = talked(tmp_path, redirected)
    assert (done.returncode, told) == (0, "True") and "Traceback" not in done.stderr


@pytest.mark.parametrize("redirected", ["| head -1", "2>&1 | head -1"])
def test_a_reader_that_goes_away_costs_what_it_would_have_read(tmp_path, redirected):
    done, told = talked(tmp_path, redirected, check=False)
    assert done.stdout == "a line that is printed 0\n" and told == "True"
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_takes_no_output_and_ends_nothing(tmp_path):
    done, told = talked(tmp_path, "> /dev/full", check=False)
    assert (done.returncode, told) == (0, "True")


def test_what_can_be_read_is_all_there(tmp_path):
    done, _ = talked(tmp_path, "2>&1")
    lines = done.stdout.splitlines()
    assert lines[0] == "a line that is printed 0" and "a line that is printed 19999" in lines
    assert (
        "an error\n" in done.stdout and "from a process\n" in done.stdout
    )  # amid a line, of which the buffer had a part yet


@pytest.mark.parametrize("command", ["facenet-train --help", "facenet-data --help", "facenet-runs reap --help"])
def test_commands_end_well_without_a_reader(command):
    program, *arguments = command.split()
    line = f'"$0" {" ".join(arguments)} 2>&1 | head -1; test "${{PIPESTATUS[0]}}" = 0'
    done = subprocess.run(["bash", "-c", line, str(BIN / program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1


@pytest.fixture
def nobody(monkeypatch):
    """A process whose user has no name, as in a container that was started with another number."""

    def unknown(*_):
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("pwd.getpwnam", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "FACENET_CACHE"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_home_nothing_is_kept_and_paths_stay_what_they_are(nobody, monkeypatch):
    assert cache_dir() is None and home.expand_home("~/faces") == Path("~/faces")
    with pytest.raises(RuntimeError):
        Path.home()
    surroundings.settle()
    monkeypatch.setenv("HOME", os.environ["HOME"])  # so that it is put back
    assert Path.home() == Path(os.devnull) and cache_dir() is None


@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME", "FACENET_CACHE"])
def test_a_place_is_taken_if_it_can_be_written(nobody, monkeypatch, tmp_path, name):
    monkeypatch.setenv(name, str(tmp_path / "a" / "b"))
    assert cache_dir() in [tmp_path / "a" / "b" / rest for rest in ("", "facenet", ".cache/facenet")]
    assert not (tmp_path / "a").exists()  # asking makes nothing
    (tmp_path / "a").write_text("a file")
    assert cache_dir() is None


def test_a_home_that_may_not_be_looked_into(nobody, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    monkeypatch.setattr(home.os, "access", lambda *_: False)
    assert cache_dir() is None


def test_a_home_of_nobody_in_a_path_is_named_as_it_was_given():
    assert home.expand_home("~no-such-user/faces") == Path("~no-such-user/faces")
    assert home.expand_home("~/faces") == Path.home() / "faces"
