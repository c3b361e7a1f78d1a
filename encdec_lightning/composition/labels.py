"""What a composed model makes of `labels`, as people's own loops and the HF Trainer give them: inputs and a loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PretrainedConfig

from encdec_lightning.errors import UserError

IGNORED = -100
"""The label of a place that has no target: padding."""


def decoder_inputs(labels: Tensor, config: PretrainedConfig) -> Tensor:
    """The ids (B, T) that the decoder reads for labels (B, T): the start token, then the labels without the last.

    Padding is read as `pad_token_id`, after the target's last token, where causal attention never looks: no mask is
    needed, and padding may be the same token as the start or the end. Raises `UserError` for a model without a start
    token, and for labels with -100 in front of a real token, whose input would be unknown (padding on the left).
    """
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None:
        raise UserError("decoder_start_token_id", None, "the model needs one, see Tokenizers.configure")
    ignored = labels == IGNORED
    early = ignored[:, :-1] & ~ignored[:, 1:]
    if early.any():
        row, place = early.nonzero()[0].tolist()
        expected = "-100 may stand at the end alone; pad labels on the right, or give decoder_input_ids with them"
        raise UserError(f"labels of row {row}", labels[row, max(0, place - 2) : place + 2].tolist(), expected)
    ids = labels.masked_fill(ignored, start if pad is None or pad < 0 else pad).roll(1, dims=1)
    ids[:, 0] = start
    return ids


def labels_loss(logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Cross-entropy of logits (B, T, V) by labels (B, T), (), in fp32 or better: the mean of the labels but -100.

    `num_items` is what the sum is divided by instead: the labels of all micro-batches of an optimizer step, as the HF
    Trainer gives it. Without any label the loss is 0, and the gradient too.
    """
    labels = labels.to(logits.device)
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = functional.cross_entropy(
        precise.flatten(0, 1), labels.flatten().long(), ignore_index=IGNORED, reduction="sum"
    )
    count = (labels != IGNORED).sum() if num_items is None else torch.as_tensor(num_items, device=logits.device)
    return total / count.clamp(min=1)
