"""Mixed precision by one cast of each weight a step, instead of autocast's casts at every operation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from encdec_lightning.kernels.gradients import SMALLEST, Cast, GradientMemory, Lookup, is_plain_table
from encdec_lightning.kernels.stand_in import stand_in


def call_in(
    dtype: torch.dtype,
    model: nn.Module,
    memory: GradientMemory,
    forwards: Mapping[nn.Module, Callable[..., Any]],
    uncast: nn.Module | None = None,
    **inputs: Any,
) -> Any:
    """`model(**inputs)` with the weights cast to `dtype`, and so the activations; gradients reach the weights uncast.

    Embeddings are looked up before they are cast: a table is large, few of its rows are read, and the gradients of a
    token that occurs often are summed in the table's own precision. The module `uncast` keeps its weights as they are.
    Large gradients are written where `memory` says. `forwards` are those of `stand_in`.
    """
    casts: dict[int, Tensor] = {}
    weights: dict[nn.Module, dict[str, Tensor]] = {}
    for module in model.modules():
        if module is uncast or isinstance(module, nn.Embedding):
            continue
        own = weights[module] = {}
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) not in casts:
                casts[id(weight)] = _cast(weight, dtype, memory)
            own[name] = casts[id(weight)]
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    rows: dict[nn.Module, Callable[..., Any]] = {
        table: _rows_in(dtype, type(table), memory if is_plain_table(table) else None) for table in tables
    }
    return stand_in(model, weights, {**rows, **forwards})(**inputs)


def call_as_it_is(
    model: nn.Module, memory: GradientMemory, forwards: Mapping[nn.Module, Callable[..., Any]], **inputs: Any
) -> Any:
    """`model(**inputs)`, the gradients of its large tables written where `memory` says; forwards as in `stand_in`."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and is_plain_table(module)]
    rows: dict[nn.Module, Callable[..., Any]] = {
        table: _rows_in(table.weight.dtype, nn.Embedding, memory) for table in tables
    }
    return stand_in(model, {}, {**rows, **forwards})(**inputs)


def _cast(weight: nn.Parameter, dtype: torch.dtype, memory: GradientMemory) -> Tensor:
    if weight.numel() < SMALLEST or not weight.requires_grad or weight.dtype == dtype:
        return weight.to(dtype)
    made: Tensor = Cast.apply(weight, dtype, memory)  # type: ignore[no-untyped-call]
    return made


def _rows_in(dtype: torch.dtype, kind: type[nn.Embedding], memory: GradientMemory | None) -> Callable[..., Tensor]:
    """The forward of a kind of table, its rows cast; with a memory, that of a plain table."""

    def forward(table: nn.Embedding, *given: Any, **more: Any) -> Tensor:
        if memory is None:
            return kind.forward(table, *given, **more).to(dtype)
        rows: Tensor = Lookup.apply(table.weight, *given, *more.values(), table.padding_idx, memory)  # type: ignore[no-untyped-call]
        return rows.to(dtype)

    return forward


def copy_in(dtype: torch.dtype | None, model: nn.Module, hooks: bool = False) -> Any:
    """A copy of `model` whose weights are cast to `dtype`, once, for many calls; without one they are the model's own.

    What is one parameter stays one. Buffers are the model's own. Hooks that others put on the model, profilers among
    them, stay there; with `hooks` the copy runs them too.
    """
    kept: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for module in model.modules():
        kept |= {
            id(value): type(value)(value if hooks else ())
            for name, value in vars(module).items()
            if name.endswith("_hooks")
        }
    for parameter in model.parameters():
        value = parameter.detach()
        kept[id(parameter)] = nn.Parameter(
            value.to(dtype) if dtype is not None and value.is_floating_point() else value, requires_grad=False
        )
    return copy.deepcopy(model, kept)
