"""Where each family's decoder layers can take cross-attention, told in names of their modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from transformers import PretrainedConfig

Fused = Literal["by head", "by group", "one group"]
"""How queries, keys and values lie in the rows of one tensor: a head's query, key and value beside each other; the
queries of a group of heads, then their key and value; or all queries, then one key and one value."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The parts of a layer."""

    attention: str = "self_attn"
    """Self-attention."""
    queries_keys_values: str = "q_proj k_proj v_proj"
    """Its projections; one name: they are fused."""
    output: str = "o_proj"
    """Its projection of what it found."""
    fused: Fused | None = None
    """How they are fused."""
    norms: tuple[str, ...] = ("q_norm", "k_norm")
    """Its norms of queries and keys, where it has them."""
    before: str | None = "input_layernorm"
    """The layer's norm before self-attention."""
    after: str | None = None
    """The layer's norm after it, before what it found is added."""
    between: str | None = "post_attention_layernorm"
    """What first reads the states that self-attention has been added to; None: nothing does, since the feed-forward
    part reads the same states as self-attention."""
    scale: str | None = None
    """The config's number that what was found is multiplied with before it is added."""
    dropout: str | None = None
    """The config's dropout of what was found."""
    attends_to_cache: bool = True
    """Whether self-attention sees the keys that its cache gives it, whatever their number."""

    @property
    def merges(self) -> bool:
        """Whether self-attention can read a source as well."""
        return self.attends_to_cache and self.fused is None


_BY_HEAD: Any = {"queries_keys_values": "query_key_value", "output": "dense", "fused": "by head"}


def after_each_part(config: PretrainedConfig) -> Layout:
    """Gemma 2 and 3: a norm before and after each part."""
    return Layout(after="post_attention_layernorm", between="pre_feedforward_layernorm")


def llama(config: PretrainedConfig) -> Layout:
    """Llama and what is built like it."""
    return Layout()


def granite(config: PretrainedConfig) -> Layout:
    """As llama, with what each part adds scaled."""
    return Layout(scale="residual_multiplier")


def olmo2(config: PretrainedConfig) -> Layout:
    """A norm after each part alone."""
    return Layout(before=None, after="post_attention_layernorm", between="mlp")


def opt(config: PretrainedConfig) -> Layout:
    """A norm before each part, or after it."""
    between = "final_layer_norm" if config.do_layer_norm_before else "fc1"
    return Layout(output="out_proj", before="self_attn_layer_norm", between=between, dropout="dropout")


def phi(config: PretrainedConfig) -> Layout:
    """Both parts read the same states."""
    return Layout(output="dense", norms=("q_layernorm", "k_layernorm"), between=None, dropout="resid_pdrop")


def gptj(config: PretrainedConfig) -> Layout:
    """Both parts read the same states, with attention of its own."""
    return Layout(
        attention="attn", output="out_proj", before="ln_1", between=None, dropout="resid_pdrop", attends_to_cache=False
    )


def gpt_neox(config: PretrainedConfig) -> Layout:
    """Both parts read the same states, or not."""
    between = None if config.use_parallel_residual else "post_attention_layernorm"
    return Layout(attention="attention", between=between, dropout="hidden_dropout", **_BY_HEAD)


def bloom(config: PretrainedConfig) -> Layout:
    """One projection for queries, keys and values."""
    return Layout(attention="self_attention", dropout="hidden_dropout", **_BY_HEAD)


def falcon(config: PretrainedConfig) -> Layout:
    """One projection, in one of three orders; both parts read the same states, or not."""
    new, one = config.new_decoder_architecture, config.multi_query
    fused: Fused = "by group" if new else "one group" if one else "by head"
    before = "ln_attn" if new and config.num_ln_in_parallel_attn != 1 else "input_layernorm"
    between = None if config.parallel_attn or new else "post_attention_layernorm"
    return Layout(
        attention="self_attention",
        before=before,
        between=between,
        dropout="hidden_dropout",
        **{**_BY_HEAD, "fused": fused},
    )


def modernbert(config: PretrainedConfig) -> Layout:
    """The decoders of Ettin; the first layer has no norm before self-attention."""
    return Layout(attention="attn", output="Wo", before="attn_norm", between="mlp_norm")
