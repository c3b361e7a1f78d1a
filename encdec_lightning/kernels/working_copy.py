"""Mixed precision by one cast of each weight a step, instead of autocast's casts at every operation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from encdec_lightning.kernels.gradients import SMALLEST, Cast, GradientMemory, Lookup, is_plain_table


def call_in(
    dtype: torch.dtype, model: nn.Module, memory: GradientMemory, uncast: nn.Module | None = None, **inputs: Any
) -> Any:
    """`model(**inputs)` with the weights cast to `dtype`, and so the activations; gradients reach the weights uncast.

    Embeddings are looked up before they are cast: a table is large, few of its rows are read, and the gradients of a
    token that occurs often are summed in the table's own precision. The module `uncast` keeps its weights as they are.
    Large gradients are written where `memory` says.
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    casts: dict[int, Tensor] = {}
    copies: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        if module is uncast or isinstance(module, nn.Embedding):
            continue
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) not in casts:
                casts[id(weight)] = _cast(weight, dtype, memory)
            copies[f"{path}.{name}"] = casts[id(weight)]
    with _cast_outputs(tables, dtype, memory):
        return functional_call(model, copies, (), inputs, tie_weights=False)


def _cast(weight: nn.Parameter, dtype: torch.dtype, memory: GradientMemory) -> Tensor:
    if weight.numel() < SMALLEST or not weight.requires_grad or weight.dtype == dtype:
        return weight.to(dtype)
    made: Tensor = Cast.apply(weight, dtype, memory)  # type: ignore[no-untyped-call]
    return made


@contextmanager
def _cast_outputs(tables: list[nn.Embedding], dtype: torch.dtype, memory: GradientMemory) -> Iterator[None]:
    def cast(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        return output.to(dtype)

    def rows_of(table: nn.Embedding) -> Any:
        def forward(ids: Tensor) -> Tensor:
            rows: Tensor = Lookup.apply(table.weight, ids, table.padding_idx, memory)  # type: ignore[no-untyped-call]
            return rows

        return forward

    plain = [table for table in tables if is_plain_table(table)]
    hooks = [table.register_forward_hook(cast) for table in tables]
    try:
        for table in plain:
            table.forward = rows_of(table)  # type: ignore[method-assign]
        yield
    finally:
        for table in plain:
            del table.forward
        for hook in hooks:
            hook.remove()


def copy_in(dtype: torch.dtype | None, model: nn.Module) -> Any:
    """A copy of `model` whose weights are cast to `dtype`, once, for many calls; without one they are the model's own.

    What is one parameter stays one. Buffers are the model's own. Hooks that others put on the model, profilers among
    them, stay there.
    """
    kept: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for module in model.modules():
        kept |= {id(value): type(value)() for name, value in vars(module).items() if name.endswith("_hooks")}
    for parameter in model.parameters():
        value = parameter.detach()
        kept[id(parameter)] = nn.Parameter(
            value.to(dtype) if dtype is not None and value.is_floating_point() else value, requires_grad=False
        )
    return copy.deepcopy(model, kept)
