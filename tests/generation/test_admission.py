"""Which sources the engine reads together."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from encdec_lightning.generation.engine import ENOUGH, READ_AT_ONCE, SIMILAR, _by_length


@given(st.lists(st.integers(1, 3000), max_size=60), st.booleans())
def test_sources_are_read_longest_first_and_padded_little(lengths: list[int], padded: bool) -> None:
    sources = [(number, torch.empty(length)) for number, length in enumerate(lengths)]
    groups = [[len(ids) for _, ids in group] for group in _by_length(sources, padded)]
    assert [number for group in groups for number in group] == sorted(lengths, reverse=True)
    for group, after in itertools.pairwise([*groups, []]):
        read = [group[0] if padded else number for number in group]
        assert sum(read) <= READ_AT_ONCE or len(group) == 1
        if padded:
            so_far = list(itertools.accumulate(read))
            beyond = [number for number, tokens in zip(group, so_far, strict=True) if tokens > ENOUGH]
            assert len(group) == 1 or all(number >= SIMILAR * group[0] for number in beyond)
        elif after:
            assert sum(group) + after[0] > READ_AT_ONCE  # as many as there is room for
