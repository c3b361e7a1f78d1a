"""Streams that enter and leave `torch.inference_mode`: what is kept between two steps serves in both."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import searches
import tiny
import torch

from encdec_lightning import Generation, compose
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.generation.engine import Engine
from encdec_lightning.generation.generate import streamer
from encdec_lightning.kernels.int8_linear import products_are_exact

TEXTS = searches.sources([5, 9, 12, 3, 7, 8])
OPTIONS = {
    "greedy": Generation(),
    "beams": Generation(num_beams=3),
    "drawn": Generation(do_sample=True, num_return_sequences=2),
    "int8": Generation(quantize="int8"),
}


@pytest.fixture(scope="module")
def model(files: tiny.Files) -> ComposedModel:
    torch.manual_seed(0)
    return searches.sharpen(compose(files.bert, files.gpt2))


def mode(inference: bool) -> AbstractContextManager[object]:
    return torch.inference_mode() if inference else nullcontext()


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("made_in", [True, False])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_streamer_enters_and_leaves_it(
    model: ComposedModel, kind: str, made_in: bool, dtype: torch.dtype | None
) -> None:
    """Made in one mode, its streams begun in the one or the other, and each continued in the other."""
    options = OPTIONS[kind]
    if options.quantize and not products_are_exact():
        pytest.skip("no int8 here")
    drawn = torch.Generator()
    autocast = nullcontext() if dtype is None else torch.autocast("cpu", dtype)
    with mode(made_in), autocast:
        start = streamer(model, options, max_target_length=8, targets=6, generator=drawn)
    found = []
    for begun_in in (False, True, False, True):
        drawn.manual_seed(0)
        with mode(begun_in):
            stream = start([(number, text.clone()) for number, text in enumerate(TEXTS)])
            done = dict([next(stream)])
        with mode(not begun_in):
            done |= dict([next(stream)])
        found.append(done | dict(stream))
    assert len(found[0]) == len(TEXTS) and all(each == found[0] for each in found)


def test_a_stream_that_was_left_in_a_step_begins_anew_in_either_mode(model: ComposedModel) -> None:
    engine: Engine[int] = Engine(model, OPTIONS["beams"], 8, targets=6)
    expected = dict(engine.stream(enumerate(TEXTS)))
    for inference in (True, False):
        engine._is_whole = False  # as after an error
        with mode(inference):
            stream = engine.stream(enumerate(TEXTS))
            first = next(stream)
        assert {**dict([first]), **dict(stream)} == expected


def test_gradients_stay_as_they_were(model: ComposedModel) -> None:
    """Outside of a step they are on, and no text needs any."""
    start = streamer(model, Generation(), max_target_length=8)
    for _ in start(enumerate(TEXTS)):
        assert torch.is_grad_enabled()
    with torch.inference_mode():
        for _ in start(enumerate(TEXTS)):
            assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
