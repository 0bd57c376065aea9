from __future__ import annotations

import json

import pytest

from facenet.reports.study import overrides, study_of
from facenet.tracking import reading
from facenet.tracking.reading import RunRecord

PLAN = {
    "plan.select": "lfw/accuracy",
    "plan.lr": "0.001",
    "plan.batch_size": "30",
    "plan.images_per_step": "30",
    "plan.benchmark": "lfw: 6,000 pairs in 10 folds, 7,701 images",
    "optimizer.lr": "0.001",
}


def record(number, given, *, start=0.0, status="FINISHED", params=PLAN, tags=None, **metrics):
    tags = {"sweep_id": "s", "job_num": str(number), "hydra.overrides": given, "command": f"facenet-train {given}"} | (
        tags or {}
    )
    metrics = {key.replace("__", "/"): value for key, value in metrics.items()}
    return RunRecord(
        id=f"r{number}-{start:g}",
        name="",
        experiment_id="1",
        status=status,
        start=start,
        end=None,
        last_sign=start,
        params=dict(params),
        tags=tags,
        metrics=metrics,
    )


def test_a_job_is_what_its_run_says():
    folds = {f"folds__lfw__{number}": 0.8 + number / 100 for number in range(10)}
    study = study_of(
        "s",
        [
            record(0, "optimizer.lr=1e-3 seed=0", best__lfw__accuracy=0.845, **folds),
            record(1, "optimizer.lr=3e-3 seed=0", status="FAILED", tags={"error": "boom"}),
            record(2, "optimizer.lr=1e-2 seed=0", best__lfw__accuracy=0.9, tags={"pruned": "below the median"}),
        ],
    )
    assert study.metric == "lfw/accuracy" and study.axes == ("optimizer.lr",) and not study.lower_is_better
    first, second, third = study.jobs
    assert first.axes == {"optimizer.lr": "1e-3"} and second.axes == {"optimizer.lr": "3e-3"}
    assert (first.value, first.ran.lr, first.ran.images_per_step) == (0.845, 0.001, 30)
    assert first.folds == pytest.approx([0.8 + number / 100 for number in range(10)])
    assert first.ran.command == "facenet-train optimizer.lr=1e-3 seed=0"
    assert (second.value, second.status, second.error, second.ranked) == (None, "FAILED", "boom", False)
    assert third.why_unranked == "pruned: below the median" and not third.ranked


def test_a_job_that_was_tried_again_counts_once_and_as_the_newest():
    runs = [
        record(0, "a=1", start=5.0, best__lfw__accuracy=0.9),
        record(0, "a=1", start=2.0, status="FAILED"),
        record(1, "a=2", start=3.0, best__lfw__accuracy=0.8),
    ]
    assert [(job.number, job.run_id) for job in study_of("s", runs).jobs] == [(0, "r0-5"), (1, "r1-3")]


def test_the_tag_names_the_axes_whatever_else_differs():
    tags = {"sweep.axes": json.dumps(["optimizer.lr", "loss"])}
    study = study_of(
        "s",
        [record(0, "optimizer.lr=1e-3 loss=triplet", tags=tags), record(1, "loss=arcface resume=auto", tags=tags)],
    )
    assert study.jobs[0].axes == {"optimizer.lr": "1e-3", "loss": "triplet"}
    assert study.jobs[1].axes == {"optimizer.lr": "0.001", "loss": "arcface"}  # not given: as the run's params have it


def test_overrides_may_hold_blanks_and_signs():
    assert overrides("optimizer.lr=1e-3 +data.root='/two words/x' ~resume=null hydra/launcher=joblib") == {
        "optimizer.lr": "1e-3",
        "data.root": "'/two words/x'",
        "resume": "null",
        "hydra/launcher": "joblib",
    }
    assert overrides("") == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.7976931348623157e308])
def test_a_value_that_is_no_number(value):
    job = study_of("s", [record(0, "", best__lfw__accuracy=value)]).jobs[0]
    assert job.value is None and not job.ranked and job.axes == {}


def test_what_a_store_says_that_is_no_number():
    """Anybody may have written it."""
    tags = {"job_num": "x", "sweep.jobs": "inf", "folds.lfw": "[NaN, 0.2]"}
    found = record(
        0, "", params=PLAN | {"plan.images_per_step": "nan"}, tags=tags, folds__x=0.5, best__lfw__accuracy=0.5
    )
    (job,) = study_of("s", [found]).jobs
    assert job.number == 0 and job.folds == () and job.ran.images_per_step is None


def test_a_loss_has_no_folds():
    params = PLAN | {"plan.select": "val/loss"}
    study = study_of("s", [record(0, "", params=params, best__val__loss=0.3, folds__lfw__0=0.9)])
    assert study.lower_is_better and study.jobs[0].value == 0.3 and study.jobs[0].folds == ()


def test_held_out_pairs_are_those_of_the_data():
    def pairs(**params):
        return study_of("s", [record(0, "", params=PLAN | params)]).jobs[0].pairs

    heldout = {"plan.benchmark": "heldout: 60 pairs in 3 folds, 40 images"}
    assert pairs() == pairs(**{"plan.data_fingerprint": "b"})
    assert pairs(**heldout, **{"plan.data_fingerprint": "a"}) != pairs(**heldout, **{"plan.data_fingerprint": "b"})


def of_dir(place, number, start, status="FINISHED"):
    return record(number, "", start=start, status=status, tags={"sweep_id": "lr", "run_dir": f"{place}/lr/{number}"})


def test_two_sweeps_of_one_name_are_two():
    """Job 2 of the first stood among the settings of the second, which has two jobs."""
    first = [of_dir("/a", number, start=number) for number in range(3)]
    second = [of_dir("/b", number, start=10 + number) for number in range(2)]
    assert reading.of_one_sweep(first + second) == second
    assert reading.of_one_sweep(first + second, "/a/lr") == first
    assert reading.of_one_sweep(first + second, "/elsewhere") == second
    assert study_of("lr", second).directory == "/b/lr"


def test_a_sweep_that_was_moved_is_one():
    before = [of_dir("/a", 0, start=0), of_dir("/a", 1, start=1, status="FAILED")]
    after = [of_dir("/b", 1, start=2), of_dir("/b", 2, start=3)]
    assert reading.of_one_sweep(before + after, "/b/lr") == before + after
    assert study_of("lr", before + after).directory == "/b/lr"


def test_a_store_of_figures_that_no_axis_has_room_for_makes_a_page_of_none():
    """Two of them, and matplotlib failed."""
    folds = {"folds.lfw": "[9e307, -9e307]"}
    runs = [
        record(number, f"a={number}", tags=folds, best__lfw__accuracy=9e307 - number * 8e307) for number in range(2)
    ]
    study = study_of("s", [*runs, record(2, "a=2", tags={"folds.lfw": "[0, 0.5, 1]"}, best__lfw__accuracy=0.5)])
    assert [job.value for job in study.jobs] == [None, None, 0.5]
    assert [job.folds for job in study.jobs] == [(), (), (0.0, 0.5, 1.0)]
