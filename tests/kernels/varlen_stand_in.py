"""What torch's `varlen_attn` computes, for a processor: attention within each sequence, one mask for all of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def varlen_attn(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
    scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
) -> Tensor:  # fmt: skip
    """Queries (N, H, D), keys and values (M, H, D) to (N, H, D); sequence i is from `cu_seq[i]` to `cu_seq[i + 1]`.

    With a window of (-1, 0) a query sees the keys up to its own, counted from the ends of both sequences.
    """
    assert query.shape[1] == key.shape[1] == value.shape[1]
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    (of_query, from_end), (of_key, key_from_end) = (
        _places(cu_seq, len(each)) for cu_seq, each in ((cu_seq_q, query), (cu_seq_k, key))
    )
    sees = of_query[:, None] == of_key
    if window_size == (-1, 0):
        sees = sees & (from_end[:, None] <= key_from_end)
    rows = (each.transpose(0, 1)[None] for each in (query, key, value))
    output = functional.scaled_dot_product_attention(*rows, attn_mask=sees, scale=scale)
    return output[0].transpose(0, 1)


def _places(cu_seq: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Which sequence each token belongs to, (tokens,), and how far it is from its end."""
    numbers = torch.arange(tokens, device=cu_seq.device)
    sequence = (numbers[:, None] >= cu_seq[1:]).sum(1)
    return sequence, cu_seq[1:].index_select(0, sequence) - numbers
