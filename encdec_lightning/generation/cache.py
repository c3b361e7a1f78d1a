"""The key-value cache of a search: keys of a source once, and nothing that a beam keeps is moved.

A source's K beams are K queries over one row of keys. The keys of the target stay in the column where they were first
written; a table says which columns are the past of which beam (`search.py`), and reordering beams is reordering that
table, a few numbers a beam instead of all its keys and values. So every key is held once, whatever beams share it.

Columns of self-attention, for a source read as a prefix of S tokens (beside an encoder S is 0) and a target of at most
T tokens: `[S of the prefix, right-aligned | start | K of token 1 | K of token 2 | ... | K of token T - 1]`. At first
there are columns for `FIRST_STEPS` tokens, and twice as many whenever they are full: few texts are as long as they may
be.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import EncoderDecoderCache
from transformers.cache_utils import Cache, CacheLayerMixin

FIRST_STEPS = 64
"""Tokens of a target for which there is room before its length is known."""


class SharedCache(EncoderDecoderCache):  # type: ignore[misc]
    """Self-attention and cross-attention of at most N sources with K beams each, which come and go.

    After `admit` a forward pass is one over new sources alone, (M, 1) start tokens or (M, S + 1) with their prefixes;
    or packed, (1, M) start tokens beside (1, N) tokens of sources.
    After `advance` it is one over a token of each beam of the first n sources, (n, K) tokens.
    """

    def __init__(self, layers: int, sources: int, beams: int, max_length: int) -> None:
        self.sources, self.beams, self.slots = sources, beams, 1 + beams * (max_length - 1)
        self.new: Tensor | None = None
        """The places of new sources, (M,); none in a step."""
        self.scattered: tuple[Tensor, Tensor] | None = None
        """Of packed sources: the place and the column of each of their tokens, (N,) each."""
        self.prefix = 0
        """Columns kept for sources read as prefixes."""
        self.active = self.source_width = self.steps = 0
        """Of the forward pass: sources, columns of the longest source, tokens of the longest target after its start."""
        self.first_slot: int | Tensor = 0
        """Where the token of each source's first beam is written, after its prefix: (n, 1) if not all at the same."""
        own = [SelfLayer(self) for _ in range(layers)]
        cross = [CrossLayer(self) for _ in range(layers)]
        super().__init__(Cache(layers=own), Cache(layers=cross))
        self._cross_is_there = dict.fromkeys(range(layers), True)

    is_updated: dict[int, bool]

    def admit(self, places: Tensor, prefix: int, packed: Tensor | None = None) -> None:
        """The next forward pass is one over new sources for the places (M,), with prefixes of so many columns.

        If it is a packed one, `packed` (M,) are the lengths of the sources.
        """
        self.new, self.is_updated, self.scattered = places, {}, None
        if packed is not None:
            firsts = (packed.cumsum(0) - packed).repeat_interleave(packed)
            columns = torch.arange(len(firsts), device=places.device) - firsts
            self.scattered = places.repeat_interleave(packed), columns
        missing, self.prefix = max(0, prefix - self.prefix), max(prefix, self.prefix)
        for layer in self.self_attention_cache.layers:
            layer.widen(missing, 0)

    def advance(self, active: int, source_width: int, steps: int, first_slot: int | Tensor) -> None:
        """The next forward pass is one over a token of each beam of the first `active` sources."""
        self.new, self.is_updated = None, self._cross_is_there
        self.active, self.source_width, self.steps, self.first_slot = active, source_width, steps, first_slot
        for layer in self.cross_attention_cache.layers:
            layer.show()

    @property
    def source_keys(self) -> list[Tensor]:
        """The keys of cross-attention, of each layer."""
        return [layer.stored_keys for layer in self.cross_attention_cache.layers if layer.is_initialized]

    def move(self, into: Tensor, out_of: Tensor) -> None:
        """The sources of the places `out_of` (M,) go into the places `into`."""
        for layer in (*self.self_attention_cache.layers, *self.cross_attention_cache.layers):
            if layer.is_initialized:
                for stored in (layer.stored_keys, layer.stored_values):
                    stored[into] = stored[out_of]


class SharedLayer(CacheLayerMixin):  # type: ignore[misc]
    """What both kinds of layers do: keep (N, G, C, D) keys and values, with room for more columns."""

    stored_keys: Tensor
    stored_values: Tensor
    is_sliding = False

    def __init__(self, cache: SharedCache) -> None:
        super().__init__()
        self._cache = weakref.ref(cache)  # which has the layers: nothing waits for Python's search for cycles

    @property
    def cache(self) -> SharedCache:
        """Whose layer it is."""
        cache = self._cache()
        assert cache is not None
        return cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for states like these."""
        self.dtype, self.device = key_states.dtype, key_states.device
        shapes = [(self.cache.sources, each.shape[1], self.room, each.shape[3]) for each in (key_states, value_states)]
        self.stored_keys, self.stored_values = (key_states.new_zeros(shape) for shape in shapes)
        self.is_initialized = True

    @property
    def room(self) -> int:
        """Columns to allocate."""
        return 0

    def widen(self, before: int, after: int) -> None:
        """Add columns."""
        if self.is_initialized and before + after > 0:
            self.stored_keys = functional.pad(self.stored_keys, (0, 0, before, after))
            self.stored_values = functional.pad(self.stored_values, (0, 0, before, after))

    def get_max_length(self) -> int:
        """No maximum that transformers should see."""
        return -1


class SelfLayer(SharedLayer):
    """The past of the target, and of a source that is its prefix."""

    @property
    def room(self) -> int:
        """Prefix and the first tokens of the target."""
        return self.cache.prefix + min(self.cache.slots, 1 + self.cache.beams * FIRST_STEPS)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write what is new, and give what is attended to.

        New are (M, G, S + 1, D) of new sources, (1, G, M, D) of packed ones, or a token of each beam, (n, G, K, D).
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache = self.cache
        if cache.new is not None:
            for stored, states in ((self.stored_keys, key_states), (self.stored_values, value_states)):
                new = states if cache.scattered is None else states.transpose(0, 2)
                stored[cache.new, :, cache.prefix + 1 - new.shape[2] : cache.prefix + 1] = new
            return key_states, value_states
        end, there = cache.prefix + 1 + cache.beams * cache.steps, self.stored_keys.shape[2]
        if end > there:
            self.widen(0, min(max(end, 2 * there - cache.prefix), cache.prefix + cache.slots) - there)
        self._write(self.stored_keys, key_states)
        self._write(self.stored_values, value_states)
        columns = slice(cache.prefix - min(cache.prefix, cache.source_width), end)
        return self.stored_keys[: cache.active, :, columns], self.stored_values[: cache.active, :, columns]

    def _write(self, stored: Tensor, states: Tensor) -> None:
        """States (n, G, K, D) into the columns of this step."""
        active, beams = self.cache.active, self.cache.beams
        first = self.cache.prefix + self.cache.first_slot
        if isinstance(first, int):
            stored[:active, :, first : first + beams] = states
        else:
            sources = torch.arange(active, device=states.device)[:, None]
            stored[sources, :, first + torch.arange(beams, device=states.device)] = states.transpose(1, 2)

    def get_seq_length(self) -> int:
        """How long the longest target is; positions are given to decoders."""
        return 0 if self.cache.new is not None else self.cache.steps

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Asked for new sources only: targets under way come with their mask."""
        return query_length, 0


class CrossLayer(SharedLayer):
    """The source, as its encoder left it."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the keys and values of new sources, (M, G, S, D) or packed (1, G, N, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        scattered = self.cache.scattered
        width = key_states.shape[2] if scattered is None else int(scattered[1].max()) + 1
        self.widen(0, max(0, width - self.stored_keys.shape[2]))
        for stored, states in ((self.stored_keys, key_states), (self.stored_values, value_states)):
            if scattered is None:
                stored[self.cache.new, :, :width] = states
            else:
                stored[scattered[0], :, scattered[1]] = states[0].transpose(0, 1)
        return key_states, value_states

    def show(self) -> None:
        """Make `keys` and `values`, which decoders read, those of the active sources."""
        if self.is_initialized:
            shown = slice(0, self.cache.active), slice(None), slice(0, self.cache.source_width)
            self.keys, self.values = self.stored_keys[shown], self.stored_values[shown]

    def get_seq_length(self) -> int:
        """Columns shown."""
        return 0 if self.keys is None else int(self.keys.shape[2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As transformers' own layers."""
        return self.get_seq_length() + query_length, 0
