"""The attention function that composed models run, registered with transformers as `encdec`.

In training on CPU the scores are kept: at the lengths of sentences and paragraphs that is several times faster than the
kernels of `scaled_dot_product_attention`, whose forward draws dropout serially and whose backward runs row by row.
So they are for the few queries of a step of generation. Elsewhere it is transformers' `sdpa`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from encdec_lightning.kernels.noise import dropout_noise

NAME = "encdec"
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
    if (
        query.device.type == "cpu"
        and not torch.is_grad_enabled()
        and query.shape[2] <= SHORT
        and attention_mask is not None
        and attention_mask.is_floating_point()
        and position_bias is None
        and not any(kwargs.get(each) for each in NOT_HERE)
    ):
        return short_attention(query, key, value, attention_mask, scaling), None
    if query.device.type != "cpu" or not torch.is_grad_enabled() or any(kwargs.get(each) for each in NOT_HERE):
        kwargs |= {"is_causal": is_causal, "position_bias": position_bias}
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
        return output, None
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
        lowest = torch.finfo(query.dtype).min
        if position_bias is None:
            bias = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill_(~attention_mask, lowest)
        else:
            bias = torch.where(attention_mask, position_bias, lowest)
    elif position_bias is not None:
        bias = position_bias if attention_mask is None else position_bias + attention_mask
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return KeptScores.apply(query, key, value, bias, scale, dropout), None


def short_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float | None = None
) -> Tensor:
    """A few queries (B, H, S, D) over many keys (B, G, T, D), without gradients, to (B, S, H, D).

    The bias is added and broadcasts to (B, H, S, T). Two matrix products a head: on CPU several times faster than
    `scaled_dot_product_attention` at a handful of queries, above all in bf16.
    """
    batch, heads, length, size = query.shape
    groups, keys = key.shape[1:3]
    scale = size**-0.5 if scaling is None else scaling
    query = (query * scale).reshape(batch * groups, -1, size)
    scores = torch.bmm(query, key.reshape(batch * groups, keys, size).transpose(1, 2))
    if bias is not None:
        scores.view(batch, heads, length, keys).add_(bias)
    output = torch.bmm(scores.softmax(-1), value.reshape(batch * groups, keys, -1))
    return output.view(batch, heads, length, -1).transpose(1, 2)


class KeptScores(torch.autograd.Function):
    """softmax(scale * q k^T + bias) v with dropout on the probabilities, all of them kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float, p: float
    ) -> Tensor:
        """(B, H, S, D), (B, H, T, D) twice, bias broadcasting to (B, H, S, T) -> (B, S, H, D)."""
        batch, heads, length, size = query.shape
        keys = key.shape[2]
        query = (query * scale).reshape(batch * heads, length, size)
        key = key.reshape(batch * heads, keys, size)
        value = value.reshape(batch * heads, keys, value.shape[-1])
        scores = torch.bmm(query, key.transpose(1, 2))
        if bias is not None:
            scores.view(batch, heads, length, keys).add_(bias)
        probabilities = torch.softmax(scores, dim=-1)
        del scores
        noise = dropout_noise(probabilities.shape, probabilities.dtype, p) if p else None
        output = torch.bmm(probabilities if noise is None else probabilities * noise, value)
        ctx.save_for_backward(query, key, value, probabilities, noise)
        ctx.scale, ctx.bias_shape = scale, None if bias is None else bias.shape
        return output.view(batch, heads, length, -1).transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of query, key, value and, where it is learnt, of the bias."""
        query, key, value, probabilities, noise = ctx.saved_tensors
        batch, length, heads, _ = gradient.shape
        gradient = gradient.transpose(1, 2).reshape(batch * heads, length, -1)
        of_probabilities = torch.bmm(gradient, value.transpose(1, 2))
        dropped = probabilities
        if noise is not None:
            dropped = probabilities * noise
            of_probabilities.mul_(noise)
        of_value = torch.bmm(dropped.transpose(1, 2), gradient)
        of_scores = torch._softmax_backward_data(of_probabilities, probabilities, -1, probabilities.dtype)
        of_query = torch.bmm(of_scores, key).mul_(ctx.scale)
        of_key = torch.bmm(of_scores.transpose(1, 2), query)
        by_head = [each.view(batch, heads, *each.shape[1:]) for each in (of_query, of_key, of_value)]
        of_bias = None
        if ctx.needs_input_grad[3]:
            of_bias = of_scores.view(batch, heads, *of_scores.shape[1:]).sum_to_size(ctx.bias_shape)
        return *by_head, of_bias, None, None


def use_attention(model: PreTrainedModel) -> None:
    """Choose `attention` wherever a module of `model` runs transformers' `sdpa`; others stay as they are."""
    for part in model.modules():
        if not isinstance(part, PreTrainedModel) or not part._supports_attention_backend:
            continue
        for module in part.modules():
            config = getattr(module, "config", None)
            if config is None or config.sub_configs:
                continue  # setting it in one of several parts sets it in all, whatever they run
            if config._attn_implementation == "sdpa":
                config._attn_implementation = NAME


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
