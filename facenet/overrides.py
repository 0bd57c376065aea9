"""Overrides as Hydra's own grammar reads them: the key without how it is applied (+ ++ ~), and the value. Nothing else takes their text apart."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep
from hydra.errors import HydraException
from omegaconf import OmegaConf


def as_given(overrides: Any) -> list[str]:
    """Hydra's list of them as they were written: to go through it resolves what they refer to, which a job alone may have, or a secret variable."""
    return [str(override) for override in cast("list[Any]", OmegaConf.to_container(overrides))]


def given(overrides: Iterable[str]) -> dict[str, str]:
    """Key -> its value, spelled. Of one key that is given twice, with + and without, the last stands, as in the config."""
    return dict(key_and_value(override) for override in overrides)


def key_of(override: str) -> str:
    """`optimizer.eps` of `++optimizer.eps=1e-8`, `loss@extra` of `+loss@extra=ce`."""
    return key_and_value(override)[0]


@functools.lru_cache(maxsize=4096)  # the jobs of a sweep repeat them, and the parser takes milliseconds
def key_and_value(override: str) -> tuple[str, str]:
    try:
        read = OverridesParser.create().parse_override(override)
        return key_in(read), spelled(read.value())
    except (HydraException, TypeError):  # no override, or one whose value stands for several
        key, _, text = override.partition("=")
        return key.lstrip("+~"), text


def key_in(override: Override) -> str:
    return override.key_or_group if override.package is None else f"{override.key_or_group}@{override.package}"


def spelled(value: Any) -> str:
    """A text that no other value has: as JSON, and words as they are where they could be nothing else. 1 and 1.0 are two: for a crop they mean one
    pixel and the whole. Raises TypeError for a sweep."""
    if isinstance(value, Sweep):
        raise TypeError("several values")
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return value
    return json.dumps(plain(value), ensure_ascii=False, sort_keys=True)


def plain(value: Any) -> Any:
    """With keys of dicts that are text: in JSON the number 1 and the word "1" are one key."""
    if isinstance(value, dict):
        return {spelled(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value
