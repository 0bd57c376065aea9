"""What may lie in a pickle of weights: plain values and tensors, within bounds."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import torch

MOST_STEPS = 1 << 25  # ten million identities take 20 million
MOST_CONTAINERS = 1 << 20  # a tensor takes about 8, for a moment; one byte of the file makes one of 60 to 200 bytes
DEEPEST = 100  # of lists in lists; a config has about 10
FEW = 100_000  # values that lists may share without a question
KEYS = (str, int, float, bool, type(None), bytes)
LARGEST_KEY = 2**61 - 1  # Python's hash of an integer is its remainder by this: larger ones can be made to collide
CONTAINERS = {dict, OrderedDict, list, tuple}
LEAVES = {*KEYS, complex, set, Counter, torch.Tensor, torch.nn.Parameter, torch.Size, torch.device, torch.dtype}


class Refused(ValueError):
    """The file is damaged, or holds what weights do not need; one line says what. Nothing of it was run."""


class Budget:
    """What one pickle may still take: containers, parts made again in another form, and bytes of all its tensors when they are copied; in the file a
    tensor may be one number again and again."""

    def __init__(self, size: int, most_bytes: int) -> None:
        self.containers, self.copies, self.bytes = MOST_CONTAINERS, min(size, MOST_STEPS), most_bytes

    def container(self) -> None:
        self.containers -= 1
        if self.containers < 0:
            raise Refused(f"more than {MOST_CONTAINERS} lists and dicts")

    def copied(self, part: Any) -> Any:
        """A part that is about to be made again in another form; a pickle may name the same long one a million times."""
        self.copies -= len(part)
        if self.copies < 0:
            raise Refused("it copies one part again and again")
        return part

    def tensor(self, num_bytes: int) -> None:
        self.bytes -= num_bytes
        if self.bytes < 0:
            raise Refused(
                "its tensors repeat few numbers so often that they would take many times the size of the file"
            )


def checked(content: Any) -> Any:
    """The content, where it is of plain values and tensors, does not hold itself, and is not much larger written out than in the file: lists that
    hold the same lists twice, 40 levels of them, take any walk years."""
    own, written, depths = 0, dict[int, int](), dict[int, int]()
    waiting: list[tuple[Any, list[Any] | None]] = [(content, None)]
    while waiting:
        part, inner = waiting.pop()
        if inner is not None:
            written[id(part)] = len(part) + 1 + sum(written[id(child)] for child in inner)
            depths[id(part)] = 1 + max((depths[id(child)] for child in inner), default=0)
            if depths[id(part)] > DEEPEST:
                raise Refused(f"lists in lists, more than {DEEPEST} deep")
        elif type(part) in CONTAINERS and id(part) not in written:
            inner = inner_of(part)
            own += len(part) + 1
            written[id(part)] = 0
            waiting.append((part, inner))
            waiting += [(child, None) for child in inner]
        elif type(part) in CONTAINERS and written[id(part)] == 0:
            raise Refused("a list or dict that holds itself")
        elif type(part) not in CONTAINERS and type(part) not in LEAVES:
            raise Refused(f"it holds a {type(part).__name__}, which is no plain value")
    if type(content) in CONTAINERS and written[id(content)] > 2 * own + FEW:
        raise Refused(
            f"its lists share lists: {own} values would be {written[id(content)]:,} when they are written out"
        )
    return content


def inner_of(part: Any) -> list[Any]:
    """What is no plain value of a container."""
    return [child for child in (part.values() if isinstance(part, dict) else part) if type(child) not in LEAVES]


def checked_key(key: Any) -> Any:
    """A key whose hash takes no long time and is its own."""
    if type(key) not in KEYS or (type(key) is int and abs(key) >= LARGEST_KEY):
        raise Refused(f"a dict's key that is a {type(key).__name__}" + (" too large" if type(key) is int else ""))
    return key
