import itertools
import time
from dataclasses import astuple

import numpy as np
import pytest

from facenet.evaluation.verification import (
    ACCURACY_GRID,
    FAR_GRID,
    FAR_TARGETS,
    Threshold,
    evaluate_pairs,
)


def reference_pairs():
    """6,000 pairs whose results under the reference implementation's rules are known."""
    number = np.arange(6000, dtype=np.int64)
    uniform = ((number * 1103515245 + 12345) % 2**31) / 2**31
    same = (number // 300) % 2 == 0
    return np.where(same, 0.3 + 0.9 * uniform, 1.0 + 0.6 * uniform), same, number // 600


def random_pairs(seed, num_pairs=120, num_folds=4, decimals=None):
    """Overlapping distances; `decimals` rounds them so that many are equal."""
    rng = np.random.default_rng(seed)
    same = np.arange(num_pairs) % 2 == 0
    distances = np.clip(rng.normal(np.where(same, 0.8, 1.2), 0.3), 0, 2)
    if decimals is not None:
        distances = distances.round(decimals)
    return distances, same, (np.arange(num_pairs) // 2) % num_folds


def naive_accuracy(distances, same, threshold):
    return np.mean([(distance < threshold) == alike for distance, alike in zip(distances, same, strict=True)])


def naive_thresholds(distances):
    """One threshold in every gap, and one on either side."""
    values = sorted(set(distances.tolist()))
    return [
        values[0],
        *[(low + high) / 2 for low, high in itertools.pairwise(values)],
        np.nextafter(values[-1], 9),
    ]


def naive_folds(distances, same, folds, candidates):
    """(accuracy, threshold) per fold by trying every candidate: the first that is best on the other folds."""
    results = []
    for fold in sorted(set(folds.tolist())):
        train, test = folds != fold, folds == fold
        scores = [naive_accuracy(distances[train], same[train], t) for t in candidates(distances[train])]
        threshold = candidates(distances[train])[int(np.argmax(scores))]
        results.append((naive_accuracy(distances[test], same[test], threshold), threshold))
    return results


def test_reference_grid_gives_the_reference_numbers():
    result = evaluate_pairs(*reference_pairs(), thresholds="reference")
    folds = [0.893333, 0.883333, 0.893333, 0.89, 0.883333, 0.893333, 0.886667, 0.886667, 0.893333, 0.885]
    assert result.accuracy == pytest.approx(0.888833, abs=1e-6)
    assert result.accuracy_std == pytest.approx(0.004086, abs=1e-6)
    assert result.fold_accuracies == pytest.approx(folds, abs=1e-6)
    assert result.fold_thresholds[-1] == pytest.approx(1.0, abs=1e-9)
    assert astuple(result.threshold) == (pytest.approx(1.0, abs=1e-9), "l2", "none", None)
    assert tuple(result.tar_at_far[1e-3]) == pytest.approx((0.777667, 0.008172, 0.001667), abs=1e-6)
    assert result.num_pairs == 6000


def test_exact_thresholds_bound_the_false_accepts_of_the_other_folds():
    distances, same, folds = reference_pairs()
    result = evaluate_pairs(distances, same, folds)
    assert result.accuracy == pytest.approx(0.888667, abs=1e-6)
    assert result.tar_at_far[1e-3].far <= 1e-3 + 1e-9 and result.tar_at_far[1e-2].far == pytest.approx(1e-2, abs=1e-3)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("decimals", [None, 1])
def test_exact_equals_trying_every_threshold(seed, decimals):
    distances, same, folds = random_pairs(seed, decimals=decimals)
    expected = naive_folds(distances, same, folds, naive_thresholds)
    result = evaluate_pairs(distances, same, folds)
    assert result.fold_accuracies == pytest.approx([accuracy for accuracy, _ in expected])
    assert result.fold_thresholds == pytest.approx([threshold for _, threshold in expected])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decimals", [None, 2])
def test_reference_equals_walking_the_grid(seed, decimals):
    distances, same, folds = random_pairs(seed, decimals=decimals)
    expected = naive_folds(distances, same, folds, lambda _: ACCURACY_GRID)
    result = evaluate_pairs(distances, same, folds, thresholds="reference")
    assert result.fold_accuracies == pytest.approx([accuracy for accuracy, _ in expected])
    assert result.fold_thresholds == pytest.approx([threshold for _, threshold in expected])


@pytest.mark.parametrize("seed", range(3))
def test_exact_far_threshold_is_the_highest_allowed(seed):
    distances, same, folds = random_pairs(seed, decimals=2)
    result = evaluate_pairs(distances, same, folds)
    for target in FAR_TARGETS:
        tars = []
        for fold in range(4):
            different = distances[(folds != fold) & ~same]
            limit = max(t for t in naive_thresholds(different) + sorted(different) if np.mean(different < t) <= target)
            tars.append(np.mean(distances[(folds == fold) & same] < limit))
        assert result.tar_at_far[target].tar == pytest.approx(np.mean(tars))
        assert result.tar_at_far[target].std == pytest.approx(np.std(tars))


def test_reference_far_threshold_interpolates_between_grid_points():
    distances, same, folds = random_pairs(0, num_pairs=400)
    tars = []
    for fold in range(4):
        different = distances[(folds != fold) & ~same]
        far = np.array([np.mean(different < threshold) for threshold in FAR_GRID])
        low = np.flatnonzero(far <= 1e-2).max()
        limit = np.interp(1e-2, far[low : low + 2], FAR_GRID[low : low + 2])
        tars.append(np.mean(distances[(folds == fold) & same] < limit))
    result = evaluate_pairs(distances, same, folds, thresholds="reference")
    assert result.tar_at_far[1e-2].tar == pytest.approx(np.mean(tars))


def test_reference_far_out_of_reach_accepts_nothing():
    same, folds = np.arange(8) % 2 == 0, np.arange(8) // 4
    distances = np.where(same, 1.0, 100.0)  # beyond the grid: no threshold accepts a different pair
    result = evaluate_pairs(distances, same, folds, thresholds="reference")
    assert tuple(result.tar_at_far[1e-1]) == (0.0, 0.0, 0.0)


def test_auc_is_the_chance_that_a_same_pair_is_nearer():
    distances, same, folds = random_pairs(1, decimals=1)
    gap = distances[~same][None, :] - distances[same][:, None]
    assert evaluate_pairs(distances, same, folds).auc == pytest.approx(np.mean((gap > 0) + 0.5 * (gap == 0)))


def test_eer_of_a_curve_placed_by_hand():
    # in order of distance: S S D S D D; after three, 1/3 of the different are accepted and 1/3 of the same refused
    distances = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    same = np.array([True, True, False, True, False, False])
    folds = np.array([0, 1, 0, 1, 1, 0])
    result = evaluate_pairs(distances, same, folds)
    assert result.eer == pytest.approx(1 / 3)
    assert result.roc.fpr == pytest.approx([0, 0, 0, 1 / 3, 1 / 3, 2 / 3, 1])
    assert result.roc.tpr == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1, 1, 1])


def test_eer_between_two_points_is_interpolated():
    distances = np.array([0.5, 0.5, 0.5, 0.5])
    same, folds = np.array([True, False, True, False]), np.array([0, 0, 1, 1])
    result = evaluate_pairs(distances, same, folds)
    assert (result.eer, result.auc, result.accuracy) == (0.5, 0.5, 0.5)


def test_separable_pairs_are_parted_half_way():
    same, folds = np.arange(40) % 2 == 0, np.arange(40) // 10
    result = evaluate_pairs(np.where(same, 0.5, 1.5), same, folds)
    assert (result.accuracy, result.accuracy_std, result.auc, result.eer) == (1, 0, 1, 0)
    assert result.fold_thresholds == (1.0,) * 4 and result.threshold.value == 1.0
    assert tuple(result.tar_at_far[1e-3]) == (1, 0, 0)


def test_swapped_labels_mirror_the_curve():
    distances, same, folds = random_pairs(2)
    right, wrong = evaluate_pairs(distances, same, folds), evaluate_pairs(distances, ~same, folds)
    assert wrong.auc == pytest.approx(1 - right.auc) and wrong.accuracy < 0.55 < right.accuracy


@pytest.mark.parametrize("thresholds", ["exact", "reference"])
def test_order_of_pairs_and_names_of_folds_do_not_matter(thresholds):
    distances, same, folds = random_pairs(3, decimals=2)
    order = np.random.default_rng(0).permutation(len(same))
    first = evaluate_pairs(distances, same, folds, thresholds=thresholds)
    second = evaluate_pairs(distances[order], same[order], 7 * folds[order] + 2, thresholds=thresholds)
    assert first.fold_accuracies == second.fold_accuracies and first.tar_at_far == second.tar_at_far
    assert (first.auc, first.eer, first.threshold) == (second.auc, second.eer, second.threshold)


def test_exact_results_survive_a_monotone_change_of_unit():
    distances, same, folds = random_pairs(4)
    plain, squared = (
        evaluate_pairs(distances, same, folds),
        evaluate_pairs(distances**2, same, folds, distance="squared_l2"),
    )
    assert plain.tar_at_far == squared.tar_at_far and plain.auc == squared.auc
    assert plain.accuracy == pytest.approx(squared.accuracy, abs=0.02)  # half-way is elsewhere
    assert squared.threshold.distance == "squared_l2"


def test_equal_distance_is_not_below_the_threshold():
    distances, same = np.array([1.0, 1.0, 0.5, 2.0]), np.array([True, False, True, False])
    result = evaluate_pairs(distances, same, np.array([0, 0, 1, 1]))
    assert result.fold_thresholds[1] == 1.0  # parts nothing in fold 0, and fold 1's nearer pair is then accepted
    assert result.fold_accuracies == (0.5, 1.0)


def test_distances_per_fold_are_used_by_their_fold():
    distances, same, folds = random_pairs(5)
    stacked = np.stack([distances * scale for scale in (1.0, 2.0, 4.0, 8.0)])
    one, many = evaluate_pairs(distances, same, folds), evaluate_pairs(stacked, same, folds)
    assert many.fold_accuracies == one.fold_accuracies
    assert many.fold_thresholds == pytest.approx(np.array(one.fold_thresholds) * [1, 2, 4, 8])


def test_neighbouring_floats_are_parted():
    low = 1.0
    high = float(np.nextafter(low, 2))
    result = evaluate_pairs(np.array([low, high, low, high]), np.array([True, False] * 2), np.array([0, 0, 1, 1]))
    assert result.accuracy == 1.0 and result.threshold.value == high


@pytest.mark.parametrize(
    ("distances", "same", "folds", "message"),
    [
        ([0.1, 0.2], [True, False], [0, 0], "at least one fold beside"),
        ([0.1, 0.2, 0.3], [True, False, True], [0, 0, 1], "fold 1 holds no pair of different identities"),
        ([0.1, 0.2, np.nan, 0.3], [True, False, True, False], [0, 0, 1, 1], "1 of 4 distances are not finite"),
    ],
)
def test_pairs_that_cannot_be_judged_are_refused(distances, same, folds, message):
    with pytest.raises(ValueError, match=message):
        evaluate_pairs(np.array(distances), np.array(same), np.array(folds))


def test_threshold_survives_a_checkpoint():
    threshold = Threshold(1.25, "l2", "concat", (0.5, -0.5))
    assert Threshold(**threshold.as_dict()) == threshold


@pytest.mark.parametrize("thresholds", ["exact", "reference"])
def test_six_thousand_pairs_take_milliseconds(thresholds):
    pairs = reference_pairs()
    times = []
    for _ in range(10):
        start = time.process_time()
        evaluate_pairs(*pairs, thresholds=thresholds)
        times.append(time.process_time() - start)
    assert min(times) < 0.006  # 1.1 ms exact, 1.5 ms reference when measured; the reference implementation took 1.2 s
