"""The training loss, summed, so that callers can divide by the tokens of a whole optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional
from transformers import PreTrainedModel

from encdec_lightning.composition.architectures import position_ids
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.kernels.attention_interface import packs_examples
from encdec_lightning.kernels.cross_entropy import linear_cross_entropy
from encdec_lightning.kernels.fast_functions import fast_functions
from encdec_lightning.kernels.gradients import GradientMemory
from encdec_lightning.kernels.packing import Packing, packed
from encdec_lightning.kernels.stand_in import runs_as_shipped, stand_in
from encdec_lightning.kernels.working_copy import call_as_it_is, call_in


def token_losses(model: PreTrainedModel, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each real target token, (N,) in fp32 or better, in the order of the flattened batch."""
    logits = model(**_inputs(batch), use_cache=False).logits
    return _losses(_real(logits, batch), _real(batch.target_ids, batch), label_smoothing)


class TrainingLoss:
    """The sum of `token_losses`, for a backward pass, with less work.

    The LM head works on real target tokens and keeps no logits, attention runs on this package's kernels, and on CPU
    so do dropout and the linear layers that are faster there (`fast_functions`).
    Examples lie side by side without padding where `packs_examples` says so, and on CPU autocast casts each weight
    once. What a model does not allow is left out for it. While somebody has hooks on a module of the model or has
    wrapped or replaced one's `forward`, `token_losses` computes the loss, so that they see and change what transformers
    would give them.
    """

    def __init__(self, model: ComposedModel) -> None:
        self._model = model
        self._head: nn.Linear | None = None
        self._plain_head = False
        self._memory = GradientMemory()
        self._casts_once, self._packs = not model.mixes_dtypes, model.packs

    def __call__(self, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """The summed loss of a batch, ()."""
        head = self._model.get_output_embeddings()
        if not self._is_ours(head):
            return token_losses(self._model, batch, label_smoothing).sum()
        if self._head is not head:
            self._head, self._plain_head = head, has_plain_head(self._model, head)
        packing = self._packing(batch)
        if packing is None:
            inputs = _inputs(batch)
        else:
            if batch.source_ids.device.type == "cpu":  # there neighbours are computed together
                batch = batch.select(torch.argsort(batch.source_lengths, descending=True, stable=True))
                packing = self._packing(batch)
            inputs = _packed_inputs(batch, self._model)
        targets = _real(batch.target_ids, batch)

        def chosen(hidden: Tensor) -> Tensor:  # (N, H)
            return hidden[0] if packing is not None else _real(hidden, batch)

        bits = None if packing is None else packing.bits
        with fast_functions(batch.source_ids.device, bits), packed(packing):
            if self._plain_head:
                caught = _Caught(lambda hidden: hidden[:, :0].to(head.weight.dtype))
                self._forward(inputs, head, caught, uncast=head)
                values, memory = chosen(caught.hidden), self._memory
                return linear_cross_entropy(values, head.weight, head.bias, targets, label_smoothing, memory)
            logits = self._forward(inputs, head, _Caught(lambda hidden: chosen(hidden)[None])).logits[0]
            return _losses(logits, targets, label_smoothing).sum()

    def _is_ours(self, head: nn.Module) -> bool:
        """Whether nobody has changed how the model runs, and nothing runs a part of it again in the backward pass.

        Asked at every call: wrappers and hooks come and go. The head's weight must not be in pieces.
        """
        return (
            type(head) is nn.Linear
            and not isinstance(head.weight, DTensor)
            and not any(getattr(each, "gradient_checkpointing", False) for each in self._model.modules())
            and runs_as_shipped(self._model)
        )

    def _packing(self, batch: Batch) -> Packing | None:
        """How the examples of a batch lie side by side; None where they do not."""
        device = batch.source_ids.device
        if not self._packs or not packs_examples(self._model, device):
            return None
        there = None if device.type == "cpu" else (batch.source_lengths, batch.target_lengths)
        packing = Packing(tuple(batch.lengths[:, 0].tolist()), tuple(batch.lengths[:, 1].tolist()), there)
        return packing if packing.is_clear else None

    def _forward(self, inputs: Mapping[str, Tensor], head: nn.Linear, caught: _Caught, uncast: Any = None) -> Any:
        device = self._model.device.type
        if device != "cpu" or not torch.is_autocast_enabled(device) or not self._casts_once:
            return call_as_it_is(self._model, self._memory, {head: caught.forward}, **inputs, use_cache=False)
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            forwards: dict[nn.Module, Callable[..., Any]] = {head: caught.forward}
            return call_in(dtype, self._model, self._memory, forwards, uncast, **inputs, use_cache=False)


class _Caught:
    """What a head is given, (B, T, H); it gets what `change` makes of that."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        self._change = change
        self.hidden: Tensor

    def forward(self, head: nn.Linear, hidden: Tensor) -> Tensor:
        """The head's, in a stand-in."""
        self.hidden = hidden
        return functional.linear(self._change(hidden), head.weight, head.bias)


def has_plain_head(model: PreTrainedModel, head: nn.Linear) -> bool:
    """Whether the logits are what the head makes of the hidden states, nothing scaled, capped or added after."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=head.weight.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": ids}
    caught = _Caught(lambda hidden: hidden)
    with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
        logits = stand_in(model, {}, {head: caught.forward}).eval()(**inputs).logits
        expected = functional.linear(caught.hidden, head.weight, head.bias)
    return logits.shape == expected.shape and torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)


def _real(values: Tensor, batch: Batch) -> Tensor:
    """(B, T, ...) -> (N, ...): those at the real target tokens, without asking the device how many these are."""
    return values.flatten(0, 1).index_select(0, batch.target_positions)


def _inputs(batch: Batch) -> dict[str, Tensor]:
    """What a model is called with.

    On a processor targets need no mask: they are padded on the right, where causal attention never looks. Elsewhere
    transformers would look into positions or masks to find out what it may leave out, and the processor wait for the
    device: there each mask says all, and one that would hide nothing is left out here, where the lengths are known.
    """
    inputs = {
        "input_ids": batch.source_ids,
        "attention_mask": batch.source_mask,
        "decoder_input_ids": batch.decoder_input_ids,
    }
    if batch.source_ids.device.type != "cpu":
        inputs["decoder_attention_mask"] = torch.ones_like(batch.decoder_input_ids)
        if batch.lengths[:, 0].min() == batch.source_ids.shape[1]:
            del inputs["attention_mask"]
    return inputs


def _packed_inputs(batch: Batch, model: ComposedModel) -> dict[str, Tensor]:
    """Ids and positions of real tokens alone, (1, N) each.

    Without a mask transformers would look into the positions for examples side by side, and wait for a GPU.
    """
    sides = (
        ("", batch.source_ids, batch.source_positions),
        ("decoder_", batch.decoder_input_ids, batch.target_positions),
    )
    found = {}
    for side, ids, real in sides:
        positions = position_ids(model.config.decoder if side else model.config.encoder, ids)
        for name, values in (("input_ids", ids), ("position_ids", positions)):
            found[side + name] = values.flatten().index_select(0, real)[None]
        if ids.device.type != "cpu":
            found[side + "attention_mask"] = torch.ones_like(found[side + "input_ids"])
    return found


def _losses(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(precise, targets, label_smoothing=label_smoothing, reduction="none")
