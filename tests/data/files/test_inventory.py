"""What is noted of a file; whole sets are audited in tests/tools/test_audit.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from facenet.data.files.decode import Decode
from facenet.data.files.inventory import look_at

SMALL, LONG = "below 32 pixels", "more than 3 times as long as wide"


@pytest.mark.parametrize(
    ("size", "notes"),
    [
        ((32, 32), ()),
        ((31, 32), (SMALL,)),
        ((32, 96), ()),
        ((32, 97), (LONG,)),
        ((97, 32), (LONG,)),
        ((31, 94), (SMALL, LONG)),
    ],
)
def test_sizes_are_noted_beyond_their_bounds(tmp_path: Path, size: tuple[int, int], notes: tuple[str, ...]) -> None:
    Image.linear_gradient("L").resize(size).convert("RGB").save(tmp_path / "a.png")
    look = look_at(str(tmp_path / "a.png"), Decode())
    assert (look.kind, look.size, look.problem, look.notes) == ("PNG RGB", size, "", notes)
