import json

import pytest

from bench import report
from bench.__main__ import HERE, RESULTS
from bench.context import Outcome
from bench.gate import failed
from bench.goals import Goal
from bench.peers import Peers


def line(**changed):
    row = {"name": "ours", "wall_s": 2e-3, "cpu_s": 5e-5, "spread": 0.1, "ratio": 3.14159, "ratio_low": 3.0}
    row |= {"ratio_high": 3.3, "wall_ratio": 3.0, "of_limit": 0.5}
    table = {"title": "T", "unit": "image", "rows": [row], "control": 1.01, "rounds": 7, "notes": [], "noisy": False}
    machine = {"cpu": "C", "cores": 2, "load": 1.0, "torch": "2.13.0"}
    goal = {
        "number": "2.1",
        "text": "fast",
        "wanted": 4.5,
        "measured": 3.14159,
        "at_most": False,
        "limit": "disk",
        "met": False,
    }
    found = {"subject": "data", "time": "2026-01-02T03:04:05Z", "commit": "abc", "quick": False, "machine": machine}
    return {**found, "tables": [table], "goals": [goal], "counters": {}, "skipped": [], **changed}


def test_the_table_replaces_what_stands_between_the_marks():
    block = report.markdown([line()])
    text = report.render("before\n<!-- goals -->\nold 99\n<!-- /goals -->\nafter\n", block, "goals")
    assert "old 99" not in text and text.startswith("before\n") and text.endswith("\nafter\n")
    assert (
        "| ours | 50.0 us | 2.00 ms | 3.14 (3.00-3.30) | 50% |" in text and "A/A 1.010" in text and "commit abc" in text
    )
    assert report.render(text, block, "goals") == text
    with pytest.raises(ValueError, match="goals"):
        report.render("no marks", block, "goals")


def test_a_table_and_a_goal_are_those_of_the_newest_full_record_that_measured_them(tmp_path):
    path = tmp_path / "results" / "history.jsonl"
    (table,), (goal,) = line()["tables"], line()["goals"]
    other, unmeasured = {**table, "title": "U"}, {**goal, "measured": None, "met": None}
    never = {**unmeasured, "number": "4.1"}
    report.append(line(commit="old", tables=[table, other], goals=[goal, never]), path)
    report.append(line(commit="new", goals=[unmeasured, never]), path)
    report.append(line(commit="try", quick=True), path)
    assert len(path.read_text().splitlines()) == 3 and json.loads(path.read_text().splitlines()[0])["commit"] == "old"
    old, new = report.newest(path)
    assert (old["commit"], old["tables"], old["goals"]) == ("old", [other], [goal])
    assert (new["commit"], new["tables"], new["goals"]) == ("new", [table], [never])


def test_a_missed_goal_reads_missed():
    assert "| 2.1 fast | >= 4.5 | 3.14 | **missed** | disk |" in report.goals_table([line()])


def test_an_absent_peer_is_skipped_and_named(tmp_path):
    peers = Peers([f"reference={tmp_path / 'nowhere'}"])
    assert peers.reference("nets.facenet") is None and peers.arcface("losses") is None
    assert peers.skipped == [f"reference: no such folder: {tmp_path / 'nowhere'}", "arcface: no --against arcface=PATH"]


def test_the_gate_names_what_fails():
    goals = [
        Goal("8.1", "help", 1.25, 1.8, at_most=True),
        Goal("8.2", "job", 1.25, 1.6, at_most=True),
        Goal("8.9", "x", 9, 0),
    ]
    counters = {"forwards per unique image": 2, "heavy modules imported by --help": 0}
    lines = failed(Outcome(goals=goals, counters=counters), ("8.1", "8.2"))
    assert lines == ["forwards per unique image: 2, expected 1", "8.1 help: 1.8, goal at most 1.25"]


def test_the_page_of_performance_is_what_the_record_gives():
    lines = report.newest(RESULTS)
    page = (HERE / "docs/performance.md").read_text(encoding="utf-8")
    assert report.render(page, report.goals_table(lines), "goals") == page
    assert report.render(page, report.markdown(lines), "performance") == page
    lines[-1]["goals"][0]["measured"] += 1
    assert report.render(page, report.goals_table(lines), "goals") != page
