"""The state of a run as its file has it: whole, however many processes the rows of a head are spread over."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from facenet.devices.accelerator import host_copy
from facenet.distributed import collectives
from facenet.distributed.spread_rows import parameters_of, rows_of_whole, tables_of
from facenet.errors import UserError


def module_state(module: nn.Module, *, everywhere: bool = False) -> dict[str, Tensor]:
    """The module's state in host memory, as one process would have it. Rows that are spread are in rank 0 alone unless `everywhere`. All processes
    call it together, as those below."""
    spread = spread_in(module)
    return {
        name: collectives.whole(value, spread[name], everywhere=everywhere) if name in spread else host_copy(value)
        for name, value in module.state_dict().items()
    }


def load_module_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads a state; of whole rows this process takes its own. Raises UserError for another number of identities."""
    spread = spread_in(module)
    for name, num_rows in spread.items():
        if name in state and len(state[name]) != num_rows:
            raise UserError(f"checkpoint: {name} is of {len(state[name])} identities, and these data have {num_rows}")
    module.load_state_dict(
        {name: value[collectives.share(spread[name])] if name in spread else value for name, value in state.items()}
    )


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state in host memory; rows that are spread are in rank 0 only."""
    state = optimizer.state_dict()
    entries, wholes = dict(state["state"]), {}
    for index, parameter in enumerate(parameters_of(optimizer)):
        num_rows = rows_of_whole(parameter)
        if num_rows is not None and index in entries:
            entry = entries.pop(index)
            tables = tables_of(entry, parameter.shape)
            rest = host_copy({name: value for name, value in entry.items() if name not in tables})
            wholes[index] = {**rest, **{name: collectives.whole(table, num_rows) for name, table in tables.items()}}
    return {**state, "state": {**host_copy(entries), **wholes}}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Takes up what `optimizer_state` gave to rank 0, with the options that this optimizer was made with: torch would put back those of the
    saved one, its kernels (`fused`) too, which another device may lack."""
    groups = [
        {**saved, **options(optimizer, own)}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    entries = dict(state["state"])
    for index, parameter in enumerate(parameters_of(optimizer)):
        num_rows = rows_of_whole(parameter)
        if num_rows is not None and index in entries:
            tables = tables_of(entries[index], torch.Size([num_rows, *parameter.shape[1:]]))
            own = {name: table[collectives.share(num_rows)].clone() for name, table in tables.items()}
            entries[index] = {**entries[index], **own}
    optimizer.load_state_dict({**state, "param_groups": groups, "state": entries})


def options(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    """Returns the options of a group as before its first step: what was chosen, not what an optimizer counts in it. The lr is the schedule's."""
    named = {*inspect.signature(type(optimizer)).parameters, *optimizer.defaults, "initial_lr"} - {"params", "lr"}
    return {name: value for name, value in group.items() if name in named}


def misfit(module: nn.Module, state: Mapping[str, Any]) -> str | None:
    """The first tensor that either lacks, or that has another shape in the other; None where all of the state is this module's."""
    own, spread = module.state_dict(), spread_in(module)
    for name in dict.fromkeys([*own, *state]):
        if name not in state:
            return f"{name} is new"
        if name not in own:
            return f"{name} is not in it"
        shape = [spread.get(name, len(own[name])), *own[name].shape[1:]] if own[name].ndim else []
        found = list(getattr(state[name], "shape", [None]))
        if found != shape:
            return f"{name} is {shape}, was {found}"
    return None


def spread_in(module: nn.Module) -> dict[str, int]:
    """Names of the parameters whose rows are spread, with the number of rows of the whole."""
    found = ((name, rows_of_whole(parameter)) for name, parameter in module.named_parameters())
    return {name: num_rows for name, num_rows in found if num_rows is not None}
