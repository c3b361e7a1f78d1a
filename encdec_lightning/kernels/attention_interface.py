"""How transformers' models come to run `attention`: a name for it, and the mask that it is given."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from encdec_lightning.kernels.attention import attention
from encdec_lightning.kernels.packing import active

NAME = "encdec"


def use_attention(model: PreTrainedModel) -> None:
    """Choose `attention` wherever a module of `model` runs transformers' `sdpa`; other modules stay as they are."""
    for part in model.modules():
        if not isinstance(part, PreTrainedModel) or not part._supports_attention_backend:
            continue
        for module in part.modules():
            config = getattr(module, "config", None)
            if config is None or config.sub_configs:
                continue  # setting it in one of several parts sets it in all, whatever they run
            if config._attn_implementation == "sdpa":
                config._attn_implementation = NAME


def all_use_attention(model: PreTrainedModel) -> bool:
    """Whether every attention of `model` is `attention`."""
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel) and not part.config.sub_configs]
    return all(part.config._attn_implementation == NAME for part in parts)


def mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Transformers' mask for `sdpa`; None for a packed row, whose attention knows what belongs together.

    It leaves a mask out that hides nothing, and asks the mask for that. On a processor that costs nothing; elsewhere
    the processor would wait for the device in every step, so that such a mask is used as it is.
    """
    if active.get() is not None:
        return None
    padding = kwargs.get("attention_mask")
    if padding is not None and padding.device.type != "cpu":
        kwargs.update(allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
    made: Tensor | None = sdpa_mask(*args, **kwargs)
    return made


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, mask)
