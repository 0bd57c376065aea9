"""What is printed, logged and drawn of names from outside: nothing that a terminal obeys, and every letter that a person reads."""

from __future__ import annotations

import io
import logging
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from facenet import errors
from facenet.engine.curves import save_curves
from facenet.errors import in_picture, printable, shown
from facenet.launch.failure import Failure
from facenet.privacy.logs import guard_logs
from facenet.reports.ranking import ranked_table
from facenet.reports.study import Job as Ranked
from facenet.reports.study import Study
from facenet.sweeps import table
from facenet.sweeps.plans import Job
from facenet.tasks.compared import run_name
from facenet.tools.compare_loss import Curves, as_text, compare, draw
from facenet.tools.doctor.report import Report
from facenet.tracking.facts import AXES, value_tags
from facenet.tracking.store import first_line

GOOD = "李小龍 Dora Ünal é 50 % 👩"  # the last is one letter, in groups they are joined by one that cannot be seen
BAD = "\x1b[31m\x07\r\x9b\u202e\u2066\u200b\u2028\u00ad\udcff"
NAME = f"{GOOD}{BAD}\n12:00:00 INFO all went well"


def obeyed(text: str) -> list[str]:
    """The characters in it that a terminal acts on, or that cannot be seen."""
    return [one for one in text if one != "\n" and unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def test_letters_stay_and_what_a_terminal_obeys_is_spelled() -> None:
    assert shown(GOOD) == GOOD and printable(f"a\tb\n{GOOD}\n") == f"a\tb\n{GOOD}\n"
    assert shown("a\nb\x1b[0m\u202e") == "a\\nb\\x1b[0m\\u202e" and printable("a\nb\x1b\tc") == "a\nb\\x1b\tc"
    assert shown("漢字\u3000かな\xa0x") == "漢字\u3000かな\xa0x", "blanks of other scripts"
    assert obeyed(shown(NAME)) == [] and "\n" not in shown(NAME) and shown(NAME).startswith(GOOD)
    assert shown(NAME).encode("utf-8") and shown(shown(NAME)) == shown(NAME)


@pytest.fixture
def logged() -> Iterator[Callable[[], str]]:
    """What a logger of this test wrote, through a format of its own."""
    stream, log = io.StringIO(), logging.getLogger("test.said")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("12:00:00 %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.propagate = False
    guard_logs("test.said")
    yield stream.getvalue
    log.removeHandler(handler)


def test_a_log_line_is_one_of_its_record(logged: Callable[[], str]) -> None:
    log = logging.getLogger("test.said")
    log.warning("%s: cannot be read; %s", NAME, "https://me:hunter2@host/x?sig=hunter2")
    log.warning("one\n  two")
    try:
        raise ValueError(f"https://host/?sig=hunter2 {BAD}")
    except ValueError:
        log.exception("x")
    lines = logged().splitlines()
    assert [line for line in lines if line.startswith("12:00:00 INFO")] == [], "a line that another wrote"
    assert obeyed(logged()) == [] and "hunter2" not in logged() and GOOD in lines[0]
    assert "https://***@host/x?***" in logged() and "12:00:00 WARNING one\n  two\n" in logged()
    assert "Traceback (most recent call last):\n  File " in logged()


def test_a_formatter_keeps_its_own_colours(logged: Callable[[], str]) -> None:
    handler = logging.getLogger("test.said").handlers[0]
    handler.setFormatter(logging.Formatter("\x1b[32m%(message)s\x1b[0m"))
    guard_logs("test.said")
    guard_logs("test.said")
    logging.getLogger("test.said").warning("\x1b[31mred")
    assert logged() == "\x1b[32m\\x1b[31mred\x1b[0m\n"


def study() -> Study:
    jobs = [
        Ranked(number=0, run_id="0", name=NAME, status="FINISHED", axes={"data.root": NAME}, value=0.9),
        Ranked(number=1, run_id="1", name=NAME, status="FAILED", axes={"data.root": "x"}, error=NAME),
    ]
    return Study(sweep_id=f"s{NAME}", metric="lfw/accuracy", jobs=tuple(jobs))


def sweep_table() -> str:
    job = Job(num=0, overrides=[], changed={"data.root": NAME}, config={}, directory=Path("x"), problem=NAME)
    rows = table.rows_of([job], skip_duplicates=False)
    assert table.as_csv(rows).count("\n") == table.as_text(rows).count("\n") + 1 == 2
    return table.as_text(rows) + table.as_csv(rows)


def doctor() -> str:
    said: list[str] = []
    report = Report(say=lambda line: said.append(printable(line)))
    report.fact("machine", "device", shown(NAME))
    with report.finding("x", "y"):
        raise OSError(NAME)
    return "\n".join([*said, printable(report.summary())])


def compared() -> str:
    curves = Curves(np.arange(2), np.ones(2), np.ones(2))
    return as_text({"a": NAME, "b": NAME, "metric": NAME, **compare(curves, 0.1)})


DOORS: dict[str, Callable[[], str]] = {
    "sweep": sweep_table,
    "ranking": lambda: ranked_table(study()),
    "doctor": doctor,
    "compare-loss": compared,
    "run name": lambda: run_name({}, [], value_tags(AXES, {"data.root": NAME}), ""),
    "store": lambda: first_line(OSError(f"{GOOD}{BAD}"), "http://host"),
    "failure": lambda: printable(Failure.of(0, errors.UserError(NAME)).text),
}


@pytest.mark.parametrize("door", DOORS)
def test_no_door_lets_a_name_command_the_terminal(door: str) -> None:
    said = DOORS[door]()
    assert obeyed(said) == [] and GOOD in said
    assert not any(line.startswith("12:00:00") for line in said.splitlines()) or door == "failure"


def test_the_report_holds_a_name_as_text() -> None:
    from facenet.reports.page import page

    html = page(study(), {"train/loss": {0: [(1, 0.5), (2, 0.25)]}})
    body = html[html.index("<body>") : html.index("<script")]
    assert obeyed(body) == [] and GOOD in body


def test_the_end_of_a_command_is_told_in_letters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        errors.fail(f"{NAME}: no such folder", 2)
    assert obeyed(capsys.readouterr().err) == []


def test_pictures_take_any_name(tmp_path: Path) -> None:
    curves = Curves(np.arange(2), np.ones(2), np.ones(2))
    draw(tmp_path / "x.png", curves, {"a": r"$\frac$ $x^{$", "b": "5 $ and 6 $", "metric": "$\\no$"})
    assert (tmp_path / "x.png").stat().st_size > 1000
    rows = [{"epoch": 1.0, "$\\frac$/accuracy": 0.5}]
    assert [path.name for path in save_curves(tmp_path, rows)] == ["epoch_acc.png"]
    assert in_picture("5 $") == r"5 \$" and in_picture(GOOD) == GOOD
