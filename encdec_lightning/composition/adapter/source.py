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
    config: PretrainedConfig
    """The decoder's, which says what attention takes its masks."""
    _prepared: list[Tensor | None] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """B."""
        return len(self.states)

    def with_states(self, states: Tensor) -> Source:
        """The same, with these states (B, S, E)."""
        return Source(states, self.mask, self.cache, self.config, self._prepared)

    def prepare(self, hidden: Tensor) -> None:
        """Make the mask as attention takes it, once, for queries that are made of hidden states (B, T, H)."""
        if self._prepared:
            return
        made = self.mask
        if made is None or made.dim() != 4:
            made = create_bidirectional_mask(
                config=self.config, inputs_embeds=hidden, attention_mask=self.mask, encoder_hidden_states=self.states
            )
        self._prepared.append(made)

    @property
    def prepared(self) -> Tensor | None:
        """The mask as attention takes it; None: all is seen."""
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
