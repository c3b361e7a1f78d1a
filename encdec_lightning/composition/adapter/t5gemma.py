"""T5Gemma (Zhang et al., 2025): a gemma2 that reads with its mask taken off, and one that writes with cross-attention.

Such a pair, composed here, has the parameters of a T5Gemma under other names. So it can be written as a folder that
transformers opens by itself, and the sides of a published T5Gemma can be taken as checkpoints.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    PretrainedConfig,
    PreTrainedModel,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
    T5GemmaModuleConfig,
)

from encdec_lightning.composition.checkpoints import OF_THE_OTHER_SIDE
from encdec_lightning.composition.cross_attending import family, with_cross_attention
from encdec_lightning.errors import UserError

MODEL_TYPE = T5GemmaConfig.model_type
NORMS = {"input_layernorm": "pre_self_attn_layernorm", "post_attention_layernorm": "post_self_attn_layernorm"}
CROSS = {
    "cross_attention.norm": "pre_cross_attn_layernorm",
    "cross_attention.post_norm": "post_cross_attn_layernorm",
    "cross_attention": "cross_attn",
}
"""What modules of a layer are called here and there."""
SIDES = {"encoder": "model.encoder.", "decoder.model": "model.decoder.", "decoder.lm_head": "lm_head.out_proj."}


def t5gemma_side(config: PretrainedConfig, role: str) -> PretrainedConfig:
    """The config of a T5Gemma's side as that of a gemma2; any other config as it is."""
    if config.model_type != MODEL_TYPE:
        return config
    own = getattr(config, role)
    names = {name for name in Gemma2Config().to_dict() if name not in ("model_type", "transformers_version")}
    values = {name: value for name, value in own.to_dict().items() if name in names}
    values |= {"architectures": config.architectures, "tie_word_embeddings": config.tie_word_embeddings}
    values |= {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    gemma = Gemma2Config(**values)
    if role == "encoder":
        gemma.is_causal = False
        return gemma
    width = config.encoder.hidden_size
    return with_cross_attention(gemma, cross_attention_hidden_size=None if width == gemma.hidden_size else width)


def t5gemma_names(role: str) -> dict[str, str]:
    """Pattern and replacement for the names of a T5Gemma's tensors, to those of a side."""
    other = "decoder" if role == "encoder" else "encoder"
    own = (
        {r"^model\.encoder\.": ""}
        if role == "encoder"
        else {r"^model\.decoder\.": "model.", r"^lm_head\.out_proj": "lm_head"}
    )
    layers = {rf"\.{theirs}\.": f".{ours}." for ours, theirs in (NORMS | CROSS).items()}
    return {rf"^model\.{other}\.(layers\.)?": OF_THE_OTHER_SIDE, **own, **layers}


def why_no_t5gemma(model: PreTrainedModel) -> str | None:
    """Why a composed model, perhaps without values, has not the shape of a T5Gemma; None if it has."""
    for side in ("encoder", "decoder"):
        if getattr(model.config, side, None) is None:
            return f"it has no {side}"
    encoder, decoder = model.config.encoder, model.config.decoder
    if not (family(encoder) == family(decoder) == "gemma2"):
        return f"its sides are {family(encoder)} and {family(decoder)}, and a T5Gemma's are gemma2"
    if decoder.cross_attention_kind != "separate" or decoder.cross_attention_every != 1:
        return "a T5Gemma has separate cross-attention in every layer"
    if decoder.cross_attention_place != "between":
        return "a T5Gemma has cross-attention between self-attention and the feed-forward part"
    if hasattr(model, "enc_to_dec_proj"):
        return "its encoder's states pass a projection, which a T5Gemma lacks; start cross-attention at random"
    return None


@torch.no_grad()
def as_t5gemma(model: PreTrainedModel) -> T5GemmaForConditionalGeneration:
    """A composed model as transformers' T5Gemma; a gate becomes a part of the norm before it.

    Raises `UserError` for a model of another shape.
    """
    why = why_no_t5gemma(model)
    if why is not None:
        raise UserError("export", MODEL_TYPE, why)
    sides = {role: _module_config(getattr(model.config, role)) for role in ("encoder", "decoder")}
    decoder = model.config.decoder
    config = T5GemmaConfig(
        **sides,
        vocab_size=decoder.vocab_size,
        attention_dropout=decoder.attention_dropout,
        tie_word_embeddings=decoder.tie_word_embeddings,
        **{name: getattr(decoder, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    config.decoder_start_token_id = getattr(model.config, "decoder_start_token_id", None)
    with torch.device("meta"):
        made = T5GemmaForConditionalGeneration(config)
    found = {_their_name(name): tensor for name, tensor in _opened_gates(model.state_dict()).items()}
    if config.tie_word_embeddings:
        found["lm_head.out_proj.weight"] = found["model.decoder.embed_tokens.weight"]
    made.load_state_dict(found, assign=True)
    made.tie_weights()
    for rotary in (made.model.encoder.rotary_emb, made.model.decoder.rotary_emb):  # its buffers are not kept
        rotary.__init__(rotary.config)
    made.generation_config = model.generation_config
    return made.eval()


def _module_config(config: PretrainedConfig) -> T5GemmaModuleConfig:
    names = T5GemmaModuleConfig().to_dict().keys() - {"model_type", "transformers_version", "is_decoder"}
    values: dict[str, Any] = {name: value for name, value in config.to_dict().items() if name in names}
    return T5GemmaModuleConfig(**values)


def _opened_gates(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values without gates: a gate times (1 + weight) is what the norm before it multiplies with."""
    state = {name: tensor.detach().clone() for name, tensor in state.items()}
    for name in [each for each in state if each.endswith("cross_attention.gate")]:
        norm = name.replace("gate", "post_norm.weight")
        state[norm] = (1 + state[norm]) * state.pop(name) - 1
    return state


def _their_name(name: str) -> str:
    ours = next(each for each in SIDES if name.startswith(f"{each}."))
    name = SIDES[ours] + name.removeprefix(f"{ours}.")
    for own, theirs in (CROSS | NORMS).items():
        name = re.sub(rf"\.{re.escape(own)}\.", f".{theirs}.", name)
    return name
