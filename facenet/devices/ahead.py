"""Copies to a device that go on beside its work: each item's while the one before it is in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


def sent_ahead(
    items: Iterator[Item], moved: Callable[[Item, Callable[[Tensor], Tensor]], Item], device: torch.device, streams: Any
) -> Iterator[Item]:
    """The items on the device. `moved(item, to)` applies `to` to each tensor; `streams` is the device's module, which has them."""
    side, tensors = streams.Stream(device), list[Tensor]()

    def to(tensor: Tensor) -> Tensor:
        if tensor.device == device:
            return tensor
        on_device = (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)
        tensors.append(on_device)
        return on_device

    def send(item: Item) -> tuple[Item, list[Tensor]]:
        tensors.clear()
        with streams.stream(side):
            return moved(item, to), list(tensors)

    def hand_over(sent: tuple[Item, list[Tensor]]) -> Item:
        """For the stream that computes: it waits for the copy, and the memory for its use."""
        current = streams.current_stream(device)
        current.wait_stream(side)
        for tensor in sent[1]:
            tensor.record_stream(current)
        return sent[0]

    waiting: tuple[Item, list[Tensor]] | None = None
    for item in items:
        ready, waiting = waiting, send(item)
        if ready is not None:
            yield hand_over(ready)
    if waiting is not None:
        yield hand_over(waiting)
