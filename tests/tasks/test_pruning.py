"""The median stopping rule, on curves whose answers are known by hand, and on runs in a real store."""

from __future__ import annotations

import math

import pytest

from facenet.tasks.pruning import Pruner, behind, score_or_worst

EPOCH = 1000


def curve(*scores: float, images: int = EPOCH) -> list[tuple[float, float]]:
    return [(images * (number + 1), score) for number, score in enumerate(scores)]


OTHERS = [curve(0.5, 0.7, 0.9), curve(0.6, 0.8, 0.9), curve(0.4, 0.5, 0.6)]  # running averages of 2: 0.6, 0.7, 0.45


@pytest.mark.parametrize(
    ("own", "found"),
    [
        ([0.5, 0.55], (0.55, 0.6, 3)),
        ([0.59, 0.1], (0.59, 0.6, 3)),
        ([0.6, 0.1], None),  # strictly worse, and by the best so far: not by the newest
        ([0.2, 0.9], None),
        ([0.49], (0.49, 0.5, 3)),
        ([0.5], None),
        ([0.1, 0.1, 0.69], (0.69, 0.7, 3)),
        ([-math.inf, -math.inf], (-math.inf, 0.6, 3)),
    ],
)
def test_the_best_so_far_is_compared_with_the_median_of_running_averages(own, found):
    answer = behind(curve(*own), OTHERS, tolerance=EPOCH / 2, min_jobs=3)
    assert answer == (None if found is None else pytest.approx(found))


def test_others_that_have_not_come_as_far_do_not_count():
    assert behind(curve(0.1, 0.1), [*OTHERS[:2], curve(0.9)], tolerance=EPOCH / 2, min_jobs=3) is None
    assert behind(curve(0.1, 0.1), [*OTHERS, curve(9.0)], tolerance=EPOCH / 2, min_jobs=3) == pytest.approx(
        (0.1, 0.6, 3)
    )
    late = [(4 * EPOCH, 0.9)]  # measured first after this point
    assert behind(curve(0.1, 0.1), [*OTHERS[:2], late], tolerance=EPOCH / 2, min_jobs=3) is None


def test_without_others_nothing_is_decided():
    assert behind(curve(0.1), [], tolerance=EPOCH / 2, min_jobs=0) is None


def test_epochs_of_other_batch_sizes_are_equally_far():
    others = [curve(0.5, 0.7, images=990), curve(0.6, 0.8, images=1020), curve(0.6, 0.8, images=960)]
    assert behind(curve(0.1), others, tolerance=EPOCH / 2, min_jobs=3) == pytest.approx((0.1, 0.6, 3))


def test_diverged_others_are_the_worst_and_not_a_hole():
    others = [curve(-math.inf, -math.inf), curve(0.5, 0.5), curve(0.6, 0.6)]
    assert behind(curve(0.4), others, tolerance=EPOCH / 2, min_jobs=3) == pytest.approx((0.4, 0.5, 3))
    assert behind(curve(-math.inf), [curve(-math.inf)] * 3, tolerance=EPOCH / 2, min_jobs=3) is None


def test_the_score_of_a_loss_is_turned_and_no_number_is_the_worst():
    assert score_or_worst(0.25, True) == -0.25
    assert score_or_worst(0.25, False) == 0.25
    assert {score_or_worst(value, True) for value in (math.nan, math.inf, 1.797e308, -math.inf)} == {-math.inf}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three finished jobs, a failed one and one that runs, with val/loss at the end of two epochs of 10 steps of 100 images."""
    from facenet.tracking.store import open_experiment

    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    client, experiment = open_experiment(uri, "facenet")
    jobs = [("FINISHED", 1.0, 0.8), ("FINISHED", 1.2, 1.0), ("FAILED", 0.1, 0.1), ("RUNNING", 2.0, 1.8)]
    for number, (status, *losses) in enumerate(jobs):
        run = client.create_run(experiment, tags={"sweep_id": "s", "job_num": str(number)}).info.run_id
        client.log_param(run, "plan.images_per_step", 100)
        for epoch, loss in enumerate(losses):
            client.log_metric(run, "val/loss", loss, step=10 * (epoch + 1))
        if status != "RUNNING":
            client.set_terminated(run, status)
    return uri


def pruner(uri: str, **changes) -> Pruner:
    return Pruner(**{"uri": uri, "sweep_id": "s", "job_num": "9", "min_jobs": 3, "warmup_epochs": 1, **changes})


def rows(*losses: float) -> list[dict[str, float]]:
    return [{"epoch": float(number + 1), "val/loss": loss} for number, loss in enumerate(losses)]


def test_runs_of_the_sweep_decide_and_the_reason_has_the_figures(store):
    # running averages after two epochs: 0.9, 1.1 and 1.9
    told = pruner(store).hopeless(rows(1.5, 1.3), "val/loss", 1000, lower=True)
    assert told == "epoch 2: val/loss 1.3000 at best is above 1.1000, the median of 3 others"
    assert pruner(store).hopeless(rows(1.5, 1.0), "val/loss", 1000, lower=True) is None
    assert pruner(store).hopeless(rows(1.3), "val/loss", 1000, lower=True) == (
        "epoch 1: val/loss 1.3000 at best is above 1.2000, the median of 3 others"
    )
    assert "nan" not in pruner(store).hopeless(rows(math.nan), "val/loss", 1000, lower=True)


def test_warm_up_unmeasured_epochs_and_few_others_decide_nothing(store):
    assert pruner(store, warmup_epochs=3).hopeless(rows(9, 9), "val/loss", 1000, lower=True) is None
    assert pruner(store, min_jobs=4).hopeless(rows(9, 9), "val/loss", 1000, lower=True) is None
    assert pruner(store, job_num="0").hopeless(rows(9, 9), "val/loss", 1000, lower=True) is None, (
        "a job is not its own rival"
    )
    assert pruner(store).hopeless([*rows(9), {"epoch": 2.0}], "val/loss", 1000, lower=True) is None
    assert pruner(store).hopeless([{"epoch": 1.0, "val/eer": 0.9}], "val/eer", 1000, lower=True) is None, (
        "no other measured it"
    )


def test_a_store_that_does_not_answer_lets_the_run_go_on(tmp_path, caplog):
    assert pruner(f"sqlite:///{tmp_path}/none.db").hopeless(rows(9), "val/loss", 1000, lower=True) is None
    assert "the run goes on" in caplog.text
