"""Segments of a source's tokens, which tell its sentences apart (Liu & Lapata, 2019, section 3.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig


def with_segments(config: PretrainedConfig, ids: Tensor | None, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call, with the segments of its source (B, S) if the model has them and none are given."""
    intervals = config.composition.get("encoder_segments", "first") == "interval"
    if not intervals or given.get("token_type_ids") is not None:
        return given
    if ids is None:
        raise ValueError("segments follow from input_ids: give these, or token_type_ids beside inputs_embeds")
    end = getattr(config, "sentence_end_id", None)
    if end is None and not ids.is_meta:  # ids of the meta device have sizes alone
        raise ValueError("the model does not know which token ends a sentence: call tokenizers.configure(model)")
    segments = interval_segments(ids, -1 if end is None else end, given.get("position_ids"))
    return {**given, "token_type_ids": segments}


def interval_segments(ids: Tensor, end: int, positions: Tensor | None = None) -> Tensor:
    """Segments 0 and 1 in turn (B, S), sentence by sentence; `end` is the token that ends one (Liu & Lapata, 3.1).

    With `positions` (B, S) examples may lie side by side in a row: one begins, with segment 0, where a position does
    not follow the one before. Families count from 0 or from a number above their padding token.
    """
    ended = (ids == end).long()
    before = ended.cumsum(1) - ended
    if positions is not None:
        begins = torch.ones_like(positions)
        begins[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
        first = begins.cumsum(1) - 1  # the number of a token's example in its row
        starts = torch.zeros_like(before).scatter_reduce_(1, first, before, "amin", include_self=False)
        before = before - starts.gather(1, first)
    return before % 2
