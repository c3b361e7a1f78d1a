"""Cross-attention as a part of a decoder layer, with parameters of its own, made in the likeness of its self-attention.

It has the heads, the norms, the biases and the scale of the layer's self-attention; no positions, no window, no causal
mask. Where self-attention caps its scores, so does this.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig

from encdec_lightning.composition.adapter.source import Source
from encdec_lightning.composition.layout import Layout
from encdec_lightning.kernels.attention_interface import attention_of, head_size


class CrossAttention(nn.Module):
    """Hidden states (B, T, H) to what is added to them (B, T, H), read from a source (B, S, E)."""

    is_causal = False

    def __init__(self, layer: nn.Module, layout: Layout, config: PretrainedConfig, number: int) -> None:
        """For a decoder layer, number `number` of them counted from 0, whose self-attention is there."""
        super().__init__()
        own = getattr(layer, layout.attention)
        projections = [getattr(own, name) for name in layout.queries_keys_values.split()]
        bias = projections[0].bias is not None
        self.config, self.layer_idx = config, number
        self.heads = int(config.num_attention_heads)
        self.head_dim = head_size(config)
        self.groups = _groups(own, projections, self.heads, self.head_dim)
        self.num_key_value_groups = self.heads // self.groups
        self.scaling = float(getattr(own, "scaling", None) or self.head_dim**-0.5)
        self.softcap = getattr(config, "attn_logit_softcapping", None)
        self.scale = float(getattr(config, layout.scale)) if layout.scale else 1.0
        self.attention_dropout = float(getattr(config, "attention_dropout", getattr(config, "attn_pdrop", 0.0)))
        width, read = config.hidden_size, config.cross_attention_hidden_size or config.hidden_size
        self.norm = _likeness(layer, layout.before, layout.between) if layout.before else None
        self.q_proj = nn.Linear(width, self.heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(read, self.groups * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(read, self.groups * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, width, bias=getattr(own, layout.output).bias is not None)
        self.q_norm, self.k_norm = (_likeness(own, name) for name in layout.norms)
        self.post_norm = _likeness(layer, layout.after)
        self.dropout = nn.Dropout(float(getattr(config, layout.dropout)) if layout.dropout else 0.0)
        self.gate = nn.Parameter(torch.zeros(1)) if config.cross_attention_gate == "zero" else None

    def forward(self, hidden: Tensor, source: Source) -> Tensor:
        """What is added to the states (B, T, H) of a layer."""
        queries = self.q_proj(hidden if self.norm is None else self.norm(hidden))
        queries = in_heads(queries, self.head_dim, self.q_norm)
        keys, values = source.keys_and_values(self.layer_idx, self._keys_and_values)
        attend = attention_of(self.config, _eager)
        found, _ = attend(
            self,
            queries,
            keys,
            values,
            source.prepared,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            is_causal=False,
            **({} if self.softcap is None else {"softcap": self.softcap}),
        )
        added = self.o_proj(found.reshape(*hidden.shape[:-1], -1))
        if self.post_norm is not None:
            added = self.post_norm(added)
        added = self.dropout(added)
        if self.scale != 1:
            added = added * self.scale
        result: Tensor = added if self.gate is None else added * self.gate.to(added.dtype)
        return result

    def _keys_and_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return in_heads(self.k_proj(states), self.head_dim, self.k_norm), in_heads(self.v_proj(states), self.head_dim)


def in_heads(projected: Tensor, size: int, norm: nn.Module | None = None) -> Tensor:
    """(B, T, heads * D) to (B, heads, T, D), normed as a whole or by head, as wide as the norm is."""
    whole = norm is not None and sum(each.numel() for each in norm.parameters()) >= projected.shape[-1] != size
    if norm is not None and whole:
        projected = norm(projected)
    by_head: Tensor = projected.unflatten(-1, (-1, size)).transpose(1, 2)
    if norm is not None and not whole:
        by_head = norm(by_head)
    return by_head


def _groups(own: nn.Module, projections: list[nn.Linear], heads: int, size: int) -> int:
    """How many keys a token has in self-attention."""
    if len(projections) == 3:
        return projections[1].out_features // size
    return int(getattr(own, "num_kv_heads", heads))


def _likeness(owner: nn.Module, *names: str | None) -> nn.Module | None:
    """A new norm like the first one of these that there is, without its values."""
    found = (getattr(owner, name, None) for name in names if name is not None)
    norm = next((each for each in found if each is not None and any(True for _ in each.parameters())), None)
    if norm is None:
        return None
    made: nn.Module = copy.deepcopy(norm)
    for module in made.modules():
        vars(module).pop("_is_hf_initialized", None)  # by which transformers knows whether to give it values
    return made


def _eager(
    module: CrossAttention, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    dropout: float, scaling: float, softcap: float | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention as transformers' own, step by step: (B, H, T, D), (B, G, S, D) twice to (B, T, H, D)."""
    key, value = (each.repeat_interleave(module.num_key_value_groups, dim=1) for each in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    probabilities = functional.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), None
