"""A picture that fails costs the picture."""

from __future__ import annotations

import logging

from facenet.tasks.records import draw_all


def test_a_picture_that_cannot_be_drawn_is_told_and_the_others_are_there(tmp_path, caplog):
    def fails(directory):
        raise RuntimeError("no\x1b[2J font")

    def full(directory):
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.WARNING):
        assert draw_all([fails, lambda directory: [directory / "a.png"], full], tmp_path) == [tmp_path / "a.png"]
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "RuntimeError: no\\x1b[2J font",
        "OSError: [Errno 28] No space left on device",
    ]
