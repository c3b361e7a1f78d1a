"""What the tests of families share: inputs with padding, and logits."""

from __future__ import annotations

import torch

from encdec_lightning.composition.composed_model import ComposedModel

LENGTHS = (9, 5)


def batch(model: ComposedModel, lengths: tuple[int, ...] = LENGTHS, target_length: int = 6) -> dict[str, torch.Tensor]:
    """Random ids, none of them special, padded with the padding token, and a mask made of lengths."""
    draw = torch.Generator().manual_seed(7)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, model.source_config.vocab_size, (len(lengths), max(lengths)), generator=draw)
    target = torch.randint(5, model.config.decoder.vocab_size, (len(lengths), target_length), generator=draw)
    return {"input_ids": ids.where(mask > 0, model.source_pad_id), "attention_mask": mask, "decoder_input_ids": target}


@torch.no_grad()
def logits(model: ComposedModel, **inputs: torch.Tensor) -> torch.Tensor:
    return model(**inputs, use_cache=False).logits
