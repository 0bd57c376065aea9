"""Grids hold the pixels of their images, figures say of which run they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from facenet.files.picture import drawn, save_pixels, tile


def test_a_grid_holds_the_pixels_of_its_images(tmp_path):
    images = [np.random.default_rng(n).integers(0, 256, (8, 6, 3), dtype=np.uint8) for n in range(5)]
    save_pixels(tmp_path / "grid.png", tile(images, 3))
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (16, 18, 3) and (grid[8:, 12:] == 255).all()
    for number, image in enumerate(images):
        row, column = divmod(number, 3)
        assert np.array_equal(grid[8 * row : 8 * row + 8, 6 * column : 6 * column + 6], image)


def test_a_figure_says_of_which_run_it_is(tmp_path, monkeypatch):
    run = tmp_path / "$losses" / "0"
    run.mkdir(parents=True)
    monkeypatch.chdir(run)
    for path in (run / "roc.png", Path("roc.png")):
        with drawn(path) as (axes,):
            assert [text.get_text() for text in axes.figure.texts] == [r"\$losses/0"]
        assert (run / "roc.png").stat().st_size > 0
