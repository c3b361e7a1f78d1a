"""Linear layers on CPU whose weights are laid out once as oneDNN reads them, instead of at every call.

In bf16; and in fp32 on the processors where that is faster than torch's own products (`products`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from encdec_lightning.kernels.products import laid_out_is_faster, processor_has_bf16
from encdec_lightning.kernels.self_check import self_check

TYPICAL = 64  # vectors of an input, for which a layout is chosen; it serves any number


def runs_in_onednn(weight: Tensor) -> bool:
    """Whether this weight can be laid out so here."""
    return (
        weight.device.type == "cpu"
        and type(weight) in (Tensor, nn.Parameter)
        and (
            (weight.dtype == torch.bfloat16 and processor_has_bf16() and products_are_exact())
            or (weight.dtype == torch.float32 and laid_out_is_faster() and products_in_fp32_are_exact())
        )
    )


@self_check("the product of laid-out weights", "torch's own linear layers run")
def products_are_exact() -> bool:
    """Whether oneDNN's private operators compute a linear layer: small whole numbers, exact in bf16."""
    return _is_exact_in(torch.bfloat16)


@self_check("the product of laid-out weights in fp32", "torch's own linear layers run")
def products_in_fp32_are_exact() -> bool:
    """The same of fp32."""
    return _is_exact_in(torch.float32)


def _is_exact_in(dtype: torch.dtype) -> bool:
    weight, given, bias = ((torch.arange(count) % 5 - 2).to(dtype) for count in (6 * 8, 3 * 8, 6))
    weight, given = weight.view(6, 8), given.view(3, 8)
    expected = (given.float()[:, None] * weight.float()).sum(-1)
    with_bias, without = onednn_linear(weight, bias)(given), onednn_linear(weight, None)(given)
    return torch.equal(without.float(), expected) and torch.equal(with_bias.float(), expected + bias.float())


def onednn_linear(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """`functional.linear` with this weight (O, I), a copy of it as it is now, for inputs (..., I) without gradients."""
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), TYPICAL)
    offset = None if bias is None else bias.detach().clone()

    def linear(given: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(given, laid_out, offset, "none", [], "")
        return product

    return linear


def use_onednn(model: nn.Module, leave: nn.Module | None = None) -> None:
    """Let the linear layers of `model` work so, for good: later changes of their weights are not seen.

    One whose `forward` somebody has replaced keeps that.
    """
    made: dict[tuple[int, int], Callable[[Tensor], Tensor]] = {}  # layers with one weight share its layout
    for module in model.modules():
        found = None if module is leave or "forward" in vars(module) else weight_and_bias(module)
        if found is not None and runs_in_onednn(found[0]):
            key = id(module.weight), id(module.bias)
            made[key] = made.get(key) or onednn_linear(*found)
            module.forward = partial(_forward, weakref.ref(module), found[0].dtype, made[key])  # no cycle


def weight_and_bias(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """A linear layer's weight (O, I) and bias (O,) or none; none for other modules. GPT-2's `Conv1D` is one, turned."""
    if type(module) not in (nn.Linear, Conv1D):
        return None
    own = module._parameters
    weight, bias = own.get("weight"), own.get("bias")
    if weight is None:  # as of a layer that is pruned, or whose weight is made anew at each call
        return None
    return (weight if type(module) is nn.Linear else weight.detach().t()), bias


def _forward(
    of: weakref.ref[nn.Module], dtype: torch.dtype, linear: Callable[[Tensor], Tensor], given: Tensor
) -> Tensor:
    exact = dtype == torch.float32 and torch.is_autocast_enabled("cpu")  # which another one is asked for
    if given.dtype != dtype or exact or given.numel() == 0:
        module = of()
        assert module is not None
        return type(module).forward(module, given)  # type: ignore[no-any-return]
    return linear(given)
