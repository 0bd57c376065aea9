"""Lines to type mean what they should, read by a real shell and by Hydra's own grammar."""

from __future__ import annotations

import os
import subprocess

from hydra.core.override_parser.overrides_parser import OverridesParser

from facenet.config.overrides import text_of
from facenet.files.typed import command, naming, override

NAMES = (
    *(
        "packs/a-1.b",
        "../x",
        "my faces",
        " x ",
        "a=b",
        "lr=1e-3,bs=3",
        "/x(1)",
        "[1]",
        "{a,b}",
        "a:b",
        "~/x",
        "#1",
        "$HOME",
        "a;b&c",
        "a`b",
    ),
    *("it's", 'it\'s "q"', "a\\b", "a\\'b", 'a\\"b', 'end"', "end\\", "große", "训练", "1", ".5", "null", "True", ""),
    *("👨\u200d👩", "a\nb", "a\tb\x1b'", "\u202eabc\\", "no utf-8 \udcff1"),
)


def test_a_name_like_a_flag_comes_last() -> None:
    assert naming("facenet-report", "a b", "--open") == "facenet-report 'a b' --open"
    assert naming("facenet-report", "-x", "--uri", "U") == "facenet-report --uri U -- -x"


def test_names_are_read_back_by_shell_and_hydra() -> None:
    parser = OverridesParser.create()
    words = [override("data.path", name) for name in NAMES]
    line = command("printf", r"%s\0", *words)
    read = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    assert os.fsdecode(read).split("\0")[:-1] == words and line.isprintable()
    for name, word in zip(NAMES, words, strict=True):
        found = parser.parse_override(word)
        assert (found.key_or_group, found.value(), found.is_sweep_override()) == ("data.path", name, False)
        assert text_of(word) == name
    assert override("data.path", "packs/a-1.b") == "data.path=packs/a-1.b"
    assert text_of("sweep.resume=/训练/it's") == "/训练/it's"  # as nobody quotes it
