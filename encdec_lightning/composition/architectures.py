"""All that is known about each family of checkpoints, and nothing about it anywhere else but in layout.py.

A family is a `model_type` of transformers. Names of parameters are given relative to the family's base model: what
`AutoModel` builds for an encoder, and what `base_model_prefix` names inside a causal language model for a decoder.
Every entry passes the probe of tests/composition/test_families.py.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from transformers import AutoModelForTextEncoding, PretrainedConfig

from encdec_lightning.composition import layout
from encdec_lightning.composition.architecture import Architecture
from encdec_lightning.composition.cross_attending import MODEL_TYPE, family
from encdec_lightning.composition.layout import Layout


def _alibi(config: PretrainedConfig) -> str | None:
    if getattr(config, "alibi", True):  # a choice of falcon's configs, bloom has nothing else
        return "its attention counts positions by itself, so that beams cannot share one row of keys"
    return None


def _sinusoids(config: PretrainedConfig) -> str | None:
    return None if config.use_learned_position_embeddings else "its sinusoids count positions by themselves"


_NO_POOLER = (("add_pooling_layer", False),)
_BERT = Architecture(encodes="yes", decodes=True, encoder_arguments=_NO_POOLER, packs=True)
_ROBERTA = replace(_BERT, positions_before_first=2)
_ENCODER = Architecture(encodes="yes")
_POOLED = replace(_ENCODER, encoder_arguments=_NO_POOLER)
_XLM = replace(
    _ENCODER,
    embeddings=("embeddings.", "position_embeddings.", "lang_embeddings.", "layer_norm_emb."),
    unused=("lang_embeddings.",),
)
_T5 = replace(_ENCODER, embeddings=("shared.",), positions=None, encoder_class=AutoModelForTextEncoding)
_BART = Architecture(
    decodes=True,
    embeddings=("decoder.embed_tokens.", "decoder.embed_positions.", "decoder.layernorm_embedding."),
    cross_attention=True,
    depth="decoder_layers",
    renamed=((r"^(model\.)?shared\.", "model.decoder.embed_tokens."),),
    positions_given="module",
)
_LLAMA = Architecture(encodes="unmasked", prefixes=True, embeddings=("embed_tokens.",), packs=True, layout=layout.llama)
_OWN_ATTENTION = replace(_LLAMA, packs=False)
_GEMMA2 = replace(_LLAMA, layout=layout.after_each_part)
_GPT_J = replace(_OWN_ATTENTION, embeddings=("wte.",), layout=layout.gptj)
_GPT2 = replace(_LLAMA, decodes=True, embeddings=("wte.", "wpe."), layout=None)

ARCHITECTURES: dict[str, Architecture] = {
    # Both sides: encoders that transformers can also run as decoders.
    "bert": _BERT,
    "bert-generation": replace(_BERT, encoder_arguments=()),
    "camembert": _ROBERTA,
    "data2vec-text": _ROBERTA,
    "electra": replace(_BERT, encoder_arguments=()),
    "ernie": _BERT,
    "rembert": _BERT,
    "roberta": _ROBERTA,
    "roberta-prelayernorm": _ROBERTA,
    "roformer": replace(
        _BERT,
        encoder_arguments=(),
        computed=("encoder.embed_positions.",),
        positions_given="module, one for all",
    ),
    "xlm-roberta": _ROBERTA,
    "xlm-roberta-xl": _ROBERTA,
    "xmod": _ROBERTA,
    # Encoders.
    "albert": _POOLED,
    "big_bird": _POOLED,
    "deberta": _ENCODER,
    "deberta-v2": _ENCODER,
    "distilbert": _ENCODER,
    "esmc": replace(_ENCODER, embeddings=("embed_tokens.",)),
    "eurobert": replace(_ENCODER, embeddings=("embed_tokens.",)),
    "esm": replace(_POOLED, positions_before_first=2, unused=("contact_head.",)),
    "flaubert": _XLM,
    "gte": _POOLED,
    "ibert": replace(_POOLED, positions_before_first=2),
    "jina_embeddings_v3": _POOLED,
    "longformer": replace(_POOLED, positions_before_first=2, unused=("_global.",)),
    "luke": replace(_POOLED, positions_before_first=2, unused=("entity_embeddings.", "w2e_", "e2w_", "e2e_")),
    "megatron-bert": _POOLED,
    "mobilebert": replace(_POOLED, reads_padding=True),
    "modernbert": _ENCODER,
    "mpnet": replace(_POOLED, positions_before_first=2),
    "nomic_bert": _ENCODER,
    "splinter": _ENCODER,
    "squeezebert": _ENCODER,
    "ultrabert": _ENCODER,
    "xlm": _XLM,
    # The encoders of encoder-decoders.
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
    # Decoders.
    "bart": _BART,
    "bigbird_pegasus": _BART,
    "blenderbot": _BART,
    "blenderbot-small": _BART,
    "marian": replace(_BART, computed=("decoder.embed_positions.",)),
    "mbart": _BART,
    "mvp": _BART,
    "pegasus": replace(_BART, computed=("decoder.embed_positions.",)),
    "plbart": _BART,
    "roc_bert": replace(_BERT, encodes="no"),
    "trocr": replace(_BART, why_positions_are_not_given=_sinusoids),
    # Language models: decoders, encoders without their causal mask, or alone; gpt2 and xglm have cross-attention.
    "gpt2": _GPT2,
    "gpt-sw3": _GPT2,
    "bloom": replace(
        _OWN_ATTENTION,
        embeddings=("word_embeddings.", "word_embeddings_layernorm."),
        positions=None,
        why_positions_are_not_given=_alibi,
        layout=layout.bloom,
    ),
    "falcon": replace(
        _OWN_ATTENTION, embeddings=("word_embeddings.",), why_positions_are_not_given=_alibi, layout=layout.falcon
    ),
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gpt_neox": replace(_LLAMA, embeddings=("embed_in.",), layout=layout.gpt_neox),
    "gptj": _GPT_J,
    "granite": replace(_LLAMA, layout=layout.granite),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "modernbert-decoder": replace(_LLAMA, embeddings=("embeddings.",), layout=layout.modernbert),
    "olmo2": replace(_LLAMA, layout=layout.olmo2),
    "opt": replace(_LLAMA, embeddings=("decoder.embed_tokens.", "decoder.embed_positions."), layout=layout.opt),
    "phi": replace(_LLAMA, layout=layout.phi),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "xglm": replace(_OWN_ATTENTION, decodes=True, mixes_dtypes=True, layout=None),
}

_PADDING = "its output changes with the padding of a batch"
_WHOLE = "transformers runs its encoder only together with its decoder"
CANNOT_ENCODE = {
    **dict.fromkeys(("convbert", "fnet", "nystromformer", "yoso"), _PADDING),
    **dict.fromkeys(("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp"), _WHOLE),
    **dict.fromkeys(("pegasus", "plbart", "prophetnet", "led", "m2m_100", "longt5", "switch_transformers"), _WHOLE),
    "canine": "it has no word embeddings, and its output changes with the padding of a batch",
    "roc_bert": "it also needs the shapes and the pronunciations of its characters",
    "gpt_neo": "its causal mask cannot be taken off",
    "mra": "its attention runs on CUDA alone, and elsewhere gives nothing",
    "trocr": "it is a decoder only",
}
CANNOT_DECODE = {
    "big_bird": "it ignores the source's mask, and its cache fails",
    "gpt_bigcode": "its cross-attention is not written for multi-query attention",
    "megatron-bert": "its cross-attention fails",
    "prophetnet": "its predictions depend on later tokens, and its cache changes them",
}

CROSS_ATTENTION = (
    *(".cross_attention.", ".crossattention.", ".ln_cross_attn."),
    *(".encoder_attn.", ".encoder_attn_layer_norm."),
)
"""Parts of the names of cross-attention parameters, in every family."""
FROM_THE_SOURCE = (".key.", ".value.", ".k_proj.", ".v_proj.", ".c_attn.")
"""Parts of the names of those cross-attention parameters that read the source."""
OWN_ATTENTION = {
    **{f".crossattention.{part}.": ".attn.c_attn." for part in ("q_attn", "c_attn")},
    ".crossattention.c_proj.": ".attn.c_proj.",
    ".ln_cross_attn.": ".ln_1.",
    ".crossattention.": ".attention.",
    ".encoder_attn": ".self_attn",
}
"""What turns a cross-attention parameter's name into that of the self-attention parameter of the same meaning, of
which it may be a part: GPT-2's `c_attn` is queries, keys and values side by side, in cross-attention the last two."""
DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "activation_dropout"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout_rate", "hidden_dropout", "embedding_dropout", "mlp_dropout"),
)
"""Names of configs' dropout probabilities."""
PER_LAYER = ("layer_types", "attention_window", "no_rope_layers")
"""Names of configs' lists with an entry for each layer."""
HEADS = ("ForMaskedLM", "ForPreTraining", "LMHeadModel", "ForCausalLM", "ForConditionalGeneration", "GenerationDecoder")
"""Ends of the names of classes whose checkpoints have a language model's head."""
NO_HEADS = ("ElectraForPreTraining",)
"""Classes of such a name whose checkpoints have none: they tell replaced tokens from others."""


def architecture_of(config: PretrainedConfig) -> Architecture:
    """The architecture of a part of a composed model, which `check` has accepted."""
    known = known_architecture(config)
    assert known is not None
    return known


def known_architecture(config: PretrainedConfig) -> Architecture | None:
    """The architecture of any config's family, none if it is not known here."""
    own = ARCHITECTURES.get(family(config))
    if own is None or config.model_type != MODEL_TYPE:
        return own
    return replace(own, encodes="no", decodes=True, prefixes=False, cross_attention=True, layout=None)


def layout_of(config: PretrainedConfig) -> Layout:
    """Where the layers of a language model without cross-attention can take it."""
    found = ARCHITECTURES[family(config)].layout  # of the language model in it
    assert found is not None
    return found(config)


def has_head(config: PretrainedConfig) -> bool:
    """Whether a checkpoint has a language model's head, as far as its config says."""
    names = getattr(config, "architectures", None) or []
    return any(name.endswith(HEADS) and name not in NO_HEADS for name in names)


def depth(config: PretrainedConfig) -> int:
    """How many layers a config says."""
    return int(getattr(config, architecture_of(config).depth))


def key_width(config: PretrainedConfig) -> int:
    """How many numbers the keys of a token are in a layer, at most; its values are as many.

    Heads may be wider together than the states that they read.
    """
    return max(int(config.hidden_size), int(config.num_attention_heads) * int(getattr(config, "head_dim", None) or 0))


def attention_window(config: PretrainedConfig) -> int | None:
    """How many tokens attention sees; None: all."""
    return getattr(config, architecture_of(config).window, None) or None


def packs(config: PretrainedConfig) -> bool:
    """Whether examples can lie side by side in one row.

    Then attention is this package's own, which sees whole examples and caps no scores.
    """
    caps = getattr(config, "attn_logit_softcapping", None)
    merged = getattr(config, "cross_attention_kind", None) == "merged"
    return architecture_of(config).packs and attention_window(config) is None and caps is None and not merged


def position_ids(config: PretrainedConfig, ids: Tensor) -> Tensor:
    """The positions (B, T) that a family gives to tokens (B, T) padded on the right."""
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    if architecture_of(config).positions_before_first:  # counts tokens other than padding, even in the middle
        real = (ids != config.pad_token_id).long()
        positions = real.cumsum(dim=1) * real + config.pad_token_id
    return positions


def length_limit(config: PretrainedConfig) -> int | None:
    """The longest sequence, in tokens, that a checkpoint's position table can take; None: there is no end."""
    architecture = architecture_of(config)
    if architecture.positions is None:
        return None
    return int(getattr(config, architecture.positions)) - architecture.positions_before_first
