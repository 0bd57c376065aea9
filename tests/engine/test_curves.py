import contextlib

import pytest
from PIL import Image

from facenet.engine import curves
from facenet.engine.curves import save_curves


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, by file name: (label of the y axis, points by curve)."""
    calls, draw = {}, curves.draw

    def record(path, axis, points):
        calls[path.name] = (axis, points)
        draw(path, axis, points)

    monkeypatch.setattr(curves, "draw", record)
    return calls


def test_two_pictures_with_a_curve_per_measured_metric(tmp_path, drawn):
    history = [
        {"epoch": 1.0, "train/loss": 2.0, "val/loss": 2.5, "train/ce/accuracy": 0.25, "lfw/auc": 0.5},
        {"epoch": 2.0, "train/loss": 1.0, "val/loss": 2.0, "train/ce/accuracy": 0.5, "lfw/accuracy": 0.875},
    ]
    written = save_curves(tmp_path, history)
    assert written == [tmp_path / "epoch_loss.png", tmp_path / "epoch_acc.png"]
    assert drawn["epoch_loss.png"] == ("loss", {"train/loss": [(1, 2), (2, 1)], "val/loss": [(1, 2.5), (2, 2)]})
    # in percent, and only where it was measured
    assert drawn["epoch_acc.png"] == (
        "accuracy, %",
        {"lfw/accuracy": [(2, 87.5)], "train/ce/accuracy": [(1, 25), (2, 50)]},
    )
    for path in written:
        with Image.open(path) as image:
            assert image.format == "PNG" and image.size == (770, 495)


def test_a_picture_without_curves_is_not_written(tmp_path, drawn):
    assert save_curves(tmp_path, [{"epoch": 1.0, "train/loss": 2.0}]) == [tmp_path / "epoch_loss.png"]
    assert save_curves(tmp_path / "none", []) == []
    assert list(drawn) == ["epoch_loss.png"] and not (tmp_path / "epoch_acc.png").exists()


def test_a_loss_that_is_not_finite_is_drawn_around(tmp_path, drawn):
    history = [{"epoch": 1.0, "train/loss": float("nan")}, {"epoch": 2.0, "train/loss": float("inf")}]
    assert save_curves(tmp_path, history) == [tmp_path / "epoch_loss.png"]


def test_figures_of_a_benchmark_of_ones_own_have_a_picture_of_their_own(tmp_path, drawn):
    history = [{"epoch": 1.0, "ids/rank1": 0.25, "ids/rank5": 0.5}, {"epoch": 2.0, "ids/rank1": 0.5, "ids/other": 1.0}]
    own = {"ids": ["ids/rank1", "ids/rank5"], "not measured": ["x/y"]}
    assert save_curves(tmp_path, history, own) == [tmp_path / "figures-ids.png"]
    assert drawn == {"figures-ids.png": ("ids", {"ids/rank1": [(1, 0.25), (2, 0.5)], "ids/rank5": [(1, 0.5)]})}


@pytest.mark.parametrize("epochs", [(1,), (7,), (3, 4)])
def test_the_axis_of_epochs_has_whole_ones(tmp_path, monkeypatch, epochs):
    seen, before = [], curves.drawn

    @contextlib.contextmanager
    def record(path):
        with before(path) as axes:
            yield axes
            seen.extend(axes)

    monkeypatch.setattr(curves, "drawn", record)
    save_curves(tmp_path, [{"epoch": float(epoch), "train/loss": 1.0} for epoch in epochs])
    first, last = seen[0].get_xlim()
    ticks = [tick for tick in seen[0].get_xticks() if first <= tick <= last]
    assert set(epochs) <= set(ticks) and all(tick == int(tick) for tick in ticks)
    assert seen[0].lines[0].get_markersize() == (3 if len(epochs) > 1 else 8)
    assert len(epochs) > 1 or (first, last) == (epochs[0] - 1, epochs[0] + 1)
