"""The training loss, summed, so that callers can divide by the tokens of a whole optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from encdec_lightning.composition.architectures import architecture_of, position_ids
from encdec_lightning.data.batch import Batch
from encdec_lightning.kernels.attention import all_use_attention
from encdec_lightning.kernels.cross_entropy import linear_cross_entropy
from encdec_lightning.kernels.dropout import FastDropout
from encdec_lightning.kernels.gradients import GradientMemory
from encdec_lightning.kernels.packing import Packing, packed
from encdec_lightning.kernels.working_copy import call_in


def token_losses(model: PreTrainedModel, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each real target token, (N,) in fp32 or better, in the order of the flattened batch.

    No decoder mask is passed: targets are padded on the right, where causal attention never looks.
    """
    real = batch.target_mask
    return _losses(model(**_inputs(batch)).logits[real], batch.target_ids[real], label_smoothing)


class TrainingLoss:
    """The sum of `token_losses`, for a backward pass, with less work.

    The LM head works on real target tokens and keeps no logits, dropout and attention run on this package's kernels.
    On CPU examples lie side by side without padding, and autocast casts each weight once. What a model does not allow
    is left out for it.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._plain_head: bool | None = None
        self._memory = GradientMemory()
        families = [architecture_of(side) for side in _sides(model)]
        self._casts_once = not any(family.mixes_dtypes for family in families)
        self._packs = hasattr(model, "encoder") and all(family.packs for family in families)

    def __call__(self, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """The summed loss of a batch, ()."""
        head = self._model.get_output_embeddings()
        if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter:  # its weight is in pieces
            return token_losses(self._model, batch, label_smoothing).sum()
        if any(getattr(each, "gradient_checkpointing", False) for each in self._model.modules()):
            return token_losses(self._model, batch, label_smoothing).sum()  # repeats its forward in no context
        if self._plain_head is None:
            self._plain_head = has_plain_head(self._model, head)
        packing = self._packing(batch)
        if packing is None:
            inputs, real = _inputs(batch), batch.target_mask
        else:
            batch = batch.select(torch.argsort(batch.source_lengths, descending=True, stable=True))
            inputs, real = _packed_inputs(batch, *_sides(self._model)), batch.target_mask
            packing = self._packing(batch)
        targets = batch.target_ids[real]
        if batch.source_ids.device.type == "cpu":
            self._memory.keep(self._model.parameters())

        def chosen(hidden: Tensor) -> Tensor:  # (N, H)
            return hidden[0] if packing is not None else hidden[real]

        with FastDropout(), packed(packing):
            if self._plain_head:
                with _given_to(head, lambda hidden: hidden[:, :0].to(head.weight.dtype)) as hidden:
                    self._forward(inputs, uncast=head)
                values, memory = chosen(hidden[0]), self._memory
                return linear_cross_entropy(values, head.weight, head.bias, targets, label_smoothing, memory)
            with _given_to(head, lambda hidden: chosen(hidden)[None]):
                logits = self._forward(inputs).logits[0]
            return _losses(logits, targets, label_smoothing).sum()

    def _packing(self, batch: Batch) -> Packing | None:
        """How the examples of a batch lie side by side; None where they do not."""
        if not self._packs or batch.source_ids.device.type != "cpu" or not all_use_attention(self._model):
            return None
        packing = Packing(tuple(batch.source_lengths.tolist()), tuple(batch.target_lengths.tolist()))
        return packing if packing.is_clear else None

    def _forward(self, inputs: dict[str, Tensor], uncast: nn.Module | None = None) -> Any:
        device = self._model.device.type
        if device != "cpu" or not torch.is_autocast_enabled(device) or not self._casts_once:
            return self._model(**inputs, use_cache=False)
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return call_in(dtype, self._model, self._memory, uncast, **inputs, use_cache=False)


def has_plain_head(model: PreTrainedModel, head: nn.Linear) -> bool:
    """Whether the logits are what the head makes of the hidden states, nothing scaled, capped or added after."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=head.weight.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": ids}
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with (
            torch.no_grad(),
            torch.autocast(ids.device.type, enabled=False),
            _given_to(head, lambda each: each) as hidden,
        ):
            logits = model(**inputs).logits
            expected = functional.linear(hidden[0], head.weight, head.bias)
    finally:
        for module in training:
            module.training = True
    return logits.shape == expected.shape and torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)


@contextmanager
def _given_to(head: nn.Linear, change: Callable[[Tensor], Tensor]) -> Iterator[list[Tensor]]:
    """Catches what the head is given, (B, T, H), and gives it what `change` makes of that."""
    caught: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        caught.append(given[0])
        return (change(given[0]),)

    hook = head.register_forward_pre_hook(keep)
    try:
        yield caught
    finally:
        hook.remove()


def _inputs(batch: Batch) -> dict[str, Tensor]:
    return {
        "input_ids": batch.source_ids,
        "attention_mask": batch.source_mask,
        "decoder_input_ids": batch.decoder_input_ids,
    }


def _packed_inputs(batch: Batch, encoder: PretrainedConfig, decoder: PretrainedConfig) -> dict[str, Tensor]:
    """Ids and positions of real tokens alone, (1, N) each."""
    source, target = batch.source_mask.bool(), batch.target_mask
    return {
        "input_ids": batch.source_ids[source][None],
        "position_ids": position_ids(encoder, batch.source_ids)[source][None],
        "decoder_input_ids": batch.decoder_input_ids[target][None],
        "decoder_position_ids": position_ids(decoder, batch.decoder_input_ids)[target][None],
    }


def _sides(model: PreTrainedModel) -> list[PretrainedConfig]:
    return [getattr(model.config, side) for side in ("encoder", "decoder") if hasattr(model.config, side)]


def _losses(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(precise, targets, label_smoothing=label_smoothing, reduction="none")
