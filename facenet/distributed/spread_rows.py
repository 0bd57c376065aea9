"""Parameters whose rows are spread over the processes of a run, and those of which a step takes a few rows.

Letters: I rows of the whole, n rows drawn for a step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Drawn(NamedTuple):
    """`places` (n,) in the parameter, each once; `rows` (n, ...): a leaf, which gets the gradient."""

    places: Tensor
    rows: Tensor


def mark(parameter: nn.Parameter, num_rows: int) -> nn.Parameter:
    """Marks a parameter as this process's share of `num_rows` rows: its gradient is exact as it is, neither averaged over processes nor sent."""
    parameter.num_rows = num_rows  # type: ignore[attr-defined]
    return parameter


def rows_of_whole(parameter: Tensor) -> int | None:
    """I of a parameter that is spread; None for one that every process has whole."""
    return getattr(parameter, "num_rows", None)


def share(num_rows: int, rank: int, world_size: int) -> slice:
    """Returns the rows of process `rank`. Shares are in order, and their sizes differ by one at most."""
    size, more = divmod(num_rows, world_size)
    start = rank * size + min(rank, more)
    return slice(start, start + size + (rank < more))


def draw(parameter: nn.Parameter, places: Tensor) -> Tensor:
    """The rows at `places`, to compute with; the next optimizer step is theirs alone."""
    rows = parameter.detach().index_select(0, places).requires_grad_()
    parameter.drawn = Drawn(places, rows)  # type: ignore[attr-defined]
    return rows


def gradient_of(parameter: nn.Parameter) -> Tensor | None:
    """Returns the gradient of the rows that were drawn, where some were."""
    drawn: Drawn | None = getattr(parameter, "drawn", None)
    return parameter.grad if drawn is None else drawn.rows.grad


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@contextlib.contextmanager
def only_drawn(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside, a parameter of which rows were drawn is these rows, with their gradient and their part of the optimizer's state. So rows that
    were not drawn keep value and state, and cost nothing; a state begins at 0."""
    taken = [take(parameter, optimizer.state.get(parameter, {})) for parameter in parameters_of(optimizer)]
    try:
        yield
    finally:
        for parameter, tables in zip(parameters_of(optimizer), taken, strict=True):
            if tables is not None:
                put_back(parameter, optimizer.state.get(parameter, {}), *tables)


def take(parameter: nn.Parameter, state: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]] | None:
    """The whole parameter and its tables of state, in whose places are now the rows drawn; None where none were."""
    drawn: Drawn | None = getattr(parameter, "drawn", None)
    if drawn is None:
        return None
    whole, tables = parameter.data, tables_of(state, parameter.shape)
    parameter.data = drawn.rows.detach()
    parameter.grad = drawn.rows.grad
    state.update({name: table.index_select(0, drawn.places) for name, table in tables.items()})
    return whole, tables


def put_back(parameter: nn.Parameter, state: dict[str, Any], whole: Tensor, tables: dict[str, Tensor]) -> None:
    places = parameter.drawn.places  # type: ignore[attr-defined]
    for name, rows in tables_of(state, parameter.shape).items():
        state[name] = (tables[name] if name in tables else torch.zeros_like(whole)).index_copy_(0, places, rows)
    whole.index_copy_(0, places, parameter.data)
    parameter.grad = parameter.drawn = None  # type: ignore[attr-defined]
    parameter.data = whole


def tables_of(state: Mapping[str, Any], shape: torch.Size) -> dict[str, Tensor]:
    """What an optimizer keeps for each number of a parameter of this shape; its counters are not among it."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor) and value.shape == shape}
