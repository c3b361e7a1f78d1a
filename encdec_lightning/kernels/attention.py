"""The attention function that composed models run, registered with transformers as `encdec`.

In training on CPU the scores are kept: at the lengths of sentences and paragraphs that is several times faster than the
kernels of `scaled_dot_product_attention`, whose forward draws dropout serially and whose backward runs row by row.
So a kernel of its own answers the few queries of a step of generation. Elsewhere, and for dropout outside gradients, it
is transformers' `sdpa`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from encdec_lightning.kernels.first_derivative import first_derivative_only
from encdec_lightning.kernels.noise import DropoutBits, dropout_noise, passing_bits
from encdec_lightning.kernels.packing import Group, Packing, active
from encdec_lightning.kernels.self_check import self_check
from encdec_lightning.kernels.short_attention import lowest, short_attention, within_reach
from encdec_lightning.kernels.varlen import packed_varlen

SHORT = 16  # queries; more of them are transformers' to answer
NOT_HERE = ("softcap", "output_attentions", "cache")  # arguments that only transformers' function answers


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Queries (B, H, S, D), keys and values (B, G, T, D) to (B, S, H, D); G divides H.

    The mask broadcasts to (B, H, S, T): true where a query sees a key, or a number to add to the score, as the position
    bias is, which may be learnt.
    """
    packing = active()
    if packing is not None:
        return packed_attention(module, query, key, value, packing, dropout, scaling, is_causal), None
    if (
        query.device.type == "cpu"
        and not torch.is_grad_enabled()
        and query.shape[2] <= SHORT
        and not dropout
        and attention_mask is not None
        and attention_mask.is_floating_point()
        and position_bias is None
        and not any(kwargs.get(each) for each in NOT_HERE)
    ):
        return short_attention(query, key, value, attention_mask, scaling), None
    if query.device.type != "cpu" or not torch.is_grad_enabled() or any(kwargs.get(each) for each in NOT_HERE):
        kwargs |= {"is_causal": is_causal, "position_bias": position_bias}
        theirs, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
        return theirs, None
    if torch.is_autocast_enabled("cpu"):  # as it does for sdpa; the backward pass has one dtype too
        query, key, value = (each.to(torch.get_autocast_dtype("cpu")) for each in (query, key, value))
    if key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if attention_mask is None and query.shape[2] > 1:
        if is_causal is None:
            is_causal = getattr(module, "is_causal", True)
        if is_causal:
            attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    bias = attention_mask
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        if position_bias is None:
            bias = _hiding(~attention_mask, query.dtype)
        else:
            bias = torch.where(attention_mask, position_bias, lowest(query.dtype))
    elif position_bias is not None:
        bias = position_bias if attention_mask is None else position_bias + attention_mask
    scale, bias = query.shape[-1] ** -0.5 if scaling is None else scaling, within_reach(bias, query.dtype)
    with torch.autocast("cpu", enabled=False):
        output: Tensor = KeptScores.apply(query, key, value, bias, scale, dropout)  # type: ignore[no-untyped-call]
    return output, None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    dropout: float,
    scaling: float | None,
    is_causal: bool | None,
) -> Tensor:
    """`attention` within each example of a single row: (1, H, N, D) and (1, H, M, D) twice to (1, N, H, D)."""
    _, heads, tokens, size = query.shape
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    is_causal = is_causal and tokens == key.shape[2]
    if query.device.type != "cpu":
        assert not dropout
        return packed_varlen(query, key, value, packing, scaling, is_causal)
    if key.shape[1] != heads:
        key, value = (each.repeat_interleave(heads // each.shape[1], dim=1) for each in (key, value))
    groups = packing.groups(tokens, key.shape[2], heads)
    scale = size**-0.5 if scaling is None else scaling
    rows = (each.transpose(1, 2).reshape(-1, each.shape[-1]) for each in (query, key, value))
    output: Tensor = PackedScores.apply(*rows, groups, is_causal, scale, dropout, packing.bits)  # type: ignore[no-untyped-call]
    return output.view(1, tokens, heads, -1)


class KeptScores(torch.autograd.Function):
    """softmax(scale * q k^T + bias) v with dropout on the probabilities, all of them kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float, p: float
    ) -> Tensor:
        """(B, H, S, D), (B, H, T, D) twice, bias broadcasting to (B, H, S, T) -> (B, S, H, D)."""
        batch, heads, length, size = query.shape
        query = (query * scale).reshape(batch * heads, length, size)
        key, value = (each.reshape(batch * heads, -1, each.shape[-1]) for each in (key, value))
        probabilities = _probabilities(query, key, bias, heads)
        dropped, passing = _dropped(probabilities, p, None)
        output = torch.bmm(dropped, value)
        ctx.save_for_backward(query, key, value, probabilities, passing)
        ctx.p, ctx.scale, ctx.bias_shape = p, scale, None if bias is None else bias.shape
        return output.view(batch, heads, length, -1).transpose(1, 2).contiguous().data  # no view of another tensor

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of query, key, value and, where it is learnt, of the bias."""
        batch, length, heads, _ = gradient.shape
        gradient = gradient.transpose(1, 2).reshape(batch * heads, length, -1)
        of_query, of_key, of_value, of_scores = _backward(gradient, ctx.p, *ctx.saved_tensors)
        by_head = [each.view(batch, heads, *each.shape[1:]) for each in (of_query.mul_(ctx.scale), of_key, of_value)]
        of_bias = None
        if ctx.needs_input_grad[3]:
            of_bias = of_scores.view(batch, heads, *of_scores.shape[1:]).sum_to_size(ctx.bias_shape)
        return *by_head, of_bias, None, None


class PackedScores(torch.autograd.Function):
    """The same within each example of a packed batch; the probabilities are computed again for the backward pass.

    At 200 tokens they would be a quarter of what a layer keeps, and the products that make them are small.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        groups: tuple[Group, ...],
        is_causal: bool,
        scale: float,
        p: float,
        bits: DropoutBits,
    ) -> Tensor:
        """(N * H, D), (M * H, D) twice -> (N * H, D)."""
        output, saved = torch.empty_like(query), []
        query = query * scale
        for group, q, k, v, out in zip(groups, *_split(groups, query, key, value, output), strict=True):
            parts = group.queries.pad(q), group.keys.pad(k), group.keys.pad(v)
            dropped, passing = _dropped(_within(group, parts[0], parts[1], is_causal), p, bits)
            group.queries.unpad(torch.bmm(dropped, parts[2]), out)
            saved += [*parts, passing]
        ctx.save_for_backward(*saved)
        ctx.groups, ctx.is_causal, ctx.p, ctx.scale, ctx.tokens = groups, is_causal, p, scale, len(key)
        return output

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of query, key and value."""
        of_query = torch.empty_like(gradient)
        of_key, of_value = (gradient.new_empty(ctx.tokens, gradient.shape[1]) for _ in range(2))
        outs = _split(ctx.groups, of_query, of_key, of_value, gradient)
        saved = iter(ctx.saved_tensors)
        for group, to_q, to_k, to_v, given in zip(ctx.groups, *outs, strict=True):
            q, k, v, passing = islice(saved, 4)
            probabilities = _within(group, q, k, ctx.is_causal)
            q, k, v, _ = _backward(group.queries.pad(given, clean=True), ctx.p, q, k, v, probabilities, passing)
            group.queries.unpad(q, to_q)
            group.keys.unpad(k, to_k)
            group.keys.unpad(v, to_v)
        return of_query.mul_(ctx.scale), of_key, of_value, *[None] * 5


def _split(groups: tuple[Group, ...], query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Iterator[Any]:
    """Each group's rows of each."""
    queries = [len(group.queries.to_packed) for group in groups]
    keys = [len(group.keys.to_packed) for group in groups]
    return (each.split(sizes) for each, sizes in ((query, queries), (key, keys), (value, keys), (output, queries)))


def _probabilities(query: Tensor, key: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """(BH, S, T) of scaled queries (BH, S, D) and keys (BH, T, D)."""
    scores = torch.bmm(query, key.transpose(1, 2))
    if bias is not None:
        scores.unflatten(0, (-1, heads)).add_(bias)
    return torch.softmax(scores, dim=-1)


def _within(group: Group, query: Tensor, key: Tensor, is_causal: bool) -> Tensor:
    """The probabilities of a group of examples."""
    hiding = _hiding(_future(query, key) if is_causal else group.hidden, query.dtype)
    if hiding is None:
        scores = torch.bmm(query, key.transpose(1, 2))
    else:
        scores = torch.baddbmm(hiding.expand(len(query), query.shape[1], -1), query, key.transpose(1, 2))
    return torch.softmax(scores, dim=-1)


def _backward(
    gradient: Tensor,
    p: float,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    probabilities: Tensor,
    passing: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of scaled queries, keys, values and scores."""
    of_probabilities = torch.bmm(gradient, value.transpose(1, 2))
    if passing is None:
        of_value = torch.bmm(probabilities.transpose(1, 2), gradient)
    else:
        noise = dropout_noise(passing, p, probabilities.shape, probabilities.dtype)
        of_probabilities.mul_(noise)
        of_value = torch.bmm(noise.mul_(probabilities).transpose(1, 2), gradient)
    of_scores = _of_scores(of_probabilities, probabilities)
    return torch.bmm(of_scores, key), torch.bmm(of_scores.transpose(1, 2), query), of_value, of_scores


def _of_scores(gradient: Tensor, probabilities: Tensor) -> Tensor:
    """The gradient of what the softmax was given, from that of the probabilities."""
    if not torch.compiler.is_compiling() and softmax_gradient_is_exact():
        return torch._softmax_backward_data(gradient, probabilities, -1, probabilities.dtype)
    precise = torch.promote_types(gradient.dtype, torch.float32)
    weighted = gradient.to(precise) * probabilities
    return (weighted - probabilities * weighted.sum(-1, keepdim=True)).to(probabilities.dtype)


@self_check("torch's gradient of the softmax", "a formula runs")
def softmax_gradient_is_exact() -> bool:
    """Whether the private operator computes it, on halves and quarters."""
    probabilities, gradient, expected = torch.tensor([[0.5, 0.25, 0.25], [4, 8, -8], [1, 1.5, -2.5]]).split(1)
    found = torch._softmax_backward_data(gradient, probabilities, -1, probabilities.dtype)
    return torch.equal(found, expected)


def _dropped(probabilities: Tensor, p: float, bits: DropoutBits | None) -> tuple[Tensor, Tensor | None]:
    """Dropout of probabilities, and which of them passed."""
    if not p:
        return probabilities, None
    passing = passing_bits(probabilities.numel(), p, bits)
    return dropout_noise(passing, p, probabilities.shape, probabilities.dtype).mul_(probabilities), passing


def _future(query: Tensor, key: Tensor) -> Tensor:
    """(S, T), true at keys after the query, padding on the right among them."""
    return torch.ones(query.shape[1], key.shape[1], dtype=torch.bool).triu(1)


def _hiding(hidden: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What is added to scores."""
    if hidden is None:
        return None
    return torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, lowest(dtype))
