"""A decoder layer that reads the source, made of one that does not by changing its class; its code runs as it is.

Three ways: between self-attention and the feed-forward part, after the whole layer, or in self-attention itself
(`merged`), whose softmax then goes over the target's keys and the source's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from encdec_lightning.composition.adapter.cross_attention import CrossAttention
from encdec_lightning.composition.adapter.merged import Merged, MergedCache, merged_mask
from encdec_lightning.composition.adapter.source import Source, current


def add_between(layer: nn.Module, between: str, cross_attention: CrossAttention) -> None:
    """Let a layer add cross-attention to its states before its module `between` reads them."""
    layer.cross_attention = cross_attention
    vars(layer)["between"] = between
    _change(layer, _Between)


def add_after(layer: nn.Module, cross_attention: CrossAttention) -> None:
    """Let a layer add cross-attention to what it gives."""
    layer.cross_attention = cross_attention
    _change(layer, _After)


def add_merged(layer: nn.Module, merged: Merged) -> None:
    """Let a layer's self-attention read the source as well."""
    vars(layer)["merged"] = merged
    _change(layer, _Merged)


def _change(module: Any, way: Any) -> None:
    """Let a module be of a class that does what its own does, and reads the source in a way."""
    kind: Any = type(module)
    module.__class__ = _class(kind, way)


@cache
def _class(kind: Any, way: Any) -> Any:
    """Both classes as one, whose name stays that of the first, by which it is known to others."""
    return type(kind.__name__, (way, kind), {"__module__": __name__, "kind": kind})


class _Reading:
    """A layer that hands the source of the forward pass that is running to its own forward.

    So it is an argument, which comes again where activations are computed again in the backward pass. Its states are
    the last argument by position, for there reentrant checkpointing looks for what has a gradient.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        source = current.get()
        if source is None:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        source.prepare(args[0])
        return super().__call__(*args, source.states, source=source, **kwargs)  # type: ignore[misc]


class _Between(_Reading):
    def forward(self: Any, *args: Any, source: Source | None = None, **kwargs: Any) -> Any:
        if source is None:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        *own, states = args
        return _Within(self, source.with_states(states)).forward(*own, **kwargs)


class _Within:
    """A layer for one call, in which what reads its states is another: cross-attention is added to them before.

    An object of its own for each call, so that threads can share the layer, checkpointing can run it again, and dynamo
    can follow, which it cannot where a module or a context variable is changed.
    """

    def __init__(self, layer: Any, source: Source) -> None:
        def read(states: Tensor) -> Any:
            """States (B, T, H), or (B * T, H)."""
            rows = states if states.dim() == 3 else states.view(source.rows, -1, states.shape[-1])
            # The layer has these states at hand as its residual as well, so that they change in place. What
            # cross-attention keeps for its gradient must not.
            rows = rows.clone() if torch.is_grad_enabled() else rows
            states.add_(layer.cross_attention(rows, source).view_as(states))
            return getattr(layer, layer.between)(states)

        self._layer = layer
        setattr(self, layer.between, read)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own code."""
        return self._layer.kind.forward(self, *args, **kwargs)


class _After(_Reading):
    def forward(self: Any, *args: Any, source: Source | None = None, **kwargs: Any) -> Any:
        if source is None:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        *own, read = args
        output = super().forward(*own, **kwargs)  # type: ignore[misc]
        states = output[0] if isinstance(output, tuple) else output
        states = states + self.cross_attention(states, source.with_states(read))
        return (states, *output[1:]) if isinstance(output, tuple) else states


class _Merged(_Reading):
    def forward(self: Any, *args: Any, source: Source | None = None, **kwargs: Any) -> Any:
        if source is None:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        *given, read = args
        own, states = kwargs.get("past_key_values"), given[0]
        keys_and_values = source.with_states(read).keys_and_values(self.merged.number, self.merged.maker(self))
        kwargs["attention_mask"] = merged_mask(
            kwargs.get("attention_mask"), source.prepared, states, own,
            self.merged.number, keys_and_values[0].shape[2],
        )  # fmt: skip
        kwargs["past_key_values"] = MergedCache(own, *keys_and_values)
        return super().forward(*given, **kwargs)  # type: ignore[misc]
