"""Products by oneDNN in training: in fp32, as on the processors for which they are faster, and in bf16."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny
import torch
import zen_5
from torch import Tensor

from encdec_lightning import compose
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.kernels import products
from encdec_lightning.kernels.attention_interface import use_attention
from encdec_lightning.kernels.products import adds_biases, onednn_is_faster
from encdec_lightning.training.flops import matrix_product_peak
from encdec_lightning.training.loss import TrainingLoss, token_losses
from encdec_lightning.training.product_speeds import product_speeds

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Size]]:
    """Products that have gone through oneDNN; the processor is one of Zen 5."""
    zen_5.pretend(monkeypatch)
    yield zen_5.counted(monkeypatch)
    onednn_is_faster.cache_clear()


def a_model(files: tiny.Files, decoder: str) -> ComposedModel:
    torch.manual_seed(0)
    model = compose(files.bert, getattr(files, decoder), dropout=0.0)
    use_attention(model)
    return model.train()


def a_batch() -> Batch:
    ids, targets = torch.randint(5, 40, (3, 9)), torch.randint(5, 40, (3, 5))
    return Batch((), 3, ids, torch.tensor([9, 7, 4]), targets, targets, torch.tensor([5, 4, 2]), 11, 31)


@pytest.mark.parametrize("decoder", ["bert", "gpt2"])
def test_loss_and_gradients_are_those_of_the_plain_way(files: tiny.Files, decoder: str, seen: list[torch.Size]) -> None:
    model, batch = a_model(files, decoder), a_batch()
    exact = model.double()
    expected = token_losses(exact, batch, 0.1).sum()
    expected.backward()
    gradients = {name: each.grad for name, each in exact.named_parameters()}
    model = a_model(files, decoder)
    loss = TrainingLoss(model)(batch, 0.1)
    forward = len(seen)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, each in model.named_parameters():
        theirs = gradients[name]
        assert (each.grad is None) == (theirs is None), name
        if each.grad is not None and theirs is not None:
            assert torch.allclose(each.grad.double(), theirs, rtol=1e-3, atol=1e-5), name
    layers = sum(type(module).__name__ in ("Linear", "Conv1D") for module in model.modules())
    assert forward >= layers and len(seen) > 2 * layers


@pytest.mark.skipif(not adds_biases(), reason="oneDNN does not compute in bf16 here")
@pytest.mark.parametrize("decoder", ["bert", "gpt2"])
def test_in_bf16_layers_with_a_bias_go_there_and_give_the_same(
    files: tiny.Files, decoder: str, seen: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> tuple[float, dict[str, Tensor]]:
        model = a_model(files, decoder)
        with torch.autocast("cpu", torch.bfloat16):
            loss = TrainingLoss(model)(batch)
            loss.backward()
        return loss.item(), {name: each.grad for name, each in model.named_parameters() if each.grad is not None}

    batch = a_batch()
    loss, gradients = found()
    assert len(seen) > 2 * 8
    seen.clear()
    monkeypatch.setattr(products, "_suits", lambda *given: False)
    theirs, expected = found()
    assert not seen and loss == pytest.approx(theirs, rel=1e-5) and set(gradients) == set(expected)
    for name, each in gradients.items():
        torch.testing.assert_close(each, expected[name], rtol=2e-2, atol=2e-3, msg=lambda text, name=name: name + text)


def test_what_is_measured_is_what_training_takes(seen: list[torch.Size]) -> None:
    assert matrix_product_peak(torch.device("cpu"), torch.float32, 0.05) > 0 and (2048, 4096) in seen
    assert product_speeds(64, 64, seconds=0.01).fp32 > 0 and (64, 256) in seen
    seen.clear()
    assert matrix_product_peak(torch.device("cpu"), torch.bfloat16, 0.05) > 0 and not seen
