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
