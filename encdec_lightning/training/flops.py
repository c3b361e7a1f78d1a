"""How much arithmetic a batch needs, and how much the device can do: their ratio is the model FLOPs utilization.

Chowdhery et al. 2022 (PaLM), appendix B: only what the model's mathematics needs counts, on real tokens; padding and
recomputation do not.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from encdec_lightning.composition.adapter.merged import Merged
from encdec_lightning.composition.architectures import depth
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.sides.cross_attention import reads_source
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.kernels.products import linear

FEW = 16  # rows of a small product
TOO_LONG = 10.0  # seconds of a large one


@dataclass(frozen=True)
class TrainingFlops:
    """Floating-point operations of forward and backward pass; a multiplication and an addition are two."""

    source_token: float
    target_token: float
    source_pair: float
    """For each pair of source tokens of an example: attention's two products."""
    target_pair: float
    """For each target token and one that it sees."""
    cross_pair: float
    """For each pair of a target and a source token."""

    def of(self, batch: Batch) -> float:
        """Of a batch of real tokens."""
        source, target = batch.lengths.astype(float).T
        products = (
            (self.source_token, source),
            (self.target_token, target),
            (self.source_pair, source**2),
            (self.target_pair, target * (target + 1) / 2),
            (self.cross_pair, target * source),
        )
        return float(sum(cost * count.sum() for cost, count in products))


def training_flops(model: ComposedModel) -> TrainingFlops:
    """What a model's training costs.

    A weight of a matrix and a token: 2 operations forward, 2 for the gradient of the weight if it is trained, 2 for
    that of its input where anything before is trained.
    """
    if model.scores_sentences:
        return _scoring_flops(model)
    trained = any(each.requires_grad for each in model.parameters())
    encoder_trained = not model.reads_prefix and any(each.requires_grad for each in model.encoder.parameters())
    beside = [each for name, each in model.named_parameters() if not name.startswith(("encoder.", "decoder."))]
    states_trained = encoder_trained or any(each.requires_grad for each in beside)
    decoder, from_source = _matrices(model.decoder, trained, states_trained)
    target_pair = _pairs(model.decoder, trained)
    if model.reads_prefix:  # the head reads target tokens alone
        head: Any = model.get_output_embeddings()
        prefix = decoder - _matrix(head.weight, trained)
        return TrainingFlops(prefix + target_pair / 2, decoder, target_pair / 2, target_pair, target_pair)
    encoder, _ = _matrices(model.encoder, encoder_trained, encoder_trained)
    projection = sum(_matrix(each, encoder_trained) for each in beside if each.ndim > 1)  # to the decoder's width
    cross_pair = target_pair * _reading(model.decoder) / depth(model.decoder.config)
    return TrainingFlops(
        encoder + projection + from_source, decoder, _pairs(model.encoder, encoder_trained), target_pair, cross_pair
    )


def _scoring_flops(model: ComposedModel) -> TrainingFlops:
    """Of an encoder and layers above it, whose tokens are sentences that all see one another."""
    trained = any(each.requires_grad for each in model.encoder.parameters())
    encoder, _ = _matrices(model.encoder, trained, trained)
    head, _ = _matrices(model.sentence_head, True, True)
    pair = float(4 * model.width * len(model.sentence_head.layers) * 3)
    return TrainingFlops(encoder, head, _pairs(model.encoder, trained), 2 * pair, 0.0)


def matrix_product_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """FLOP/s of large matrix products on a device: the best of those done in so many seconds.

    Where one of them would take too long, as in bf16 on a processor without instructions for it, small ones are done.
    """
    rows, inner, outer = (2048, 1024, 4096) if device.type == "cpu" else (8192, 8192, 8192)
    left, right = (torch.ones(shape, device=device, dtype=dtype) for shape in ((rows, inner), (inner, outer)))

    def took(count: int) -> float:
        started = time.perf_counter()
        linear(left[:count], right.t())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    if min(took(FEW), took(FEW)) * rows / FEW > TOO_LONG:  # the first one may compile the product
        rows = FEW
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        best = min(best, took(rows))
    return 2 * rows * inner * outer / best


@functools.cache
def process_peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """`matrix_product_peak`, measured once in a process for a number of threads, whatever fits it runs."""
    return matrix_product_peak(device, dtype)


def _matrices(side: nn.Module, inputs_trained: bool, source_trained: bool) -> tuple[float, float]:
    """The cost of a token in a side's matrices, and of a source token in those of its cross-attention that read it."""
    own = source = 0.0
    for path, module in side.named_modules():
        if isinstance(module, nn.Embedding):
            continue
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim < 2:
                continue
            if reads_source(f".{path}.{name}"):
                source += _matrix(weight, source_trained)
            else:
                own += _matrix(weight, inputs_trained)
        if isinstance(merged := vars(module).get("merged"), Merged):  # which reads the source with matrices of its own
            weights = (weight for each in merged.projections(module) for weight in each.parameters())
            source += sum(_matrix(weight, source_trained) for weight in weights if weight.ndim > 1)
    return own, source


def _matrix(weight: Tensor, input_trained: bool) -> float:
    return 2.0 * weight.numel() * (1 + weight.requires_grad + input_trained)


def _reading(decoder: PreTrainedModel) -> int:
    """How many of a decoder's layers read the source."""
    return depth(decoder.config) // int(getattr(decoder.config, "cross_attention_every", 1))


def _pairs(side: PreTrainedModel, trained: bool) -> float:
    config = side.config
    size = getattr(config, "head_dim", None)
    width = config.hidden_size if size is None else config.num_attention_heads * size
    return float(4 * width * depth(config) * (1 + 2 * trained))
