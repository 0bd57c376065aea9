import time

import pytest

from bench.goals import Goal
from bench.rounds import CONTROL, Candidate, measure, paired, tabulate, timed


def runners(limit_s=None):
    return [
        Candidate("base", lambda: None, 1),
        Candidate("ours", lambda: None, 1, limit_s),
        Candidate(CONTROL, lambda: None, 1),
    ]


def seen(control):
    """(wall, CPU) seconds per round."""
    return {
        "base": [(4.0, 2.0), (8.0, 4.0), (4.0, 2.0)],
        "ours": [(1.0, 1.0), (2.0, 1.0), (1.0, 1.0)],
        CONTROL: control,
    }


def test_ratios_are_paired_within_a_round():
    table = tabulate("s", "t", "image", runners(limit_s=0.25), seen([(4.0, 2.0), (8.0, 4.0), (4.0, 2.0)]))
    ours = table.row("ours")
    assert (ours.ratio, ours.wall_ratio, ours.cpu_s, ours.wall_s, ours.of_limit) == (2.0, 4.0, 1.0, 1.0, 0.25)
    assert 2.0 <= ours.ratio_high <= 4.0 and ours.ratio_low == 2.0
    assert table.row("base").ratio is None and not table.noisy and [row.name for row in table.rows] == ["base", "ours"]


@pytest.mark.parametrize(("control", "noisy"), [(2.0, False), (2.09, False), (2.12, True), (1.88, True)])
def test_a_base_that_differs_from_itself_marks_the_table_and_claims_no_ratio(control, noisy):
    table = tabulate(
        "s", "t", "image", runners(), {**seen([]), "base": [(2.0, 2.0)] * 3, CONTROL: [(2.0, control)] * 3}
    )
    assert table.noisy is noisy and (table.row("ours").ratio is None) is noisy
    assert table.control == pytest.approx(2 / control)


def test_the_interval_holds_the_median():
    middle, low, high = paired([2.0, 2.2, 1.8, 2.1, 1.9, 2.0, 8.0], [1.0] * 7)
    assert middle == 2.0 and 1.8 <= low <= 2.0 <= high < 8.0


def test_every_candidate_runs_once_a_round_in_rotated_order():
    ran = []
    measure("s", "t", "x", [Candidate(name, lambda name=name: ran.append(name), 1) for name in "ab"], rounds=3)
    assert ran == ["a", "b", *"aba", *"baa", *"aab"]  # warm-up; the control is the base again, last in the first round


def test_cpu_time_counts_work_and_not_waiting():
    def spin():
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass

    assert timed(Candidate("spin", spin, 2))[1] == pytest.approx(0.05, rel=0.3)
    wall, cpu = timed(Candidate("sleep", lambda: time.sleep(0.1), 1))
    assert wall >= 0.1 and cpu < 0.05


def test_goals_and_what_a_gate_asks_of_them():
    assert Goal("1", "", 4.0, 4.0).met and Goal("1", "", 4.0, 3.9).met is False and Goal("1", "", 4.0, None).met is None
    assert Goal("1", "", 4.0, 3.0).relaxed() and Goal("1", "", 4.0, 2.9).relaxed() is False
    assert Goal("1", "", 1.5, 2.0, at_most=True).relaxed() and Goal("1", "", 1.5, 2.1, at_most=True).relaxed() is False
