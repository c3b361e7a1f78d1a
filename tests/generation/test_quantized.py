"""`generation.quantize=int8`: the texts of a model whose linear layers are quantized in the plainest way."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import searches
import tiny
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from encdec_lightning import Generation, UserError, compose
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.generation import support
from encdec_lightning.generation.engine import Engine
from encdec_lightning.generation.memory import copied_weights
from encdec_lightning.generation.model_runner import ModelRunner
from encdec_lightning.generation.support import why_not_quantized
from encdec_lightning.kernels.int8_linear import weight_levels

pytestmark = pytest.mark.skipif(why_not_quantized("cpu") is not None, reason="no exact int8 products here")


def levels(values: Tensor, most: int = 127) -> tuple[Tensor, Tensor]:
    """Whole numbers from -127 to 127, and what they are multiplied by, row by row."""
    scale = values.abs().amax(-1, keepdim=True).clamp(min=1e-30) / most
    return (values / scale).round().double(), scale


def slowly_quantized(model: ComposedModel) -> Any:
    """A copy whose linear layers, the head among them, multiply whole numbers in float64."""
    made = copy.deepcopy(model)

    def replace(module: Any) -> None:
        weight = module.weight.detach()
        rows, of_rows = levels(weight.t() if type(module) is Conv1D else weight, weight_levels())

        def forward(given: Tensor) -> Tensor:
            vectors, of_vectors = levels(given)
            product = (vectors @ rows.T).float() * of_rows.T * of_vectors
            return product if module.bias is None else product + module.bias

        module.forward = forward

    for module in made.modules():
        if type(module) in (nn.Linear, Conv1D):
            replace(module)
    return made


@pytest.fixture(scope="module")
def pairs(files: tiny.Files) -> dict[str, tuple[ComposedModel, Any]]:
    torch.manual_seed(0)
    made = {
        "bert": compose(files.bert, files.bert, weights="tied"),
        "gpt2": compose(files.bert, files.gpt2),
        "prefix": compose(None, files.gpt2),
    }
    return {name: (searches.sharpen(model), slowly_quantized(model)) for name, model in made.items()}


def logits(model: Any, texts: list[Tensor], quantize: Any = None) -> Tensor:
    """After the start token and after one more, (2, M, V)."""
    runner = ModelRunner(model, len(texts), 1, 9, searches.START, quantize=quantize)
    count = len(texts)
    found = [torch.cat([piece().clone() for piece in runner.admit(list(range(count)), texts)], dim=1)]
    tokens, lengths = torch.full((count, 1), 7), torch.ones(count, dtype=torch.long)
    pieces = runner.step(tokens, [1] * count, lengths)
    return torch.stack([*found, torch.cat([piece().clone() for piece in pieces], dim=1)])


@pytest.mark.parametrize("name", ["bert", "gpt2", "prefix"])
def test_logits_are_those_of_quantized_layers(pairs: Any, name: str) -> None:
    """But for the few numbers that lie between two levels, and fall to the other one by their last bit."""
    model, slow = pairs[name]
    far = apart = 0.0
    for lengths in ([1], [5, 9], [20, 3, 7], [12, 2]):
        texts = searches.sources(lengths, seed=len(lengths))
        with torch.no_grad():
            found, expected, plain = logits(model, texts, "int8"), logits(slow, texts), logits(model, texts)
        far, apart = far + float((found - expected).norm()), apart + float((plain - expected).norm())
    assert apart > 0 and far < 0.4 * apart


@pytest.mark.parametrize("beams", [1, 3])
def test_texts_are_written(pairs: Any, beams: int) -> None:
    model, _ = pairs["bert"]
    texts = searches.sources([3, 9, 20])
    found = searches.ours(model, texts, Generation(num_beams=beams, quantize="int8"), 9)
    alone = [searches.ours(model, [text], Generation(num_beams=beams, quantize="int8"), 9)[0] for text in texts]
    assert [len(one) for one in found] == [1, 1, 1] and all(one[0].tokens for one in found)
    assert [one[0].tokens for one in found] == [one[0].tokens for one in alone]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", ["bert", "gpt2", "prefix"])
def test_an_engine_gives_its_first_sources_what_it_gives_later_ones(pairs: Any, name: str, beams: int) -> None:
    engine: Engine[int] = Engine(pairs[name][0], Generation(num_beams=beams, quantize="int8"), 9)
    texts = searches.sources([3, 9, 20])
    first, second = (sorted(engine.stream(enumerate(texts))) for _ in range(2))
    assert first == second


def test_the_weights_stay_as_they_are(pairs: Any) -> None:
    model, _ = pairs["bert"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    searches.ours(model, searches.sources([4]), Generation(quantize="int8"), 5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_byte_a_weight_is_counted(pairs: Any) -> None:
    model, _ = pairs["bert"]
    linear = {id(each.weight): each.weight for each in model.modules() if isinstance(each, nn.Linear)}
    assert copied_weights(model, torch.float32, quantized=True) == sum(each.numel() for each in linear.values())


@pytest.mark.parametrize(
    ("device", "exact", "why"),
    [
        ("cuda", True, "int8 is for models on the CPU, and this one is on cuda; use null"),
        ("cpu", False, "oneDNN computes no exact int8 products on this processor; use null"),
    ],
)
def test_other_devices_and_processors_are_refused(
    device: str, exact: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "products_are_exact", lambda: exact)
    assert why_not_quantized(device) == why


def test_what_the_engine_does_not_run_is_refused(pairs: Any) -> None:
    with pytest.raises(UserError, match="quantize is 'int8': transformers' generate computes with the weights as they"):
        Generation(quantize="int8").arguments(5)
    assert Generation(quantize="int8").beyond_transformers() == ["quantize"]
