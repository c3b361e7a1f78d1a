"""The logits of the next tokens, in pieces of the vocabulary, computed when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from encdec_lightning.kernels.onednn_linear import onednn_linear, runs_in_onednn

PIECE = 2048  # tokens of the vocabulary at a time: their logits for some hundred targets stay in the processor's cache
LOOKS = 4  # at a model's logits, whether they are its head's product; each waits for the device

Pieces = Sequence[Callable[[], Tensor]]
"""What computes the logits of R targets, in pieces (R, C) of the vocabulary."""


class Head:
    """The LM head's product for R targets at a time, in pieces of the vocabulary that are reduced while in cache."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Weight (V, H) and bias (V,) or none."""
        self.weight, self.bias = weight, bias
        self._room = weight.new_empty(0)
        self._in_onednn: list[Callable[[Tensor], Tensor]] = []
        if runs_in_onednn(weight):
            parts = [slice(start, start + PIECE) for start in range(0, len(weight), PIECE)]
            self._in_onednn = [onednn_linear(weight[part], None if bias is None else bias[part]) for part in parts]

    @property
    def vocabulary(self) -> int:
        """Its size."""
        return len(self.weight)

    def pieces(self, hidden: Tensor) -> Pieces:
        """What computes each piece (R, C) of the logits of hidden states (R, H), into memory that is used again."""
        targets = len(hidden)
        if self._room.numel() < targets * self.vocabulary:
            self._room = hidden.new_empty(targets * self.vocabulary)

        def piece(start: int) -> Callable[[], Tensor]:
            weight = self.weight[start : start + PIECE]
            room = self._room[targets * start : targets * (start + len(weight))].view(targets, len(weight))
            if self._in_onednn:
                return lambda: room.copy_(self._in_onednn[start // PIECE](hidden))
            if self.bias is None:
                return lambda: torch.mm(hidden, weight.t(), out=room)
            bias = self.bias[start : start + PIECE]
            return lambda: torch.addmm(bias, hidden, weight.t(), out=room)

        return [piece(start) for start in range(0, self.vocabulary, PIECE)]


def pieces_of(logits: Tensor) -> Pieces:
    """The same of logits (R, V) that a model has computed."""
    return [lambda piece=piece: piece.contiguous() for piece in logits.split(PIECE, dim=1)]  # type: ignore[misc]


class CapturedHead:
    """A model's LM head, whose product is left to `Head` once it is known to be the model's logits.

    A hook keeps what the module is given in each forward pass. Some families scale, cap or shift the product: theirs
    are the logits that the model computes.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """The model is this package's own copy: it keeps the hook."""
        self._module = model.get_output_embeddings()
        self._head: Head | None = None
        self._looks = LOOKS
        self._given: list[Tensor] = []  # in the forward pass under way
        if type(self._module) is nn.Linear:
            self._module.register_forward_pre_hook(self._keep)

    def forget(self) -> None:
        """Nothing is left of a forward pass that did not come to its end."""
        self._given = []

    def pieces(self, logits: Tensor, targets: int) -> Pieces:
        """The logits of so many targets, after the forward pass that gave these."""
        if self._given:
            hidden = self._given.pop().reshape(targets, -1)
            if self._head is not None:
                return self._head.pieces(hidden)
            if self._looks:
                self._looks -= 1
                expected = functional.linear(hidden, self._module.weight, self._module.bias)
                if torch.equal(logits.reshape(targets, -1), expected):  # nothing scaled, capped or added after
                    self._head = Head(self._module.weight, self._module.bias)
        return pieces_of(logits.reshape(targets, -1))

    def _keep(self, module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Keep the hidden states; once their product is known to be the logits, give the module none."""
        self._given.append(given[0])
        return given if self._head is None else (given[0][:, :0],)
