"""Linear layers in int8 on CPU: a weight quantized once per output, an input at each call per vector.

Both are symmetric, inputs with 255 levels, weights with 255 or 127 (`weight_levels`). Sums are exact in 32 bits, and
scaled in fp32. Each vector is quantized by itself, so that a text does not depend on those that are written beside it.
"""

from __future__ import annotations

import functools
import weakref
from functools import partial

import torch
from torch import Tensor, nn

from encdec_lightning.kernels.onednn_linear import weight_and_bias
from encdec_lightning.kernels.self_check import self_check

LEVELS, ZERO = 127, 128  # as many above zero as below; what is zero in a byte
FEWER_LEVELS = 63  # of a weight: then two products of bytes, of 255 and 63 at most, stay below 2 ** 15
ROUNDS = 1.5 * 2**23 + ZERO  # added to a small number in fp32: the sum's last byte is the number rounded, and ZERO
AT_ONCE = 1024  # vectors of an input, so that what is between its quantization and the result stays in the cache


def runs_in_int8(weight: Tensor) -> bool:
    """Whether a layer with this weight can run so here."""
    return weight.device.type == "cpu" and weight.is_floating_point() and type(weight) in (Tensor, nn.Parameter)


@self_check("the product of int8 weights", "generation.quantize=int8 is refused")
def products_are_exact() -> bool:
    """Whether oneDNN's private operators are here, and give exact sums for some number of levels of the weights."""
    return weight_levels() > 0


@functools.cache
def weight_levels() -> int:
    """The most levels above zero of a weight with which sums are exact here; 0: they are with none.

    Processors before VNNI, which have AVX2 or AVX-512 without it, add the products of two bytes in 16 bits, and cut
    what is larger: with 127 levels a result may be wrong by a sixth of the largest one, without an error.
    """
    return next((levels for levels in (LEVELS, FEWER_LEVELS) if _are_exact_with(levels)), 0)


def _are_exact_with(levels: int) -> bool:
    given = torch.tensor([[127.0, 127.0, 127.0, 127.0], [-127.0, 5.0, -3.0, 0.0], [0.0] * 4])
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, -1.0, -1.0], [1.0, -1.0, -1.0, 1.0]]) * levels
    bias = torch.tensor([1.0, -2.0, 3.0])
    expected = (given[:, None] * weight).sum(-1)
    quantizer = Quantizer()
    found, plain = (Int8Linear(weight, added, quantizer, levels)(given) for added in (bias, None))
    return torch.equal(found, expected + bias) and torch.equal(plain, expected)


class Quantizer:
    """Vectors in, bytes and scales out; layers that are given the same tensor one after another share the work."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, int, list[tuple[Tensor, Tensor]]] | None = None

    def __call__(self, given: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of vectors (R, I), by `AT_ONCE` of them: uint8 (r, I), 128 at zero, and fp32 scales (r, 1)."""
        last = self._last
        if last is not None and last[0] is given and last[1] == given._version:
            return last[2]
        vectors = given.reshape(-1, given.shape[-1])
        made = [quantized(part) for part in vectors.split(AT_ONCE)]
        if not given.is_inference():  # whose changes are not counted
            self._last = given, given._version, made
        return made


def quantized(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Of vectors (R, I): uint8 (R, I), of which 128 means zero, and the value of a level in fp32, (R, 1)."""
    vectors = vectors.float()
    largest = torch.maximum(vectors.amax(1, keepdim=True), vectors.amin(1, keepdim=True).neg_())
    scale = largest.div_(LEVELS).clamp_(min=torch.finfo(torch.float32).tiny)
    return (vectors / scale).add_(ROUNDS).view(torch.int32).to(torch.uint8), scale


class Int8Linear:
    """`functional.linear` with a weight (O, I), quantized as it was when this was made, without gradients."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, quantizer: Quantizer, most_levels: int | None = None
    ) -> None:
        values = weight.detach().float()
        self._scale = (
            values.abs().amax(1).div_(most_levels or weight_levels()).clamp_(min=torch.finfo(torch.float32).tiny)
        )
        levels = (values / self._scale[:, None]).round_().to(torch.int8).contiguous()
        self._packed = torch.ops.onednn.qlinear_prepack(levels, [AT_ONCE, weight.shape[1]])
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = None if bias is None else bias.detach().float().clone()
        self._quantizer = quantizer

    def __call__(self, given: Tensor, into: Tensor | None = None) -> Tensor:
        """Of vectors (..., I), in their dtype; or in fp32 written into (R, O), where there is such a tensor."""
        vectors = self._quantizer(given)
        if len(vectors) == 1:
            whole = self._product(*vectors[0], into)
        else:
            whole = given.new_empty(given.numel() // given.shape[-1], len(self._scale)) if into is None else into
            first = 0
            for levels, scales in vectors:
                self._product(levels, scales, whole[first : first + len(levels)])
                first += len(levels)
        return whole if into is not None else whole.to(given.dtype).view(*given.shape[:-1], len(self._scale))

    def _product(self, vectors: Tensor, of_vectors: Tensor, into: Tensor | None) -> Tensor:
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            vectors, 1.0, ZERO, self._packed, self._scale, self._zeros, None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        out = product if into is None else into
        if self._bias is None:
            return torch.mul(product, of_vectors, out=out)
        return torch.addcmul(self._bias, product, of_vectors, out=out)


def use_int8(model: nn.Module, leave: nn.Module | None = None) -> Quantizer:
    """Let the linear layers of `model` work so, for good: later changes of their weights are not seen."""
    quantizer, made = Quantizer(), dict[tuple[int, int], Int8Linear]()  # layers with one weight share its levels
    for module in model.modules():
        found = None if module is leave else weight_and_bias(module)
        if found is not None and runs_in_int8(found[0]):
            key = id(module.weight), id(module.bias)
            made[key] = made.get(key) or Int8Linear(*found, quantizer)
            module.forward = partial(_forward, weakref.ref(module), made[key])  # no cycle
    return quantizer


def _forward(of: weakref.ref[nn.Module], linear: Int8Linear, given: Tensor) -> Tensor:
    if given.numel():
        return linear(given)
    module = of()
    assert module is not None
    return type(module).forward(module, given)  # type: ignore[no-any-return]
