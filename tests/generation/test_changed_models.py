"""Hooks, forwards and pruning of a user's own: texts are those of the model as it is, or nothing of it is touched."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import searches
import tiny
import torch
from lightning.pytorch.profilers.pytorch import RegisterRecordFunction
from torch import nn
from torch.nn.utils import prune

from encdec_lightning import Generation, compose
from encdec_lightning.composition import lora
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.generation import generate as generating
from encdec_lightning.generation.generate import stream
from encdec_lightning.generation.memory import ElasticStreamer
from encdec_lightning.kernels.onednn_linear import weight_and_bias

TEXTS = searches.sources([5, 9, 12, 3])


@pytest.fixture(scope="module")
def plain(files: tiny.Files) -> ComposedModel:
    torch.manual_seed(0)
    return searches.sharpen(compose(files.bert, files.gpt2))


def layer(model: ComposedModel) -> Any:
    return model.encoder.encoder.layer[0].intermediate.dense


def hooked(model: ComposedModel) -> None:
    layer(model).register_forward_hook(lambda module, given, output: output * 5 + 3)


def pre_hooked(model: ComposedModel) -> None:
    layer(model).register_forward_pre_hook(lambda module, given: (given[0] * -5,))


def hooked_by_an_object(model: ComposedModel) -> None:
    class Doubled:
        def __call__(self, module: nn.Module, given: Any, output: torch.Tensor) -> torch.Tensor:
            return output * 2

    layer(model).register_forward_hook(functools.partial(Doubled()))


def forwarded(model: ComposedModel) -> None:
    before = layer(model).forward
    layer(model).forward = lambda given: before(given) * 3


def pruned(model: ComposedModel) -> None:
    torch.manual_seed(0)
    prune.random_unstructured(layer(model), "weight", amount=0.5)


CHANGES: dict[Callable[[ComposedModel], None], str] = {
    hooked: "somebody has put a hook on its module encoder.encoder.layer.0.intermediate.dense",
    pre_hooked: "somebody has put a hook on its module encoder.encoder.layer.0.intermediate.dense",
    hooked_by_an_object: "somebody has put a hook on its module encoder.encoder.layer.0.intermediate.dense",
    forwarded: "somebody has replaced the forward of its module encoder.encoder.layer.0.intermediate.dense",
    pruned: "somebody has put a hook on its module encoder.encoder.layer.0.intermediate.dense",
}


def texts_of(model: ComposedModel, elastic: bool = False) -> list[list[int]]:
    if elastic:
        start: ElasticStreamer[int] = ElasticStreamer(model, Generation(), longest_source=12, max_target_length=8)
        found = dict(start(list(enumerate(TEXTS))))
    else:
        found = dict(stream(model, enumerate(TEXTS), Generation(), max_target_length=8))
    return [found[number][0].tokens for number in range(len(TEXTS))]


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_texts_are_those_of_the_model_as_it_is(
    plain: ComposedModel, change: Any, dtype: torch.dtype, elastic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generating, "_announced", set())
    model = copy.deepcopy(plain).to(dtype)
    change(model)
    with pytest.warns(UserWarning, match=CHANGES[change]):
        found = texts_of(model, elastic)
    assert found == [best.tokens for (best,) in searches.theirs(model, TEXTS, Generation(), 8)]


def test_a_hook_on_a_model_with_factors_is_seen(plain: ComposedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generating, "_announced", set())
    model = copy.deepcopy(plain)
    lora.adapt(model, lora.attention_layers(model, "decoder"), 2, 1.0, 0.0)
    before = texts_of(model)
    hooked(model)
    with pytest.warns(UserWarning, match=CHANGES[hooked]):
        found = texts_of(model)
    assert found != before
    assert found == [best.tokens for (best,) in searches.theirs(model, TEXTS, Generation(), 8)]


def watched_by_lightning(model: ComposedModel) -> None:
    RegisterRecordFunction(model).__enter__()


def watched_by_wandb(model: ComposedModel) -> None:
    wandb_torch = pytest.importorskip("wandb.integration.torch.wandb_torch")
    wandb_torch.TorchHistory().add_log_parameters_hook(model)


def watched_by_transformers(model: ComposedModel) -> None:
    model(**searches.padded(model, TEXTS), decoder_input_ids=torch.zeros(4, 1).long(), output_hidden_states=True)
    model.encoder.enable_input_require_grads()


@pytest.mark.parametrize("watch", [watched_by_lightning, watched_by_wandb, watched_by_transformers])
def test_hooks_that_only_watch_change_nothing(
    plain: ComposedModel, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a profiled fit has them, whose validations generate; the engine goes on and says nothing."""
    model = copy.deepcopy(plain)
    watch(model)
    assert any(module._forward_hooks for module in model.modules())
    monkeypatch.setattr(generating, "_announced", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert texts_of(model) == texts_of(plain)


def test_a_layer_without_a_weight_of_its_own_is_left_as_it_is() -> None:
    linear = nn.Linear(4, 4)
    prune.random_unstructured(linear, "weight", amount=0.5)
    assert weight_and_bias(linear) is None


@pytest.mark.parametrize("beams", [1, 2])
def test_several_forced_end_tokens_are_transformers_to_write(
    plain: ComposedModel, beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generating, "_announced", set())
    model = copy.deepcopy(plain)
    model.generation_config.forced_eos_token_id = [searches.END, 7]
    options = Generation(num_beams=beams)
    with pytest.warns(UserWarning, match="its generation config sets a list of forced_eos_token_id"):
        found = dict(stream(model, enumerate(TEXTS), options, max_target_length=5))
    expected = searches.theirs(model, TEXTS, options, 5)
    assert [found[number][0].tokens for number in range(len(TEXTS))] == [best.tokens for (best,) in expected]
