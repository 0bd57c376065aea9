"""False-accept rates that so few pairs cannot tell are said to be so, wherever they are shown."""

from __future__ import annotations

import numpy as np
import pytest

from facenet.evaluation.report import as_dict, metrics, table
from facenet.evaluation.verification import evaluate_pairs, fewest_different, unresolved
from facenet.tasks import job
from facenet.tasks.rehearsal import tell
from facenet.tracking import reading
from facenet.tracking.journal import header


def judged(num_pairs, num_folds=10):
    rng = np.random.default_rng(0)
    same = np.arange(num_pairs) % 2 == 0
    folds = (np.arange(num_pairs) // 2) % num_folds
    return evaluate_pairs(rng.normal(np.where(same, 0.7, 1.3), 0.2), same, folds)


@pytest.mark.parametrize(
    ("count", "expected"), [(1000, ()), (999, (1e-3,)), (99, (1e-2, 1e-3)), (100, (1e-3,)), (9, (0.1, 0.01, 0.001))]
)
def test_a_rate_is_resolved_by_one_false_accept(count, expected):
    assert unresolved(count) == expected


def test_thresholds_are_chosen_on_the_other_folds():
    same = np.array([True, False, False, True, False, True, False, False])
    assert fewest_different(same, np.array([0, 0, 0, 1, 1, 2, 2, 2])) == 3


def test_the_table_says_what_is_not_measured():
    few, enough = judged(2000), judged(6000)
    assert few.num_different == 900 and enough.num_different == 2700
    text = table("heldout", few)
    assert "TAR @ FAR 0.001  cannot be resolved: 900 pairs of two identities give steps of 0.0011; " in text
    assert "before the first false accept" in text and "(measured FAR" in text  # of the other targets
    assert "cannot be resolved" not in table("lfw", enough)
    assert as_dict("heldout", few)["unresolved"] == ["0.001"] and as_dict("lfw", enough)["unresolved"] == []
    assert "heldout/tar_at_far_0.001" in metrics("heldout", few)  # recorded runs go on being compared by it


@pytest.mark.slow
def test_mlflow_gets_no_rate_that_is_not_resolved(tiny_run, facenet_evaluate):
    """Of 20 pairs. Beside a run with enough of them it looked like a rate."""
    store = f"sqlite:///{tiny_run.run_dir.parent}/mlflow.db"
    tested = facenet_evaluate(f"checkpoint={tiny_run.run_dir}", f"tracking.uri={store}")
    assert tested.code == 0, tested.err
    for done, rates in ((tiny_run, {}), (tested, {"heldout/tar_at_far_0.1"})):
        path = done.run_dir / "metrics.jsonl"
        metrics = reading.run(store, header(path)["run"]).metrics
        assert {name for name in metrics if "tar_at" in name} == {*rates} and "heldout/auc" in metrics
        assert '"heldout/tar_at_far_0.001": ' in path.read_text()
        assert "resolved: " in done.out, "the terminal shows it, with that word"


def test_the_plan_and_the_summary_of_a_run_say_it(compose, caplog, tmp_path):
    tell.cache_clear()
    material, _ = job.prepare(compose("trainer.select=heldout/tar_at_far_0.001"))
    assert "trainer.select=heldout/tar_at_far_0.001: cannot be resolved, since 20 pairs" in caplog.text
    caplog.clear()
    job.prepare(compose("trainer.select=heldout/tar_at_far_0.1"))
    assert "cannot be resolved" not in caplog.text
    row = {"epoch": 1.0, "heldout/accuracy": 0.9, "heldout/tar_at_far_0.001": 0.5}
    told = job.summary(
        {"checkpoint": "best.pt", "metrics": row}, tmp_path, None, doubtful=job.unresolved(material.benchmarks)
    )
    (line,) = [line for line in told.splitlines() if "not resolved" in line]
    assert line.lstrip().startswith("heldout/tar_at_far_0.001  0.5000   (not resolved: 20 pairs of two identities")
