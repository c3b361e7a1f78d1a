"""`SentenceHead`: what scores the sentences of a document, given a state of each (Liu & Lapata, 2019, section 3.1)."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

HEADS, INNER, EPSILON = 8, 2048, 1e-6
"""Attention heads, the width of the feed-forward part, and the layer norms' epsilon, as in the released code."""


class SentenceHead(nn.Module):
    """Layers of a Transformer between sentences, a layer norm, and a linear layer: a score for each sentence.

    Norms come before attention and the feed-forward part, as in the released code; the first layer has none before its
    attention, for that code never uses the one that it has.
    """

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_layer(width, dropout) for _ in range(layers))
        if layers:
            self.layers[0].norm1 = nn.Identity()
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.score = nn.Linear(width, 1)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                for part in parameter.chunk(parameter.shape[0] // width if parameter.shape[0] == 3 * width else 1):
                    nn.init.xavier_uniform_(part)  # queries, keys and values have a matrix each

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, N) of sentences that are in an extract, from states (B, N, H); `mask` (B, N) is true where one is.

        A document without a sentence has logits too, which mean nothing.
        """
        positions = sinusoids(states.shape[1], states.shape[2], states.device).to(states.dtype)
        hidden = torch.where(mask[..., None], states, 0) + positions
        seen = mask.clone()
        seen[:, 0] = True  # attention that sees nothing is not a number
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=~seen)
        scores: Tensor = self.score(self.norm(hidden))
        return scores[..., 0]


def sinusoids(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """Positions (length, width) of Vaswani et al. (2017), section 3.5: a sine and a cosine in turn."""
    pairs = torch.arange(0, width, 2, dtype=torch.float32, device=device)  # whatever torch's default is
    rates = torch.exp(pairs * (-math.log(10_000) / width))
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]


def _layer(width: int, dropout: float) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        width,
        HEADS,
        INNER,
        dropout,
        activation=functools.partial(functional.gelu, approximate="tanh"),
        layer_norm_eps=EPSILON,
        batch_first=True,
        norm_first=True,
    )
