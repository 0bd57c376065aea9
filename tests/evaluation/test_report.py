import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from facenet.evaluation.contract import Outcome
from facenet.evaluation.report import ROC_POINTS, as_dict, is_chance, metrics, outcome, save_roc, table, thin, wilson
from facenet.evaluation.verification import evaluate_pairs


@pytest.fixture(scope="module")
def result():
    rng = np.random.default_rng(0)
    same = np.arange(2000) % 2 == 0
    return evaluate_pairs(rng.normal(np.where(same, 0.7, 1.3), 0.2), same, (np.arange(2000) // 2) % 10)


def test_metrics_are_flat_named_numbers(result):
    values = metrics("lfw", result)
    assert values["lfw/accuracy"] == result.accuracy and values["lfw/tar_at_far_0.001"] == result.tar_at_far[1e-3].tar
    assert set(values) == {
        f"lfw/{key}"
        for key in (
            "accuracy",
            "accuracy_std",
            "auc",
            "eer",
            "threshold",
            "tar_at_far_0.1",
            "tar_at_far_0.01",
            "tar_at_far_0.001",
        )
    }
    assert all(type(value) is float for value in values.values())


def test_json_holds_everything(result):
    back = json.loads(json.dumps(as_dict("lfw", result), allow_nan=False))
    assert back["num_pairs"] == 2000 and len(back["fold_accuracies"]) == 10 and back["threshold"]["distance"] == "l2"
    assert back["tar_at_far"]["0.001"]["far"] == result.tar_at_far[1e-3].far
    assert back["roc"]["fpr"][0] == back["roc"]["tpr"][0] == 0 and back["roc"]["fpr"][-1] == back["roc"]["tpr"][-1] == 1


def test_thinned_curve_is_part_of_the_curve(result):
    roc = thin(result.roc)
    points = set(zip(result.roc.fpr, result.roc.tpr, strict=True))
    assert len(roc.fpr) <= ROC_POINTS < len(result.roc.fpr)
    assert set(zip(roc.fpr, roc.tpr, strict=True)) <= points and (np.diff(roc.fpr) >= 0).all()


def test_table_shows_percent_and_the_unit_of_the_threshold(result):
    text = table("lfw", result)
    assert f"{100 * result.accuracy:.2f} % ± {100 * result.accuracy_std:.2f} %" in text
    assert f"{result.threshold.value:.4f}   (l2 distance, flip none; from all pairs)" in text
    assert "TAR @ FAR 0.001" in text and "2,000 pairs, 10 folds" in text


@pytest.mark.parametrize(
    ("accuracy", "pairs", "chance"), [(0.48, 300, True), (0.52, 300, True), (0.52, 6000, False), (0.6, 300, False)]
)
def test_an_accuracy_that_guessing_has_is_said_to_be_none(result, accuracy, pairs, chance):
    assert is_chance(accuracy, pairs) == chance == (wilson(accuracy, pairs)[0] <= 0.5)
    text = table("lfw", dataclasses.replace(result, fold_accuracies=(accuracy,) * 10, num_pairs=pairs))
    assert ("not shown to be better than guessing" in text) == chance


def test_roc_picture(result, tmp_path):
    save_roc(tmp_path / "roc.png", {name: outcome(name, result) for name in ("lfw", "heldout")})
    assert not save_roc(tmp_path / "none.png", {"lfw": Outcome(metrics={})}) and not (tmp_path / "none.png").exists()
    with Image.open(tmp_path / "roc.png") as image:
        assert image.size[0] > 800 and len(image.convert("L").getcolors(256) or []) > 10
