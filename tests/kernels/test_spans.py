from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from encdec_lightning.kernels.short_attention import short_attention
from encdec_lightning.kernels.spans import ANOTHER_SPAN, Reading, Span, reading, reading_of, spans


@given(st.lists(st.integers(1, 400), max_size=80))
def test_spans_hold_every_row_once_and_waste_little(widths: list[int]) -> None:
    found = spans(widths)
    assert [row for span in found for row in range(span.first, span.end)] == list(range(len(widths)))
    for span in found:
        inside = widths[span.first : span.end]
        assert span.width == max(inside) and span.width * len(inside) - sum(inside) <= ANOTHER_SPAN


def test_spans_by_hand() -> None:
    assert ANOTHER_SPAN == 600
    assert spans([300] * 3 + [10] * 3) == (Span(0, 5, 300), Span(5, 6, 10))
    assert spans([1000, 1000, 10]) == (Span(0, 2, 1000), Span(2, 3, 10))
    assert spans([]) == ()


def test_attention_reads_the_spans_of_these_keys_alone() -> None:
    torch.manual_seed(0)
    widths = [900, 850, 100, 90, 5]
    query, key, value = torch.randn(5, 4, 3, 8), torch.randn(5, 2, 1000, 8), torch.randn(5, 2, 1000, 8)
    bias = torch.zeros(5, 1, 1, 1000)
    for row, width in enumerate(widths):
        bias[row, ..., width:] = torch.finfo(bias.dtype).min
    bias = bias.expand(-1, 1, 3, -1)
    expected = short_attention(query, key, value, bias)
    for row, width in enumerate(widths):  # what lies outside is not read
        key[row, :, max(width, 900 if row < 2 else 100) :] = torch.nan
    found = spans(widths)
    assert len(found) == 2
    known = Reading([key], found)
    with reading(known):
        assert reading_of(key) is known and reading_of(value) is None and reading_of(key[:4]) is None
        for _ in range(2):
            assert torch.allclose(short_attention(query, key, value, bias), expected, atol=1e-6)
        key.zero_()  # it has its copy
        assert torch.allclose(short_attention(query, key, value, bias), expected, atol=1e-6)
        key.fill_(torch.nan)
    assert reading_of(key) is None
    assert short_attention(query, key, value, bias).isnan().any()
