"""Attention of a few queries over many keys, as in a step of generation."""

from __future__ import annotations

import torch
from torch import Tensor

from encdec_lightning.kernels.spans import reading_of


def lowest(dtype: torch.dtype) -> float:
    """What is added to a score to hide a key. In fp16 the lowest number and a score together would be -inf."""
    return torch.finfo(dtype).min / (2 if dtype == torch.float16 else 1)


def within_reach(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What is added to scores of this dtype, in fp16 nowhere below `lowest`: a row of -inf would give nan."""
    return bias if bias is None or dtype != torch.float16 else bias.clamp(min=lowest(dtype))


def short_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float | None = None
) -> Tensor:
    """A few queries (B, H, S, D) over many keys (B, G, T, D), without gradients, to (B, S, H, D).

    The bias is added and broadcasts to (B, H, S, T). Two matrix products a head: on CPU several times faster than
    `scaled_dot_product_attention` at a handful of queries, above all in bf16. Keys of which spans are known are read
    there only.
    """
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    query, bias = query * scale, within_reach(bias, query.dtype)
    found = reading_of(key)
    if found is None or bias is None or bias.ndim < 4 or (bias.shape[0], bias.shape[3]) != (len(key), key.shape[2]):
        return _few_queries(query, key, value, bias)
    parts = []
    for ((first, end, width), keys), (_, values) in zip(found.parts(key), found.parts(value), strict=True):
        parts.append(_few_queries(query[first:end], keys, values, bias[first:end, ..., :width]))
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _few_queries(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """`short_attention` of scaled queries."""
    batch, heads, length, size = query.shape
    groups, keys = key.shape[1:3]
    scores = torch.bmm(query.reshape(batch * groups, -1, size), key.reshape(batch * groups, keys, size).transpose(1, 2))
    if bias is not None:
        scores.view(batch, heads, length, keys).add_(bias)
    output = torch.bmm(scores.softmax(-1), value.reshape(batch * groups, keys, -1))
    return output.view(batch, heads, length, -1).transpose(1, 2)
