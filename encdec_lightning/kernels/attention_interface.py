"""How transformers' models come to run `attention`: a name for it, and the mask that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from encdec_lightning.kernels import varlen
from encdec_lightning.kernels.attention import attention
from encdec_lightning.kernels.packing import active

NAME = "encdec"
DROPOUTS = ("attention_probs_dropout_prob", "attn_pdrop", "attention_dropout")
"""What families call the dropout of attention."""


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


def attention_of(config: PretrainedConfig, eager: Any) -> Any:
    """The function of attention that modules of a config run; `eager` where it names transformers' step by step."""
    return ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager)


def packs_examples(model: PreTrainedModel, device: torch.device) -> bool:
    """Whether a training step on a device lays examples side by side; the families must allow it as well.

    This is the rule of which attention runs in training:

    | device | when | attention |
    |---|---|---|
    | processor | the families allow packing | packed, this package's own, with dropout |
    | processor | else | padded, this package's own, with dropout |
    | a GPU since Ampere | the families allow packing, no dropout of attention is in effect, products are in bf16 or
      fp16, heads have a multiple of 8 numbers, 256 at most, and torch has a `varlen_attn` | packed, that one |
    | any other | | padded, transformers' `sdpa` |

    `varlen_attn` takes no dropout. BERT and GPT-2 train with 0.1, so that it runs with `model.dropout=0`.
    """
    if not all_use_attention(model):
        return False
    if device.type == "cpu":
        return True
    low = torch.is_autocast_enabled(device.type) if device.type in varlen.DEVICES else False
    dtype = torch.get_autocast_dtype(device.type) if low else model.dtype
    return (
        dtype in varlen.DTYPES
        and not (model.training and any(_number(config, DROPOUTS) for config in _sides(model)))
        and all(head_size(config) in varlen.HEAD_SIZES for config in _sides(model))
        and varlen.torch_varlen() is not None
        and varlen.runs_flash_attention(device)
    )


def _sides(model: PreTrainedModel) -> list[Any]:
    return [
        part.config for part in model.modules() if isinstance(part, PreTrainedModel) and not part.config.sub_configs
    ]


def _number(config: Any, names: Sequence[str]) -> float:
    """The first of some settings that a config has; 0 if it has none."""
    return next((getattr(config, name) or 0 for name in names if hasattr(config, name)), 0)


def head_size(config: Any) -> int:
    """How many numbers a head's queries and keys have."""
    return int(_number(config, ("head_dim",))) or config.hidden_size // config.num_attention_heads


def mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Transformers' mask for `sdpa`; None for a packed row, whose attention knows what belongs together.

    It leaves a mask out that hides nothing, and asks the mask for that. On a processor that costs nothing; elsewhere
    the processor would wait for the device in every step, so that such a mask is used as it is.
    """
    if active() is not None:
        return None
    padding = kwargs.get("attention_mask")
    if padding is not None and padding.device.type != "cpu":
        kwargs.update(allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
    made: Tensor | None = sdpa_mask(*args, **kwargs)
    return made


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, mask)
