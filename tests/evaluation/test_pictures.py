"""What the pictures hold: the pixels of the faces, the stored operating points, the pairs of a naive sort."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.identities import UnreadableImage
from facenet.evaluation import pictures, report
from facenet.evaluation.verification import Roc, evaluate_pairs


@pytest.fixture(scope="module")
def judged():
    rng = np.random.default_rng(0)
    same = np.arange(400) % 2 == 0
    distances = np.where(same, rng.normal(0.8, 0.2, 400), rng.normal(1.2, 0.2, 400)).clip(0, 2)
    return distances, same, evaluate_pairs(distances, same, np.arange(400) // 2 % 5, distance="l2", thresholds="exact")


def lines_of(monkeypatch):
    drawn, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **k: drawn.append((a, k)) or plot(self, *a, **k))
    return drawn


def test_hardest_pairs_are_those_of_a_naive_sort(judged):
    distances, same, _ = judged
    found = pictures.hardest(distances, same, 7)
    naive = sorted(range(len(same)), key=lambda pair: distances[pair])
    assert found.rejected.tolist() == [pair for pair in reversed(naive) if same[pair]][:7]
    assert found.accepted.tolist() == [pair for pair in naive if not same[pair]][:7]
    few = pictures.hardest(distances[:3], same[:3], 7)
    assert sorted(few.rejected.tolist()) == [0, 2] and few.accepted.tolist() == [1]


def test_det_has_the_rates_of_the_curve_on_normal_deviates(judged, monkeypatch, tmp_path):
    drawn = lines_of(monkeypatch)
    pictures.save_det(tmp_path / "det.png", "lfw", judged[2])
    (x, y), _ = drawn[0][0][:2], drawn[0][1]
    fpr, fnr = pictures.det_points(judged[2].roc)
    assert np.allclose([(1 + math.erf(value / math.sqrt(2))) / 2 for value in x], fpr) and len(y) == len(fnr)
    perfect = Roc(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    assert [len(rates) for rates in pictures.det_points(perfect)] == [0, 0]


def test_scores_of_both_kinds_and_the_threshold(judged, monkeypatch, tmp_path):
    distances, same, result = judged
    drawn, hist = [], Axes.hist
    monkeypatch.setattr(Axes, "hist", lambda self, *a, **k: drawn.append((a, k)) or hist(self, *a, **k))
    at, line = [], Axes.axvline
    monkeypatch.setattr(Axes, "axvline", lambda self, x, **k: at.append(x) or line(self, x, **k))
    pictures.save_scores(tmp_path / "scores.png", "lfw", distances, same, result)
    assert [sorted(a[0]) for a, _ in drawn] == [sorted(distances[same]), sorted(distances[~same])]
    assert at == [result.threshold.value]


def test_hardest_pairs_show_their_faces_and_say_who_they_are(tmp_path):
    faces = SyntheticFaces(num_identities=4, images_per_identity=2, size=pictures.SIDE)
    left, right = np.array([0, 2, 0, 4]), np.array([1, 3, 2, 6])
    same, distances = np.array([True, True, False, False]), np.array([0.3, 0.9, 0.2, 1.1])
    rows = pictures.save_hardest(tmp_path / "hard.png", faces, left, right, distances, same)
    assert [(row["kind"], row["distance"]) for row in rows] == [
        ("false reject", 0.9),
        ("false reject", 0.3),
        ("false accept", 0.2),
        ("false accept", 1.1),
    ]
    assert (rows[0]["left"], rows[0]["right"]) == (faces.name(2), faces.name(3))
    picture = np.asarray(Image.open(tmp_path / "hard.png"))
    side, height = pictures.SIDE, picture.shape[0] // 2
    assert np.array_equal(picture[:side, :side], faces.load(2)) and np.array_equal(
        picture[:side, side : 2 * side], faces.load(3)
    )
    assert np.array_equal(picture[height : height + side, :side], faces.load(0))


def test_a_projection_shows_the_plane_in_which_the_means_lie_furthest_apart(monkeypatch, tmp_path):
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1, 2, 3, 4], [4, 3, 5, 2, 3])  # the fourth has too few images
    rows = (rng.normal(size=(5, 6))[labels] + 0.1 * rng.normal(size=(17, 6))).astype(np.float32)
    drawn = lines_of(monkeypatch)
    assert pictures.save_projection(tmp_path / "p.png", "lfw", rows, labels)
    means = np.array([rows[labels == label].astype(float).mean(axis=0) for label in (2, 0, 1, 4)])
    values, vectors = np.linalg.eigh(np.cov(means.T, bias=True))  # naive: of the covariance, smallest first
    for (a, _), label in zip(drawn, (2, 0, 1, 4), strict=True):
        naive = (rows[labels == label] - means.mean(axis=0)) @ vectors[:, [-1, -2]]
        assert np.allclose(np.abs(np.stack(a[:2], axis=1)), np.abs(naive), atol=1e-6)
    assert [k["label"] for _, k in drawn] == [f"identity {number}" for number in (3, 1, 2, 5)]
    _, shares, _ = pictures.plane(list(means))
    assert np.allclose(shares, values[[-1, -2]] / values.sum())
    assert not pictures.save_projection(tmp_path / "none.png", "lfw", rows[:7], labels[:7])
    assert not (tmp_path / "none.png").exists()


def test_an_image_that_cannot_be_read_is_grey(tmp_path, monkeypatch):
    faces = SyntheticFaces(num_identities=2, images_per_identity=2, size=16)

    def fail(index):
        raise UnreadableImage("a.jpg", "is damaged")

    monkeypatch.setattr(faces, "load", fail)
    assert (pictures.thumbnail(faces, 0) == 128).all()


def test_roc_marks_the_operating_points_that_are_stored_and_the_line_of_chance(judged, monkeypatch, tmp_path):
    result, drawn = judged[2], lines_of(monkeypatch)
    assert report.save_roc(tmp_path / "roc.png", {"lfw": report.outcome("lfw", result)})
    stored = {(at.far, at.tar) for target, at in result.tar_at_far.items() if target > 0.001}
    assert len(result.tar_at_far) == 3, "of 200 different pairs none tells one false accept in a thousand"
    assert [set(zip(*a[:2], strict=True)) for a, _ in drawn if a[2:] == ("o",)] == [stored, stored]
    chance = [a for a, k in drawn if k.get("label") == "chance"]
    assert len(chance) == 2 and all(np.array_equal(a[0], a[1]) for a in chance)
