"""Which tokens a side may see: an encoder's config without a causal mask, a decoder's with one."""

from __future__ import annotations

from transformers import PretrainedConfig

from encdec_lightning.composition.architectures import architecture_of
from encdec_lightning.composition.cross_attending import family

CAUSAL_BY_CHOICE = ("flaubert", "xlm")
"""Families of encoders whose config says whether there is a causal mask."""


def reads_left_to_right(config: PretrainedConfig) -> bool:
    """Whether an encoder of this config sees no later tokens."""
    if config.model_type in CAUSAL_BY_CHOICE:
        return bool(config.causal)
    masked = architecture_of(config).encodes == "unmasked" and bool(getattr(config, "is_causal", True))
    return masked and not _is_bidirectional_gemma3(config)


def show_later_tokens(config: PretrainedConfig) -> None:
    """Take the causal mask off an encoder's config."""
    if config.model_type in CAUSAL_BY_CHOICE:
        config.causal = False
    elif not _is_bidirectional_gemma3(config):  # which has a window in both directions, and keeps it
        config.is_causal = False


def hide_later_tokens(config: PretrainedConfig) -> None:
    """Give a decoder's config its causal mask, where a bidirectional encoder was saved as its checkpoint."""
    if getattr(config, "is_causal", True) is False:
        config.is_causal = True
    if getattr(config, "use_bidirectional_attention", False):
        window = config.to_dict().get("sliding_window")  # as config.json says it: the class has changed its own
        config.use_bidirectional_attention = False
        if window is not None:
            config.sliding_window = window


def _is_bidirectional_gemma3(config: PretrainedConfig) -> bool:
    """Whether it is an EmbeddingGemma's."""
    return family(config) == "gemma3_text" and bool(config.use_bidirectional_attention)
