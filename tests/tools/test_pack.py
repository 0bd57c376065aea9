"""What packing says is a command that runs."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from facenet.data.files.record_faces import RecordFaces
from facenet.tools.pack import override, run_pack


@pytest.mark.parametrize(
    "value",
    [
        "packs/a-1.b",
        "my faces",
        "a=b",
        "/x(1)",
        "it's",
        "{a,b}",
        "a:b",
        "~/x",
        "a\\b",
        "große",
        "a;b",
        "$HOME",
        " x ",
        "1",
        "null",
        ".5",
        "../x",
    ],
)
def test_an_override_is_read_back_by_shell_and_hydra(value: str) -> None:
    (word,) = shlex.split(override("data.path", value))
    parsed = OverridesParser.create().parse_override(word)
    assert (parsed.key_or_group, parsed.value(), parsed.is_sweep_override()) == ("data.path", value, False)
    assert override("data.path", "packs/a-1.b") == "data.path=packs/a-1.b"


def test_the_command_that_is_printed_names_the_pack(tmp_path: Path) -> None:
    for person in ("ann", "bob"):
        (tmp_path / "in" / person / "day").mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "in" / person / "day" / "0.png")
        (tmp_path / "in" / person / "note.txt").touch()
    said = run_pack(str(tmp_path / "in"), str(tmp_path / "my packs=1"), depth=2)
    key, place = shlex.split(said.rsplit("data=record ", 1)[1])[0].split("=", 1)
    assert (key, place) == ("data.path", f"'{tmp_path}/my packs=1'") and "; left out: 2 .txt; train on it" in said
    assert RecordFaces(tmp_path / "my packs=1").identities == ("ann", "bob")
