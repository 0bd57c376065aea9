"""What packing says is a command that runs."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from facenet.data.files.record_faces import RecordFaces
from facenet.tools.pack import run_pack


def test_the_command_that_is_printed_names_the_pack(tmp_path: Path) -> None:
    for person in ("ann", "bob"):
        (tmp_path / "in" / person / "day").mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "in" / person / "day" / "0.png")
        (tmp_path / "in" / person / "note.txt").touch()
    said = run_pack(str(tmp_path / "in"), str(tmp_path / "my packs=1"), depth=2)
    key, place = shlex.split(said.rsplit("data=record ", 1)[1])[0].split("=", 1)
    assert (key, place) == ("data.path", f'"{tmp_path}/my packs=1"') and "; left out: 2 .txt; train on it" in said
    assert RecordFaces(tmp_path / "my packs=1").identities == ("ann", "bob")
