"""Mixed precision by one cast of each weight a step, instead of autocast's casts at every operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def call_in(dtype: torch.dtype, model: nn.Module, uncast: nn.Module | None = None, **inputs: Any) -> Any:
    """`model(**inputs)` with the weights cast to `dtype`, and so the activations; gradients reach the weights uncast.

    Embeddings are looked up before they are cast: a table is large, few of its rows are read, and the gradients of a
    token that occurs often are summed in the table's own precision. The module `uncast` keeps its weights as they are.
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    casts: dict[int, Tensor] = {}
    copies: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        if module is uncast or isinstance(module, nn.Embedding):
            continue
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) not in casts:
                casts[id(weight)] = weight.to(dtype)
            copies[f"{path}.{name}"] = casts[id(weight)]
    with _cast_outputs(tables, dtype):
        return functional_call(model, copies, (), inputs, tie_weights=False)


@contextmanager
def _cast_outputs(tables: list[nn.Embedding], dtype: torch.dtype) -> Iterator[None]:
    def cast(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        return output.to(dtype)

    hooks = [table.register_forward_hook(cast) for table in tables]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
