"""What the tests of composition share: the cells that can be composed, inputs and outputs of a composed model."""

from __future__ import annotations

import copy
import functools
from typing import Any, get_args

import pytest
import torch
from tiny import Files

from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.model import EncoderDecoder
from encdec_lightning.composition.options import Weights

ENCODERS, DECODERS = ("bert", "roberta"), ("bert", "roberta", "gpt2")
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
INITS = ("pretrained", "random")
PAIRS = [(encoder, decoder) for encoder in ENCODERS for decoder in DECODERS]
TIED = [(family, family, weights) for family in ENCODERS for weights in WEIGHTS if weights != "untied"] + [
    ("roberta", "gpt2", "tied_embeddings")  # their tiny vocabularies have one size
]
CELLS = [(*pair, "untied") for pair in PAIRS] + TIED

every_cell = pytest.mark.parametrize(("encoder", "decoder", "weights"), CELLS)
tied_cells = pytest.mark.parametrize(("encoder", "decoder", "weights"), TIED)
every_scheme = pytest.mark.parametrize("weights", WEIGHTS)
every_pair = pytest.mark.parametrize(("encoder", "decoder"), PAIRS)


def composed(
    files: Files, encoder: str, decoder: str, weights: str = "untied", seed: int = 0, **more: Any
) -> EncoderDecoder:
    """A composed model of the tiny checkpoints of two families; its draws depend on `seed` alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return compose(getattr(files, encoder), getattr(files, decoder), weights, **more)  # type: ignore[arg-type]


def inputs(model: EncoderDecoder, source_lengths: tuple[int, ...] = (9, 5), target_length: int = 6) -> dict[str, Any]:
    """Random ids, none of them special, with a source mask made of lengths."""
    draw = torch.Generator().manual_seed(7)
    rows, width = len(source_lengths), max(source_lengths)
    sizes = model.config.encoder.vocab_size, model.config.decoder.vocab_size
    return {
        "input_ids": torch.randint(5, sizes[0], (rows, width), generator=draw),
        "attention_mask": (torch.arange(width) < torch.tensor(source_lengths)[:, None]).long(),
        "decoder_input_ids": torch.randint(5, sizes[1], (rows, target_length), generator=draw),
    }


@torch.no_grad()
def logits(model: Any, batch: dict[str, Any] | None = None) -> torch.Tensor:
    """Logits without dropout; the model's mode is left as it was."""
    training = model.training
    result = model.eval()(**(batch or inputs(model))).logits
    model.train(training)
    return result


@functools.cache
def kept(files: Files, encoder: str, decoder: str, weights: str = "untied") -> EncoderDecoder:
    """The same, made once: for tests that only look."""
    return composed(files, encoder, decoder, weights)


def own(files: Files, encoder: str, decoder: str, weights: str = "untied") -> EncoderDecoder:
    """A copy of it, for tests that change it; ten times faster than composing."""
    return copy.deepcopy(kept(files, encoder, decoder, weights))
