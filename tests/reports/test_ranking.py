"""Known answers: p counted by hand and by going through all signs, rankings of made-up studies."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facenet.reports.ranking import COMPARED, holm, least_p, rank, ranked_table, sign_flip_p, verdict
from facenet.reports.study import Job, Study

FOLDS = (0.90, 0.91, 0.89, 0.92, 0.90, 0.91, 0.90, 0.88, 0.93, 0.90)


def job(number, value, folds=(), seed=None, status="FINISHED", pairs="lfw", error="", pruned="", **axes):
    axes = {key.replace("_", "."): given for key, given in axes.items()} or {"optimizer.lr": str(number)}
    axes |= {} if seed is None else {"seed": str(seed)}
    return Job(
        number=number,
        run_id=f"run{number}",
        name="",
        status=status,
        axes=axes,
        value=value,
        folds=tuple(folds),
        pairs=pairs,
        error=error,
        pruned=pruned,
    )


def study(*jobs, metric="lfw/accuracy"):
    return Study(sweep_id="s", metric=metric, jobs=jobs)


def shifted(by, every=1):
    """FOLDS with `by` added to each, or to the first of every so many."""
    return tuple(value + (by if place % every == 0 else 0) for place, value in enumerate(FOLDS))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 1, 1], 2 / 8),  # +++ and ---
        ([3, 1, -1], 6 / 8),  # sums 5 3 3 1 -1 -3 -3 -5: six as far as 3
        ([2, -1], 4 / 4),  # sums 1 3 -3 -1: none nearer to zero
        ([0, 0, 0], 1.0),
        ([5, 0], 1.0),  # a fold without a difference has no sign to lose
        ([0.1] * 10, 2 / 1024),
        ([-0.1] * 10, 2 / 1024),
    ],
)
def test_p_by_hand(differences, p):
    assert sign_flip_p(differences) == p


@given(st.lists(st.integers(-30, 30), min_size=1, max_size=10))
def test_p_is_the_share_of_all_signs(hundredths):
    sums = [sum(map(int.__mul__, hundredths, signs)) for signs in itertools.product((1, -1), repeat=len(hundredths))]
    expected = sum(abs(each) >= abs(sum(hundredths)) for each in sums) / len(sums)
    assert sign_flip_p([each / 6000 for each in hundredths]) == expected  # 1/6000: floats that do not add up exactly


def test_more_folds_than_can_be_flipped():
    assert sign_flip_p([1.0] * 50) == least_p(50) == 2 / 2**20
    assert sign_flip_p([1.0, -1.0] * 30) > 0.5


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # x3, x1 but not below its forerunner, x2
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]


def test_the_best_is_told_apart():
    ranking = rank(study(job(0, 0.90, FOLDS), job(1, 0.93, shifted(0.03))))
    assert [setting.jobs[0].number for setting in ranking.settings] == [1, 0]
    comparison = ranking.comparisons[1]
    assert comparison.p == 2 / 1024 and comparison.apart and ranking.comparisons[0] is None
    assert comparison.difference == pytest.approx(0.03)
    assert (
        verdict(ranking) == "optimizer.lr=1 has the highest lfw/accuracy, 0.9300, 0.0300 above optimizer.lr=0: "
        "significantly different (p = 0.002 over 10 folds, one seed each)."
    )


def test_the_best_is_not_told_apart():
    ranking = rank(study(job(0, 0.904, FOLDS), job(1, 0.9055, shifted(0.0075, every=5))))
    assert ranking.comparisons[1].p == 0.5  # two folds differ: both signs equal in half of the choices
    assert "not significantly different (p = 0.5 over 10 folds, one seed each)" in verdict(ranking)


@pytest.mark.parametrize(("people", "told"), [(2, False), (9, False), (10, True), (None, True)])
def test_folds_of_fewer_people_than_folds_tell_nothing_of_chance(people, told):
    jobs = [job(0, 0.90, FOLDS), job(1, 0.93, shifted(0.03))]
    ranking = rank(study(*(replace(each, ran=replace(each.ran, heldout=people)) for each in jobs)))
    assert (ranking.comparisons[1] is not None) == told
    if not told:
        assert verdict(ranking).endswith(
            f"whether that is more than chance cannot be told, since {people} held-out identities are fewer than its 10 folds, which all hold "
            "the same people; raise data.val_identities."
        )


def test_a_loss_is_better_when_lower():
    ranking = rank(study(job(0, 0.5), job(1, 0.2), job(2, 0.9), metric="val/loss"))
    assert [setting.mean for setting in ranking.settings] == [0.2, 0.5, 0.9]
    assert (
        verdict(ranking)
        == "optimizer.lr=1 has the lowest val/loss, 0.2000, 0.3000 below optimizer.lr=0; whether that is more than chance cannot be told, "
        "since the two share no folds of val/loss."
    )


def test_seeds_are_averaged():
    jobs = [
        job(0, 0.90, (0.8, 1.0), seed=0, optimizer_lr="1"),
        job(1, 0.94, (0.9, 0.98), seed=1, optimizer_lr="1"),
        job(2, 0.85, (0.8, 0.9), seed=0, optimizer_lr="2"),
    ]
    first, second = rank(study(*jobs)).settings
    assert first.mean == pytest.approx(0.92) and first.std == pytest.approx(0.02 * 2**0.5)
    assert first.folds == pytest.approx((0.85, 0.99)) and first.axes == {"optimizer.lr": "1"}
    assert first.value == "0.9200 ± 0.0283 (2 seeds)"
    assert second.std is None and second.value == "0.8500"


def test_folds_that_agree_do_not_outweigh_seeds_that_do_not():
    jobs = [
        job(0, 0.90, FOLDS, seed=0, optimizer_lr="1"),
        job(1, 0.96, shifted(0.06), seed=1, optimizer_lr="1"),
        job(2, 0.89, shifted(-0.01), seed=0, optimizer_lr="2"),
        job(3, 0.95, shifted(0.05), seed=1, optimizer_lr="2"),
    ]
    ranking = rank(study(*jobs))
    comparison = ranking.comparisons[1]
    assert comparison.p == 2 / 1024 and comparison.within_seeds and not comparison.apart
    assert verdict(ranking).endswith(
        "not significantly different, since other seeds move them as much (p = 0.002 over 10 folds)."
    )


def test_a_setting_with_one_seed_left_is_no_better_proven_than_one_with_all():
    jobs = [
        job(0, 0.90, FOLDS, seed=0, optimizer_lr="1"),
        job(1, 0.96, shifted(0.06), seed=1, optimizer_lr="1"),
        job(2, 0.89, shifted(-0.01), seed=0, optimizer_lr="2"),  # whose seed 1 failed
    ]
    assert rank(study(*jobs)).settings[1].std is None
    assert verdict(rank(study(*jobs))).endswith("since other seeds move them as much (p = 0.002 over 10 folds).")
    assert ": significantly different" in verdict(
        rank(study(jobs[1], jobs[2]))
    )  # where no seeds are known, folds alone tell


def test_ties_share_a_rank():
    ranking = rank(study(job(0, 0.8), job(1, 0.9), job(2, 0.9), job(3, 0.7)))
    assert [(setting.rank, setting.jobs[0].number) for setting in ranking.settings] == [(1, 1), (1, 2), (3, 0), (4, 3)]
    assert verdict(ranking) == "2 settings are equal at the top with lfw/accuracy 0.9000, optimizer.lr=1 among them."


def test_only_finished_jobs_with_a_value_have_a_rank():
    jobs = [
        job(0, 0.5),
        job(1, 0.9, status="FAILED", error="Traceback\n  ...\nRuntimeError: out of memory\n"),
        job(2, None),
        job(3, 0.9, status="KILLED"),
        job(4, None, status="RUNNING"),
        job(5, 0.9, pruned="below the median"),
    ]
    ranking = rank(study(*jobs))
    assert [setting.jobs[0].number for setting in ranking.settings] == [0]
    assert [each.why_unranked for each in ranking.unranked] == [
        "failed: RuntimeError: out of memory",
        "without a finite value",
        "stopped",
        "not ended",
        "pruned: below the median",
    ]
    assert verdict(ranking) == "optimizer.lr=0 is the only setting with a lfw/accuracy: 0.5000."


def test_no_job_has_a_value():
    table = ranked_table(study(job(0, None), job(1, None, status="FAILED", error="no disk")))
    assert table.splitlines() == [
        "sweep s: 0 settings of 2 jobs",
        "  job 0 (0) without a finite value",
        "  job 1 (1) failed: no disk",
        "No job of s finished with a finite lfw/accuracy.",
    ]


def test_folds_of_other_pairs_are_not_compared():
    ranking = rank(study(job(0, 0.93, shifted(0.03), pairs="a"), job(1, 0.90, FOLDS, pairs="b")))
    assert ranking.comparisons == (None, None)
    ranking = rank(study(job(0, 0.93, FOLDS), job(1, 0.90, FOLDS[:5])))
    assert ranking.comparisons == (None, None)


def test_many_settings_leave_the_nearest_to_compare():
    jobs = [job(number, 0.9 - number / 100, shifted(-number / 100)) for number in range(20)]
    comparisons = rank(study(*jobs)).comparisons
    assert all(each is not None and each.p == pytest.approx(9 * 2 / 1024) and each.apart for each in comparisons[1:10])
    assert comparisons[0] is None and comparisons[COMPARED:] == (None,) * 10


def test_the_table():
    jobs = [
        job(0, 0.904, FOLDS, optimizer_lr="1e-4"),
        job(1, 0.9055, shifted(0.0075, every=5), optimizer_lr="1e-3"),
        job(2, 0.5, status="FAILED", error="boom", optimizer_lr="1"),
    ]
    assert ranked_table(study(*jobs)).splitlines() == [
        "sweep s: 2 settings of 3 jobs",
        "  rank  optimizer.lr  lfw/accuracy  to the best  p",
        "  1     1e-3          0.9055",
        "  2     1e-4          0.9040        -0.0015      0.5  not significantly different",
        "  job 2 (1) failed: boom",
        "optimizer.lr=1e-3 has the highest lfw/accuracy, 0.9055, 0.0015 above optimizer.lr=1e-4: "
        "not significantly different (p = 0.5 over 10 folds, one seed each).",
    ]


def test_a_job_without_axes():
    assert verdict(rank(study(Job(number=0, run_id="r", name="", status="FINISHED", axes={}, value=0.5)))).startswith(
        "job 0 is the only setting"
    )
