"""Where a family's decoder layers can take cross-attention, told in names of their modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
