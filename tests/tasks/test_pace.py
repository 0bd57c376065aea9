import pytest

from facenet.tasks import pace
from facenet.tasks.job import prepare


@pytest.fixture
def planned(compose, tmp_path, monkeypatch):
    """planned(*overrides): config and plan of the tiny job, of 8 steps of 12 images."""
    monkeypatch.setenv("FACENET_CACHE", str(tmp_path / "cache"))

    def plan(*overrides):
        config = compose(*overrides)
        return config, prepare(config)[1]

    return plan


def test_the_newest_whole_run_of_a_kind_tells_how_long_another_takes(planned):
    assert pace.estimate(*planned()) is None
    pace.remember(*planned(), whole_s=100.0, epochs_s=90.0)
    pace.remember(*planned(), whole_s=12.6, epochs_s=9.6)  # of 96 images
    assert pace.estimate(*planned("optimizer.lr=0.5")) == pytest.approx(3 + 9.6)
    assert pace.estimate(*planned("trainer.epochs=4")) == pytest.approx(3 + 19.2)
    assert pace.estimate(*planned("trainer.max_steps=3")) == pytest.approx(3 + 3.6)


@pytest.mark.parametrize("other", ["backbone.embedding_size=64", "data.image_size=48", "precision=bf16"])
def test_another_network_image_size_or_precision_is_another_kind(planned, other):
    pace.remember(*planned(), whole_s=12.6, epochs_s=9.6)
    assert pace.estimate(*planned(other)) is None


def test_a_damaged_note_and_a_cache_that_cannot_be_written_cost_only_the_estimate(planned, tmp_path, monkeypatch):
    pace.remember(*planned(), whole_s=12.6, epochs_s=9.6)
    (note,) = (tmp_path / "cache" / "paces").iterdir()
    for text in ("", "{}", "[]", '{"around_s": "x", "image_s": 1}'):
        note.write_text(text)
        assert pace.estimate(*planned()) is None
    monkeypatch.setenv("FACENET_CACHE", str(note))
    pace.remember(*planned(), whole_s=12.6, epochs_s=9.6)
    assert pace.estimate(*planned()) is None
