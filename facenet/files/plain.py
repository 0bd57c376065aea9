"""Values as YAML spells them, copied out of files of others before anything looks at them a second time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from facenet.errors import UserError, shown
from facenet.files.reading import decoded

DEEPEST, MOST = 40, 100_000  # levels, values; the config of a run has 6 and about 100
LONGEST = 100_000  # characters of a text
LARGEST = 1_000_000  # bytes of a file
NAMED = 60  # characters of a key that a message shows
SCALARS = (str, int, float, bool, type(None))


def plain(node: Any, path: str) -> Any:
    """A copy of nested values, each of them exactly a dict with text for keys, a list, str, int, float, bool or None: what one walk has seen is
    what a second one finds. Raises UserError that names the place of any other value, also of one derived from these types, and for more levels
    or values than a config can have. `path`: how the messages call the node."""
    return _copied(node, path, DEEPEST, [MOST])


def _copied(node: Any, path: str, levels: int, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0 or levels < 0:
        raise UserError(f"{path[:NAMED]}: more than {MOST:,} values or {DEEPEST} levels, which no config has")
    kind = type(node)
    if kind is dict:
        if any(type(key) is not str for key in node):
            raise UserError(f"{path}: a key that is no text")
        return {key: _copied(value, f"{path}.{shown(key[:NAMED])}", levels - 1, left) for key, value in node.items()}
    if kind is list:
        return [_copied(value, f"{path}.{index}", levels - 1, left) for index, value in enumerate(node)]
    if kind not in SCALARS:
        raise UserError(
            f"{path}: a {kind.__name__} is no value of a config, which has dict, list, str, int, float, bool and null"
        )
    if kind is str and len(node) > LONGEST:
        raise UserError(f"{path}: a text of {len(node):,} characters; at most {LONGEST:,} are read")
    return node


def yaml_text(path: Path) -> str:
    """The text of a file of somebody else's that is YAML of a config's size. Raises UserError for more values or levels than a config has, counted
    as its aliases repeat them: OmegaConf copies these, and fifteen lines make millions. OSError where it cannot be read."""
    if not os.path.isfile(path):  # a pipe would be waited for
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    text = decoded(content, "replace")
    if len(content) > LARGEST:
        raise UserError(f"{path}: more than {LARGEST:,} bytes, which no config has")
    try:
        count_values(text, path)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: no YAML ({' '.join(str(error).split())})") from None
    return text


def count_values(text: str, path: Path) -> None:
    sizes: dict[str, int] = {}
    unfinished: list[tuple[str | None, int]] = []  # name and size of each collection that is still open
    size = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            unfinished.append((event.anchor, size))
            size = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = unfinished.pop()
            sizes[anchor or ""] = size
            size += before
        elif isinstance(event, yaml.AliasEvent):
            size += sizes.get(event.anchor or "", MOST)  # unknown where it is inside of itself
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor or ""] = 1
            size += 1
        if size > MOST or len(unfinished) > DEEPEST:
            raise UserError(f"{path}: more than {MOST:,} values or {DEEPEST} levels, which no config has")
