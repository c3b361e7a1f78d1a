"""The training loss, summed, so that callers can divide by the tokens of a whole optimizer step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from encdec_lightning.data.batch import Batch


def token_losses(model: PreTrainedModel, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each real target token, (N,) in fp32 or better, in the order of the flattened batch.

    No decoder mask is passed: targets are padded on the right, where causal attention never looks.
    """
    logits = model(
        input_ids=batch.source_ids, attention_mask=batch.source_mask, decoder_input_ids=batch.decoder_input_ids
    ).logits
    real = batch.target_mask
    precise = logits[real].to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(precise, batch.target_ids[real], label_smoothing=label_smoothing, reduction="none")
