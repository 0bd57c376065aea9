"""A network that gives about one embedding for all images: what its test measures is rounding, and nothing ranks it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facenet.evaluation import report
from facenet.evaluation.protocol import Protocol, verify
from facenet.reports.study import study_of
from facenet.tasks.plan import select_metric
from facenet.tasks.pruning import Pruner
from facenet.tracking.reading import RunRecord


def judged(apart: float, protocol: Protocol | None = None):
    """50 identities of 4 images; their centres lie about `apart` from each other, the images of one a fifth of it."""
    rng = np.random.default_rng(0)
    towards = rng.normal(size=128)
    towards /= np.linalg.norm(towards)
    centres = rng.normal(size=(50, 1, 128)) * apart / 16
    rows = (towards + centres + rng.normal(size=(50, 4, 128)) * apart / 80).reshape(200, 128).astype(np.float32)
    left = np.arange(200)
    right = np.where(left % 2 == 0, left + 1, (left + 4) % 200)
    return verify(rows, left, right, left // 4 == right // 4, (left // 2) % 10, protocol or Protocol())


@pytest.mark.parametrize("protocol", [Protocol(), Protocol(distance="cosine"), Protocol(subtract_mean=True)])
@pytest.mark.parametrize(("apart", "collapsed"), [(1e-7, True), (1e-3, True), (0.05, False), (1.0, False)])
def test_the_spread_is_measured_whatever_the_distance(protocol, apart, collapsed):
    result = judged(apart, protocol)
    assert result.collapsed is collapsed
    if apart < 0.1 and apart > 1e-6:
        assert result.spread == pytest.approx(apart, rel=0.2)


def test_one_image_apart_does_not_hide_a_collapse():
    rows = np.ones((200, 8), np.float32)
    rows[0] = -1
    left = np.arange(200)
    same = left % 2 == 0
    assert verify(rows, left, (left + 1) % 200, same, (left // 2) % 10, Protocol()).collapsed


def test_a_collapsed_test_gives_its_spread_and_nothing_to_rank():
    result = judged(1e-3)
    assert report.metrics("lfw", result) == {"lfw/spread": result.spread}
    assert report.outcome("lfw", result).folds == () and report.outcome("lfw", result).threshold is None
    assert report.tags("lfw", report.outcome("lfw", result)) == {}
    written = report.as_dict("lfw", result)
    assert written["collapsed"] is True and written["accuracy"] is None and written["threshold"] is None
    assert report.summarize(result) == "embeddings collapsed"
    text = report.table("lfw", result)
    assert "no accuracy: embeddings collapsed" in text and "accuracy  " not in text
    sound = judged(0.05)
    assert {"lfw/accuracy", "lfw/spread", "lfw/threshold"} <= set(report.metrics("lfw", sound))
    assert report.collapse_of("lfw", report.metrics("lfw", sound)) is None
    assert report.collapse_of("lfw", {"val/loss": 1.0}) is None  # not tested


def test_a_threshold_has_significant_digits():
    assert "threshold        0.0" in report.table("lfw", judged(0.05)) and "0.0000" not in report.table(
        "lfw", judged(0.05)
    )
    assert [report.digits(value) for value in (0.98126, 1.25, 0.002, 0.0123456, 4.2e-7, 0.0, -0.0004321)] == [
        *("0.9813", "1.2500", "0.0020", "0.0123", "4.2e-07", "0.0000", "-0.0004321")
    ]


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        *[("val/loss", True), ("train/loss", True), ("train/ce", True), ("val/triplet", True), ("lfw/eer", True)],
        *[("train/triplet/positive_distance", True), ("train/triplet/active", True)],
        *[("train/triplet/negative_distance", False), ("train/ce/accuracy", False), ("lfw/accuracy", False)],
        *[("lfw/auc", False), ("lfw/tar_at_far_0.001", False)],
        *[("val/accuracy", False), ("train/eer", True), ("val/tar_at_far_0.01", False)],  # of val.bin and train.bin
    ],
)
def test_which_way_a_metric_is_better(metric, lower):
    assert report.lower_is_better(metric) is lower


@pytest.mark.parametrize("figure", ["threshold", "spread", "accuracy_std", "acuracy"])
def test_what_is_better_neither_way_selects_nothing(figure):
    from types import SimpleNamespace

    pairs = [SimpleNamespace(name="lfw", measures=report.MEASURES)]
    from facenet.errors import UserError

    with pytest.raises(
        UserError, match=r"trainer.select=lfw/.*: not among lfw/accuracy, lfw/auc, lfw/tar_at_far_0.1, "
    ):
        select_metric(f"lfw/{figure}", pairs, 1)  # type: ignore[arg-type]
    assert select_metric("lfw/tar_at_far_0.001", pairs, 1) == ("lfw/tar_at_far_0.001", False)  # type: ignore[arg-type]
    assert select_metric("train/ce", pairs, 1) == ("train/ce", True)  # type: ignore[arg-type]


def pruner(monkeypatch, *others):
    monkeypatch.setattr(Pruner, "others", lambda self, select, lower: [[(10.0, each)] for each in others])
    return Pruner(uri="", sweep_id="", job_num="9", min_jobs=2, warmup_epochs=1)


def test_a_collapsed_epoch_is_worse_than_any_other_job(monkeypatch):
    rule = pruner(monkeypatch, 0.55, 0.56)
    collapsed = {"epoch": 1.0, "lfw/spread": 1e-4}
    reason = rule.hopeless([collapsed], "lfw/accuracy", 10, lower=False)
    assert reason == (
        "epoch 1: embeddings collapsed: two identities are 0.0001 apart (median, L2 from 0 to 2), so lfw would measure rounding, "
        "and the median of 2 others is 0.5550"
    )
    assert (
        rule.hopeless([{"epoch": 1.0, "lfw/accuracy": 0.57, "lfw/spread": 0.9}], "lfw/accuracy", 10, lower=False)
        is None
    )
    assert (
        rule.hopeless([{"epoch": 1.0, "train/loss": 2.0}], "lfw/accuracy", 10, lower=False) is None
    )  # not tested in this epoch
    by_loss = {"epoch": 1.0, "val/loss": 1.0, "lfw/spread": 1e-4}  # whatever selects, it is nothing to offer
    assert "embeddings collapsed" in (
        pruner(monkeypatch, -3.0, -3.0).hopeless([by_loss], "val/loss", 10, lower=True) or ""
    )
    assert rule.hopeless([{"epoch": 1.0, "val/loss": 1.0}], "val/loss", 10, lower=True) is None
    recovered = [{"epoch": 1.0, "lfw/accuracy": 0.57, "lfw/spread": 0.9}, {**collapsed, "epoch": 2.0}]
    assert rule.hopeless(recovered, "lfw/accuracy", 10, lower=False) is None  # its best so far counts


def test_a_sweep_says_which_job_collapsed():
    from facenet.reports.page import page
    from facenet.reports.ranking import ranked_table

    def run(number: int, **more):
        tags = {"job_num": str(number), "hydra.overrides": f"optimizer.lr={number}", "sweep.axes": '["optimizer.lr"]'}
        return RunRecord(
            id=f"r{number}",
            experiment_id="1",
            name=f"r{number}",
            status="FINISHED",
            start=number,
            end=number + 1,
            last_sign=number,
            params={"plan.select": "lfw/accuracy", "plan.benchmark": "lfw: 6,000 pairs in 10 folds, 7,701 images"},
            metrics=more.get("metrics", {}),
            tags={**tags, **more.get("tags", {})},
        )

    noise = run(1, metrics={"lfw/spread": 1e-4}, tags={"collapsed": "embeddings collapsed: ..."})
    study = study_of("s", [run(0, metrics={"best/lfw/accuracy": 0.55}), noise])
    assert [job.ranked for job in study.jobs] == [True, False]
    text = ranked_table(study)
    assert "job 1 (1) embeddings collapsed" in text and "optimizer.lr=0 is the only setting" in text
    assert "embeddings collapsed" in page(study, {})
    assert not math.isnan(study.jobs[0].value or math.nan)
