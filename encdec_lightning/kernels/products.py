"""Products of linear layers by oneDNN, where torch takes them in a slower way.

In fp32 torch takes them from MKL. For AMD's processors MKL has general code, with vectors of 256 bits: on Zen 5, which
computes with 512, oneDNN takes less than half of the time, on Zen 4 a tenth less (experiments/speed). In bf16 torch
takes them from oneDNN, but writes the bias into the memory of the result first, and lets the product add to it: here
oneDNN adds the bias as it writes the result.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from encdec_lightning.kernels import processor
from encdec_lightning.kernels.first_derivative import first_derivative_only
from encdec_lightning.kernels.self_check import self_check

FIRST_FAMILY = 25  # of AMD's processors; of these Zen 4 has vectors of 512 bits, which it takes in two halves
FAMILY_OF_WHOLE_VECTORS = 26  # Zen 5's, which takes them whole


@functools.cache
def onednn_is_faster() -> bool:
    """Whether it is so in fp32: by the processor's maker and family, so that it takes the same products every time."""
    return (
        torch.backends.mkldnn.is_available()
        and _family_of_amd() >= FIRST_FAMILY
        and "avx512f" in processor.instruction_sets()
        and products_are_exact()
    )


def laid_out_is_faster() -> bool:
    """Whether oneDNN is faster in fp32 with a weight that it has laid out once: on Zen 3 too, where it is not else."""
    return (
        torch.backends.mkldnn.is_available()
        and _family_of_amd() >= FIRST_FAMILY
        and "avx2" in processor.instruction_sets()
    )


def _family_of_amd() -> int:
    """The processor's, 0 of other makers."""
    told = processor.told()
    family = told.get("cpu family", "")
    return int(family) if told.get("vendor_id") == "AuthenticAMD" and family.isdecimal() else 0


@functools.cache
def processor_has_bf16() -> bool:
    """Whether oneDNN computes in bf16 here."""
    if not torch.backends.mkldnn.is_available():
        return False
    ask = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return ask is None or bool(ask())  # where nobody can be asked, the check below finds out and says so


@functools.cache
def adds_biases() -> bool:
    """Whether oneDNN is to add the bias of a layer in bf16."""
    return processor_has_bf16() and products_in_bf16_are_exact()


@self_check("the product of oneDNN in fp32", "torch's own linear layers run")
def products_are_exact() -> bool:
    """Whether oneDNN's private operator computes a linear layer and its gradients: small whole numbers, exact."""
    return _are_exact_in(torch.float32)


@self_check("the product of oneDNN in bf16", "torch's own linear layers run")
def products_in_bf16_are_exact() -> bool:
    """The same of bf16."""
    return _are_exact_in(torch.bfloat16)


def _are_exact_in(dtype: torch.dtype) -> bool:
    given, weight, bias = ((torch.arange(count) % 5 - 2).to(dtype) for count in (3 * 8, 6 * 8, 6))
    given, weight = given.view(3, 8), weight.view(6, 8)
    expected = (given[:, None] * weight).sum(-1)
    turned = (given.t()[:, None] * expected.t()).sum(-1)
    return torch.equal(product(given, weight, bias), expected + bias) and torch.equal(
        product(given.t(), expected.t()), turned
    )


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
    """`functional.linear`, (..., K), (M, K), (M,) -> (..., M), by oneDNN where that is faster."""
    if not _suits(input, weight, bias):
        return functional.linear(input, weight, bias)
    made: Tensor = OneDNNLinear.apply(input, weight, bias)  # type: ignore[no-untyped-call]
    return made


def _suits(given: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN takes a product here and reads these tensors right: a bias must be a whole vector."""
    dtype = given.dtype
    return (
        (dtype == torch.float32 or (dtype == torch.bfloat16 and bias is not None))
        and all(
            type(each) in (Tensor, nn.Parameter) and each.device.type == "cpu" and each.dtype == dtype
            for each in (given, weight, *([] if bias is None else [bias]))
        )
        and given.ndim > 1
        and weight.ndim == 2
        and given.shape[-1] == weight.shape[1]
        and given.numel() > 0
        and weight.numel() > 0
        and (bias is None or (bias.shape == weight.shape[:1] and bias.is_contiguous()))
        and not torch.is_autocast_enabled("cpu")
        and (onednn_is_faster() if dtype == torch.float32 else adds_biases())
    )


class OneDNNLinear(torch.autograd.Function):
    """A linear layer by oneDNN, but for the weight's gradient, which torch takes in bf16, and MKL on Zen 4."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(..., K), (M, K), (M,) -> (..., M)."""
        of_given, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(given if of_weight else None, weight if of_given else None)
        ctx.shape = given.shape
        made = product(given.flatten(0, -2), weight, bias).view(*given.shape[:-1], len(weight))
        return made.data  # no view of another tensor, which could not be written to in place

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of those that ask for one."""
        given, weight = ctx.saved_tensors
        of_given, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        whole_vectors = _family_of_amd() >= FAMILY_OF_WHOLE_VECTORS
        of_weights = product if gradient.dtype == torch.float32 and whole_vectors else _by_torch
        return (
            product(rows, weight.t()).view(ctx.shape) if of_given else None,
            of_weights(rows.t(), given.flatten(0, -2).t()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def addmm(*given: Any, **options: Any) -> Tensor:
    """`torch.addmm`, by oneDNN where it is a linear layer, as in GPT-2's `Conv1D`, and that is faster."""
    if len(given) == 3 and not options:
        bias, rows, weight = given
        if rows.ndim == weight.ndim == 2 and _suits(rows, weight.t(), bias):
            made: Tensor = OneDNNLinear.apply(rows, weight.t(), bias)  # type: ignore[no-untyped-call]
            return made
    return torch.addmm(*given, **options)


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """OneDNN's of matrices in fp32 or bf16 on CPU, (N, K), (M, K), (M,) -> (N, M), in any layout, without gradients."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return made


def _by_torch(left: Tensor, right: Tensor) -> Tensor:
    """The same by torch, without a bias."""
    return left @ right.t()
