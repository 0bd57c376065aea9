import numpy as np
import pytest

from facenet.evaluation.protocol import Protocol, distance_from_cosine, fold_sums, verify
from facenet.evaluation.verification import evaluate_pairs

ANGLE = np.array([0.0, np.pi / 3, np.pi / 2, np.pi])


@pytest.mark.parametrize(
    ("distance", "expected"),
    [("l2", [0, 1, np.sqrt(2), 2]), ("squared_l2", [0, 1, 2, 4]), ("cosine", [0, 0.5, 1, 2])],
)
def test_distances_of_known_angles(distance, expected):
    assert distance_from_cosine(np.cos(ANGLE), distance) == pytest.approx(expected, abs=1e-7)


def test_rounding_past_one_gives_no_nan():
    assert distance_from_cosine(np.array([1 + 1e-15]), "l2").tolist() == [0.0]


def faces(seed=0, num_images=90, size=16, num_pairs=200, num_folds=5, offset=0.0):
    """Embeddings of 30 identities with noise and, if asked, a common offset; pairs and folds."""
    rng = np.random.default_rng(seed)
    identity = np.arange(num_images) % 30
    rows = rng.normal(size=(30, size))[identity] + 0.9 * rng.normal(size=(num_images, size)) + offset
    left = rng.integers(num_images, size=num_pairs)
    alike = np.arange(num_pairs) % 2 == 0
    right = np.where(alike, (left + 30) % num_images, (left + rng.integers(1, 29, size=num_pairs)) % num_images)
    return (
        rows.astype(np.float32),
        left,
        right,
        identity[left] == identity[right],
        (np.arange(num_pairs) // 2) % num_folds,
    )


def naive_distances(rows, left, right, folds, subtract_mean):
    """(K, P) L2 distances, one fold and one pair at a time."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    out = []
    for fold in np.unique(folds):
        train = folds != fold
        mean = np.concatenate([unit[left[train]], unit[right[train]]]).mean(axis=0) if subtract_mean else 0.0
        moved = unit - mean
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        out.append(np.linalg.norm(moved[left] - moved[right], axis=1))
    return np.array(out)


@pytest.mark.parametrize("subtract_mean", [False, True])
def test_verify_equals_judging_naive_distances(subtract_mean):
    rows, left, right, same, folds = faces()
    expected = evaluate_pairs(naive_distances(rows.astype(np.float64), left, right, folds, subtract_mean), same, folds)
    result = verify(rows, left, right, same, folds, Protocol(subtract_mean=subtract_mean))
    assert result.fold_accuracies == expected.fold_accuracies and result.auc == pytest.approx(expected.auc)
    assert result.fold_thresholds == pytest.approx(expected.fold_thresholds, abs=1e-6)


def test_mean_subtraction_takes_a_common_offset_away():
    pairs = faces(offset=3.0)
    plain, centred = verify(*pairs, Protocol()), verify(*pairs, Protocol(subtract_mean=True))
    assert centred.auc > plain.auc + 0.01


def test_stored_threshold_names_unit_flip_and_mean():
    rows, left, right, same, folds = faces()
    threshold = verify(
        rows, left, right, same, folds, Protocol(distance="cosine", flip="concat", subtract_mean=True)
    ).threshold
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    assert (threshold.distance, threshold.flip) == ("cosine", "concat")
    assert threshold.mean == pytest.approx(np.concatenate([unit[left], unit[right]]).mean(axis=0))
    assert verify(rows, left, right, same, folds, Protocol()).threshold.mean is None


def test_fold_sums_count_an_image_once_per_pair():
    rows = np.eye(3)
    sums, counts = fold_sums(rows, np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([4, 4, 9]))
    assert sums.tolist() == [[2, 1, 1], [0, 1, 1]] and counts.tolist() == [4, 2]


@pytest.mark.parametrize("distance", ["squared_l2", "cosine"])
def test_units_agree_about_the_order_of_pairs(distance):
    pairs = faces()
    first, second = verify(*pairs, Protocol()), verify(*pairs, Protocol(distance=distance))
    assert first.tar_at_far == second.tar_at_far and first.auc == pytest.approx(second.auc)


def test_length_of_the_rows_does_not_matter():
    rows, *pairs = faces()
    scaled = rows * np.random.default_rng(0).uniform(0.5, 9, size=(len(rows), 1)).astype(np.float32)
    first, second = verify(rows, *pairs, Protocol()), verify(scaled, *pairs, Protocol())
    assert first.fold_accuracies == second.fold_accuracies and first.auc == pytest.approx(second.auc)
