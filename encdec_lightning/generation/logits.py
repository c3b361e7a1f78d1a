"""The logits of the next tokens, in pieces of the vocabulary, computed when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from encdec_lightning.kernels.int8_linear import Int8Linear, Quantizer, runs_in_int8
from encdec_lightning.kernels.onednn_linear import onednn_linear, runs_in_onednn

PIECE = 2048  # tokens of the vocabulary at a time: their logits for some hundred targets stay in the processor's cache
LOOKS = 4  # at a model's logits, whether they are its head's product; each waits for the device

Pieces = Sequence[Callable[[], Tensor]]
"""What computes the logits of R targets, in pieces (R, C) of the vocabulary."""


class Head:
    """The LM head's product for R targets at a time, in pieces of the vocabulary that are reduced while in cache."""

    def __init__(self, weight: Tensor, bias: Tensor | None, quantizer: Quantizer | None = None) -> None:
        """Weight (V, H) and bias (V,) or none; in int8 if there is what quantizes hidden states."""
        self.weight, self.bias = weight, bias
        self._products: list[Callable[[Tensor, Tensor], Tensor]] = []
        """What writes each piece of the product, where torch's own is not the fastest."""
        for start in range(0, len(weight), PIECE):
            rows, offset = weight[start : start + PIECE], None if bias is None else bias[start : start + PIECE]
            if quantizer is not None and runs_in_int8(weight):
                self._products.append(Int8Linear(rows, offset, quantizer))
            elif runs_in_onednn(weight):
                self._products.append(partial(_written, onednn_linear(rows, offset)))
        # in fp32 what is computed from a piece needs no copy of it
        self._room = weight.new_empty(0, dtype=torch.float32 if self._products else weight.dtype)

    @property
    def vocabulary(self) -> int:
        """Its size."""
        return len(self.weight)

    def pieces(self, hidden: Tensor) -> Pieces:
        """What computes each piece (R, C) of the logits of hidden states (R, H), into memory that is used again."""
        targets = len(hidden)
        if self._room.numel() < targets * self.vocabulary:
            self._room = self._room.new_empty(targets * self.vocabulary)

        def piece(start: int) -> Callable[[], Tensor]:
            weight = self.weight[start : start + PIECE]
            room = self._room[targets * start : targets * (start + len(weight))].view(targets, len(weight))
            if self._products:
                return lambda: self._products[start // PIECE](hidden, room)
            if self.bias is None:
                return lambda: torch.mm(hidden, weight.t(), out=room)
            bias = self.bias[start : start + PIECE]
            return lambda: torch.addmm(bias, hidden, weight.t(), out=room)

        return [piece(start) for start in range(0, self.vocabulary, PIECE)]


def _written(product: Callable[[Tensor], Tensor], hidden: Tensor, into: Tensor) -> Tensor:
    return into.copy_(product(hidden))


def pieces_of(logits: Tensor) -> Pieces:
    """The same of logits (R, V) that a model has computed."""
    return [lambda piece=piece: piece.contiguous() for piece in logits.split(PIECE, dim=1)]  # type: ignore[misc]


class CapturedHead:
    """A model's LM head, whose product is left to `Head` once it is known to be the model's logits.

    A hook keeps what the module is given in each forward pass. Some families scale, cap or shift the product: theirs
    are the logits that the model computes.
    """

    def __init__(self, model: PreTrainedModel, quantizer: Quantizer | None = None) -> None:
        """The model is this package's own copy: it keeps the hook. With what quantizes, the product is in int8."""
        self._quantizer = quantizer
        module = model.get_output_embeddings()
        self._head: Head | None = None
        self._looks = LOOKS
        self._given: list[Tensor] = []  # in the forward pass under way
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        if type(module) is nn.Linear:  # which is not kept: it has the hook, and so this object
            self._weight, self._bias = module.weight, module.bias
            module.register_forward_pre_hook(self._keep)

    def forget(self) -> None:
        """Nothing is left of a forward pass that did not come to its end."""
        self._given = []

    def pieces(self, logits: Tensor, targets: int) -> Pieces:
        """The logits of so many targets, after the forward pass that gave these."""
        if self._given:
            given = self._given.pop()
            if self._head is None and self._looks and self._weight is not None:
                self._looks -= 1
                expected = functional.linear(given, self._weight, self._bias)  # in the same shape: to the last bit
                if logits.numel() == expected.numel() and torch.equal(logits.reshape(expected.shape), expected):
                    # nothing is scaled, capped or added after the product
                    self._head = Head(self._weight, self._bias, self._quantizer)
            if self._head is not None:  # at once, so that the first sources get what later ones do
                return self._head.pieces(given.reshape(targets, -1))
        return pieces_of(logits.reshape(targets, -1))

    def _keep(self, module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Keep the hidden states; once their product is known to be the logits, give the module none."""
        self._given.append(given[0])
        return given if self._head is None else (given[0][:, :0],)
