import numpy as np
import pytest

from facenet.evaluation.benchmarks.drawn_pairs import draw_different, draw_same


def labels(*counts, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def as_set(pairs):
    return {tuple(sorted(pair)) for pair in zip(*(side.tolist() for side in pairs), strict=True)}


@pytest.mark.parametrize("draw", [draw_same, draw_different])
@pytest.mark.parametrize("seed", range(4))
def test_pairs_are_distinct_of_the_right_kind_and_repeatable(draw, seed):
    marks = labels(5, 1, 9, 2, 7, 30)
    left, right = draw(marks, 60, np.random.default_rng(seed))
    assert len(as_set((left, right))) == len(left) == 60
    assert ((marks[left] == marks[right]) == (draw is draw_same)).all() and (left != right).all()
    again = draw(marks, 60, np.random.default_rng(seed))
    other = draw(marks, 60, np.random.default_rng(seed + 1))
    assert np.array_equal(again, (left, right)) and as_set(other) != as_set((left, right))


@pytest.mark.parametrize("draw", [draw_same, draw_different])
def test_all_pairs_are_found_where_all_are_asked_for(draw):
    marks = labels(4, 3, 1)
    everyone = {(a, b) for b in range(8) for a in range(b) if (marks[a] == marks[b]) == (draw is draw_same)}
    assert as_set(draw(marks, 1000, np.random.default_rng(0))) == everyone


def test_same_pairs_are_spread_over_identities():
    marks = labels(2, 3, 40, 40)  # 1, 3, 780 and 780 possible pairs
    left, _ = draw_same(marks, 50, np.random.default_rng(0))
    assert np.bincount(marks[left]).tolist() == [1, 3, 23, 23]


def test_different_pairs_are_spread_over_identities():
    marks = labels(3, 300, 300, 300)
    left, right = draw_different(marks, 400, np.random.default_rng(0))
    share = np.bincount(np.concatenate([marks[left], marks[right]])) / 800
    assert share == pytest.approx([0.25] * 4, abs=0.06)


def test_no_identity_with_two_images_gives_no_pairs():
    left, right = draw_same(labels(1, 1, 1), 10, np.random.default_rng(0))
    assert len(left) == len(right) == 0
