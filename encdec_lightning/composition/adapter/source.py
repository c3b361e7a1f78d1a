"""The source that a forward pass reads: the encoder's states, their mask, and the cache of what was made of them."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor
from transformers import EncoderDecoderCache, PretrainedConfig
from transformers.masking_utils import create_bidirectional_mask


@dataclass
class Source:
    """What cross-attention reads."""

    states: Tensor
    """(B, S, E); asked for and not read where the cache is filled."""
    mask: Tensor | None
    """(B, S), 1 at real tokens; or as attention takes it, (B, 1, T, S)."""
    cache: EncoderDecoderCache | None
    _prepared: list[Tensor | None] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """B."""
        return len(self.states)

    def mask_for(self, config: PretrainedConfig, hidden: Tensor) -> Tensor | None:
        """The mask as the attention of `config` takes it, for queries that are made of hidden states (B, T, H)."""
        if self.mask is not None and self.mask.dim() == 4:
            return self.mask
        if not self._prepared:
            made = create_bidirectional_mask(
                config=config, inputs_embeds=hidden, attention_mask=self.mask, encoder_hidden_states=self.states
            )
            self._prepared.append(made)
        return self._prepared[0]

    def keys_and_values(self, layer: int, make: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """A layer's keys and values (B, G, S, D): of the cache, or made of the states, which then fill it."""
        if self.cache is None:
            return make(self.states)
        stored = self.cache.cross_attention_cache
        if not self.cache.is_updated.get(layer):
            keys, values = stored.update(*make(self.states), layer)
            self.cache.is_updated[layer] = True
            return keys, values
        return stored.layers[layer].keys, stored.layers[layer].values


current: ContextVar[Source | None] = ContextVar("current", default=None)
"""The source of the forward pass that is running; a layer takes it when it is called."""
