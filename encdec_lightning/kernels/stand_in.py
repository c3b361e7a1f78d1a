"""A model's stand-in for one call: the same modules, some with other weights or another `forward`.

The model itself is not touched, so that nobody else who runs it meanwhile, another thread among them, sees any of it,
and nothing has to be put back, whatever interrupts the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from encdec_lightning.kernels.self_check import self_check

SHIPPED = ("torch.nn.", "transformers.", "encdec_lightning.")  # whose modules run as their authors wrote them
FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
HOOKS = (*FORWARD_HOOKS, "_backward_hooks", "_backward_pre_hooks")
WATCHERS = ("lightning.", "pytorch_lightning.", "wandb.", "transformers.")
"""Packages whose forward hooks only watch: profilers, loggers, and what collects the states of layers."""


def stand_in(
    model: nn.Module,
    weights: Mapping[nn.Module, Mapping[str, Tensor]],
    forwards: Mapping[nn.Module, Callable[..., Any]],
) -> Any:
    """`model` with these weights of its modules, by their own names there, and these forwards, called as methods.

    Modules are new, but share all that is not replaced: buffers, hooks, config. For a model that `runs_as_shipped`.
    """
    made: dict[int, nn.Module] = {}

    def of(module: nn.Module) -> nn.Module:
        if id(module) not in made:
            twin: nn.Module = object.__new__(type(module))
            made[id(module)] = twin
            vars(twin).update(vars(module))
            vars(twin)["_parameters"] = {**module._parameters, **weights.get(module, {})}
            vars(twin)["_modules"] = {name: child and of(child) for name, child in module._modules.items()}
            if module in forwards:
                vars(twin)["forward"] = partial(forwards[module], twin)
        return made[id(module)]

    return of(model)


def runs_as_shipped(model: nn.Module) -> bool:
    """Whether each module runs its class's own `forward`, a known one, and nothing before, after or around it.

    Wrappers may run it later again (checkpointing), and hooks expect what transformers would give them.
    """
    if has_any_global_hook() or not modules_can_be_replaced():
        return False
    kinds = set()
    for module in model.modules():
        own = vars(module)
        if "forward" in own or own.get("_compiled_call_impl") is not None or any(own.get(each) for each in HOOKS):
            return False
        kinds.add(type(module))
    return all(_is_shipped(kind.__call__) and _is_shipped(kind.forward) for kind in kinds)


def changed_by_others(model: nn.Module) -> str | None:
    """What somebody has put on a model that may change what it computes without gradients; none: nothing.

    Nobody can tell from a hook whether it changes what it sees. Those of `WATCHERS` are known not to.
    """
    for name, module in model.named_modules():
        own, place = vars(module), f"its module {name}" if name else "it"
        if "forward" in own:
            return f"somebody has replaced the forward of {place}"
        if not all(_only_watches(hook) for each in FORWARD_HOOKS for hook in own.get(each, {}).values()):
            return f"somebody has put a hook on {place}"
    return None


def _only_watches(hook: Any) -> bool:
    """Whether a hook's code is of such a package."""
    while isinstance(hook, partial):
        hook = hook.func
    function = hook if hasattr(hook, "__globals__") else type(hook).__call__
    return str(getattr(function, "__globals__", {}).get("__name__", "")).startswith(WATCHERS)


@self_check("a model's stand-in", "the model runs as transformers has it")
def modules_can_be_replaced() -> bool:
    """Whether modules keep their parameters, modules and hooks where this file looks for them."""
    own = vars(nn.LayerNorm(2))
    if not hasattr(torch.nn.modules.module, "_has_any_global_hook") or not all(each in own for each in HOOKS):
        return False
    model = nn.Sequential(nn.LayerNorm(2), nn.Identity())
    given, twice = torch.tensor([[1.0, -1.0]]), 2 * torch.ones(2)
    before = model(given)
    twin = stand_in(model, {model[0]: {"weight": twice}}, {model[1]: lambda module, values: -values})
    return torch.equal(twin(given), -2 * before) and torch.equal(model(given), before)


def has_any_global_hook() -> bool:
    """Whether hooks run for all modules of the process."""
    asked = getattr(torch.nn.modules.module, "_has_any_global_hook", None)
    return asked is not None and bool(asked())


def _is_shipped(forward: Any) -> bool:
    """Where its code is from, also where it took the name of what it wraps; `torch.no_grad()` may be around it."""
    while str(getattr(forward, "__globals__", {}).get("__name__", "")) == "torch.utils._contextlib":
        forward = getattr(forward, "__wrapped__", None)
    return str(getattr(forward, "__globals__", {}).get("__name__", "")).startswith(SHIPPED)
