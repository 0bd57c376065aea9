from __future__ import annotations

import re

from facenet.commands.help_text import help_of
from facenet.config.near import choices_with
from facenet.files.choices import built_in, with_bases


def test_a_choice_has_the_keys_of_the_files_that_it_builds_on() -> None:
    assert choices_with("data", "orientation") == ["annotation", "folder", "shards"]
    assert choices_with("data", "max_unreadable") == list(built_in("data"))
    assert choices_with("data", "depth") == ["folder"] and choices_with("precision", "init_scale") == list(
        built_in("precision")
    )
    assert with_bases("data", "record") == [built_in(".")["images"], built_in("data")["record"]]
    assert with_bases("data", "no_such_choice") == [""]


def test_help_shows_what_has_to_be_given_first_and_a_choices_own_words() -> None:
    shards = re.findall(r"^  (data\.\w+)=(\S+) +(.*)", help_of("train", ["data=shards"]), re.MULTILINE)
    assert shards[0][:2] == ("data.shards", "???") and len({key for key, *_ in shards}) == len(shards) == 14
    told = {key: words for key, _, words in shards}
    assert told["data.feed"].startswith("shards are read anew") and told["data.alpha"].startswith("transparent")
    assert "data.batch_size=30 " in help_of("train", []) and "data.batch_size=96 " in help_of("train", ["data=record"])
