"""LoRA (Hu et al., 2021): beside a linear layer's weight, which stays, two narrow matrices learn; merged, they are one.

A layer is adapted by changing its class, so that its weight, and all else of the model, keeps its name: what two sides
share stays shared, and a plain model's values fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from encdec_lightning.composition.architectures import architecture_of
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.options import Role
from encdec_lightning.kernels.working_copy import copy_in

FACTORS = ("lora_A", "lora_B")
"""The parameters that an adapted layer has beside its own: (R, I) and (O, R)."""
TIES = ("shared", "all_tied_weights_keys")
"""Where a composed model says which of its names are one parameter."""
Model = TypeVar("Model", bound=nn.Module)


class Adapted:
    """What an adapted layer's class adds to its own."""

    _adapts: type[nn.Module]
    """Its own class."""

    def forward(self: Any, states: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        narrow = functional.linear(functional.dropout(states, self.lora_dropout, self.training), self.lora_A)
        added: Tensor = super().forward(states) + functional.linear(narrow * self.lora_scale, self.lora_B)  # type: ignore[misc]
        return added


def attention_layers(model: ComposedModel, role: Role) -> list[str]:
    """Names of the linear layers in a side's attention whose weight starts as a checkpoint has it.

    Cross-attention's are among them where a checkpoint has it. `model` may be on the meta device.
    """
    side, fresh = model.sides[role], set(model.config.fresh_parameters)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    unused = architecture_of(side.config).unused
    found: dict[str, None] = {}
    for path, module in side.named_modules():
        if "Attention" not in type(module).__name__:
            continue
        for inner, layer in module.named_modules(prefix=path):
            used = not any(part in f"{inner}." for part in unused)
            if isinstance(layer, nn.Linear | Conv1D) and used and names[id(layer.weight)] not in fresh:
                found[f"{role}.{inner}"] = None
    return list(found)


def shared_with_others(model: ComposedModel, layers: Iterable[str]) -> list[str]:
    """Which of some layers have a weight that is another layer's too, which is not among them."""
    weights = {f"{name}.weight" for name in layers}
    owners: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(name)
    return sorted(name for names in owners.values() if names & weights and names - weights for name in names & weights)


def adapt(model: ComposedModel, layers: Iterable[str], rank: int, scale: float, dropout: float) -> None:
    """Give layers factors of a rank, whose product is multiplied with `scale`; it is 0 at first.

    `dropout` is the probability for what the factors read. Layers with one weight have one pair of factors.
    """
    made: dict[int, tuple[str, nn.Module]] = {}
    for name in layers:
        layer: Any = model.get_submodule(name)
        weight = layer.weight
        outer, inner = weight.shape[::-1] if isinstance(layer, Conv1D) else weight.shape
        _change(layer, scale, dropout)
        if id(weight) in made:
            first, other = made[id(weight)]
            for factor in FACTORS:
                setattr(layer, factor, getattr(other, factor))
                for ties in (getattr(model, each) for each in TIES):
                    ties[f"{name}.{factor}"] = f"{first}.{factor}"
            continue
        made[id(weight)] = name, layer
        layer.lora_A = nn.Parameter(weight.new_empty(rank, inner))
        layer.lora_B = nn.Parameter(weight.new_zeros(outer, rank))
        nn.init.kaiming_uniform_(layer.lora_A, a=math.sqrt(5))


def adapt_alike(model: nn.Module, other: nn.Module) -> None:
    """Adapt the layers that are adapted in another model of these modules; the factors are still to be put there."""
    for name, layer in _adapted(other):
        _change(model.get_submodule(name), layer.lora_scale, layer.lora_dropout)


def merged(model: Model) -> Model:
    """A copy without factors, whose weights are what weight and factors make together; a plain model is itself.

    It has no gradients, and what needs no merging is the model's own. What is one weight is one.
    """
    if not any(_adapted(model)):
        return model
    copy: Any = copy_in(None, model, hooks=True)
    weights: dict[nn.Parameter, nn.Parameter] = {}
    for _, layer in list(_adapted(copy)):
        if layer.weight not in weights:
            weights[layer.weight] = nn.Parameter(_merged_weight(layer), requires_grad=False)
        layer.weight = weights[layer.weight]
        for name in (*FACTORS, "lora_scale", "lora_dropout"):
            delattr(layer, name)
        layer.__class__ = layer._adapts
    for name in TIES:
        kept = {target: source for target, source in getattr(copy, name, {}).items() if not is_factor(target)}
        setattr(copy, name, kept)
    plain: Model = copy
    return plain


def is_factor(name: str) -> bool:
    """Whether a parameter of this name is one of LoRA's."""
    return name.rpartition(".")[2] in FACTORS


def factors(model: nn.Module) -> list[str]:
    """Names of LoRA's parameters, each once."""
    return [name for name, _ in model.named_parameters() if is_factor(name)]


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Adapted))


@torch.no_grad()
def _merged_weight(layer: Any) -> Tensor:
    """The weight as the layer has it, (O, I) or (I, O), computed in fp32 or better."""
    weight = layer.weight
    first, second = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (layer.lora_A, layer.lora_B))
    added = (second @ first) * layer.lora_scale
    found: Tensor = (weight + (added.t() if isinstance(layer, Conv1D) else added)).to(weight.dtype)
    return found


def _change(layer: Any, scale: float, dropout: float) -> None:
    kind: Any = type(layer)
    layer.__class__ = _class(kind)
    layer.lora_scale, layer.lora_dropout = scale, dropout


@cache
def _class(kind: Any) -> Any:
    """A class of layers and what LoRA adds to it; it keeps its name."""
    return type(kind.__name__, (Adapted, kind), {"__module__": __name__, "_adapts": kind})
