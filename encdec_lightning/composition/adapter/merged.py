"""Merged attention (T5Gemma 2, Zhang et al., 2025): self-attention's own projections, over target and source.

The keys are the target's, then the source's; one softmax goes over both. The source's have no positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from encdec_lightning.composition.adapter.cross_attention import in_heads
from encdec_lightning.composition.layout import Layout
from encdec_lightning.kernels.attention_interface import head_size


@dataclass(frozen=True)
class Merged:
    """How a layer makes keys and values of a source."""

    config: PretrainedConfig
    layout: Layout
    number: int

    def projections(self, layer: nn.Module) -> tuple[nn.Module, nn.Module]:
        """The layer's projections that make keys and values, of the target and of the source."""
        own = getattr(layer, self.layout.attention)
        _, keys, values = self.layout.queries_keys_values.split()
        return getattr(own, keys), getattr(own, values)

    def maker(self, layer: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """From states (B, S, H) to keys and values (B, G, S, D), by the layer's own self-attention."""
        own, (keys, values) = getattr(layer, self.layout.attention), self.projections(layer)
        size = head_size(self.config)
        norm = getattr(own, self.layout.norms[1], None)
        return lambda states: (in_heads(keys(states), size, norm), in_heads(values(states), size))


class MergedCache:
    """A layer's cache, or none, whose every update ends with the keys and values of the source."""

    def __init__(self, own: Any, keys: Tensor, values: Tensor) -> None:
        """Keys and values (B, G, S, D)."""
        self.own, self.of_source = own, (keys, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, T, D) of new tokens to those of all tokens and of the source, (B, G, K + S, D)."""
        if self.own is not None:
            keys, values = self.own.update(keys, values, *args, **kwargs)
        more = [each.to(keys.dtype) for each in self.of_source]
        return torch.cat([keys, more[0]], dim=2), torch.cat([values, more[1]], dim=2)


def merged_mask(
    own: Tensor | None, source: Tensor | None, states: Tensor, cache: Any, layer: int, width: int
) -> Tensor:
    """(B, 1, T, K + S), for states (B, T, H): true where a query sees a key, or a number to add to its score.

    `own` is for the K keys of the target: none, where each sees what came before it; `source` for the S = `width` of
    the source: none, where it is seen whole.
    """
    batch, queries = states.shape[:2]
    if own is None:
        keys = queries if cache is None else int(cache.get_mask_sizes(queries, layer)[0])
        own = torch.ones(queries, keys, dtype=torch.bool, device=states.device).tril(keys - queries)[None, None]
    if source is None:
        source = torch.ones(1, 1, 1, width, dtype=torch.bool, device=states.device)
    if own.dtype != source.dtype:
        own, source = (_added(each, states.dtype) for each in (own, source))
    sizes = max(batch, len(own), len(source)), 1, queries
    return torch.cat([each.expand(*sizes, -1) for each in (own, source)], dim=-1)


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as numbers that are added to scores."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
