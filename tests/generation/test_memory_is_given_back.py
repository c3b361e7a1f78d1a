"""A finished stream leaves nothing for Python's search for cycles, which commands let run rarely."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import searches
import tiny
import torch

from encdec_lightning import Generation, compose
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.generation.generate import stream
from encdec_lightning.generation.model_runner import ModelRunner
from encdec_lightning.kernels.int8_linear import products_are_exact


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def models(files: tiny.Files) -> dict[str, ComposedModel]:
    torch.manual_seed(0)
    return {
        "bert": searches.sharpen(compose(files.bert, files.bert)),
        "gpt2": searches.sharpen(compose(files.bert, files.gpt2)),
        "prefix": searches.sharpen(compose(None, files.gpt2)),
    }


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("name", ["bert", "gpt2", "prefix"])
@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
def test_cache_and_copied_weights_go_with_the_stream(
    models: dict[str, ComposedModel], name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "int8" and not products_are_exact():
        pytest.skip("no int8 here")
    made: list[weakref.ref[Any]] = []
    reset = ModelRunner.reset

    def noted(runner: ModelRunner) -> None:
        reset(runner)
        made.extend(map(weakref.ref, (runner.cache, runner.model, runner)))

    monkeypatch.setattr(ModelRunner, "reset", noted)
    options = Generation(num_beams=2, quantize="int8" if kind == "int8" else None)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
        found = dict(stream(models[name], enumerate(searches.sources([4, 7])), options, max_target_length=6))
    assert len(found) == 2 and len(made) == 3
    assert [each() for each in made] == [None] * 3
