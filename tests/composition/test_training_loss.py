"""For every family, in each role: what training computes fast is what a plain forward of transformers computes."""

from __future__ import annotations

import copy

import pytest
import torch
from families import LENGTHS, batch
from test_families import every_family, once_a_family
from torch.nn import functional
from transformers import Gemma2Config, Gemma2ForCausalLM

from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.kernels.attention_interface import use_attention
from encdec_lightning.training.loss import TrainingLoss, token_losses

SMOOTHING, TARGETS = 0.1, (6, 3)
FAIL_UNDER_AUTOCAST = ("xmod", "deberta")
FAIL_IN_FLOAT64 = ("longformer", "xglm")  # NaN in the gradient, and a RuntimeError, in transformers' own code


def a_batch(model):
    inputs = batch(model, LENGTHS, TARGETS[0])
    targets = torch.randint(5, model.config.decoder.vocab_size, (2, 6), generator=torch.Generator().manual_seed(1))
    lengths, target_lengths = torch.tensor(LENGTHS), torch.tensor(TARGETS)
    return Batch((), 2, inputs["input_ids"], lengths, inputs["decoder_input_ids"], targets, target_lengths, 9, 23)


def plain_loss(model, batch):
    """Logits of all positions from transformers' own attention, and torch's loss, summed."""
    mask = batch.source_mask
    logits = model(
        input_ids=batch.source_ids, attention_mask=mask, decoder_input_ids=batch.decoder_input_ids, use_cache=False
    ).logits
    real = batch.target_mask
    return functional.cross_entropy(logits[real], batch.target_ids[real], label_smoothing=SMOOTHING, reduction="sum")


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def distance(ours, theirs):
    """The norm of the difference of gradients by the norm of theirs."""
    assert ours.keys() == theirs.keys()
    norm = sum(each.double().square().sum() for each in theirs.values()).sqrt()
    return float(
        sum((ours[name].double() - each.double()).square().sum() for name, each in theirs.items()).sqrt() / norm
    )


@every_family
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loss_and_gradients_equal_the_plain_forward(probe, role, family, dtype):
    if dtype == torch.float64 and (family in FAIL_IN_FLOAT64 or (role, family) == ("prefix", "gemma2")):
        pytest.skip("transformers does not compute it in float64, gemma2 not beside padding before the text")
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5  # gemma's norms are computed in fp32
    model = copy.deepcopy(probe(role, family)).to(dtype)
    data = a_batch(model)
    expected = plain_loss(model, data)
    expected_gradients = gradients(model, expected)
    use_attention(model)
    loss = TrainingLoss(model)(data, SMOOTHING)
    assert abs(loss.item() / expected.item() - 1) < tolerance
    assert distance(gradients(model, loss), expected_gradients) < tolerance


@once_a_family
def test_bf16_is_as_near_to_fp32_as_autocast(probe, role, family):
    model = copy.deepcopy(probe(role, family))
    data = a_batch(model)
    expected = gradients(model, plain_loss(model, data))
    allowed = 0.04
    if family not in FAIL_UNDER_AUTOCAST:
        with torch.autocast("cpu", torch.bfloat16):
            theirs = token_losses(model, data, SMOOTHING).sum()
        allowed = max(allowed, 2 * distance(gradients(model, theirs), expected))
    use_attention(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = TrainingLoss(model)(data, SMOOTHING)
    assert loss.dtype == torch.float32
    ours = gradients(model, loss)
    assert all(each.dtype == torch.float32 for each in ours.values())
    assert distance(ours, expected) < allowed


@once_a_family
def test_a_step_with_dropout(probe, role, family):
    """Some families write to what dropout gave in place."""
    model = copy.deepcopy(probe(role, family)).train()
    for module in model.modules():
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.1)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    use_attention(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = TrainingLoss(model)(a_batch(model), SMOOTHING)
    found = gradients(model, loss)
    assert loss.isfinite() and found and all(each.isfinite().all() for each in found.values())


@pytest.mark.parametrize(("dtype", "lost"), [(torch.float64, True), (torch.float32, False)])
def test_upstream_gemma2_in_float64_gives_no_numbers_beside_padding_before_the_text(dtype, lost):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = Gemma2Config(vocab_size=100, num_hidden_layers=2, head_dim=16, sliding_window=4, **sizes)
    model = Gemma2ForCausalLM(config).to(dtype)
    mask = torch.tensor([[0] * 6 + [1] * 6])
    logits = model(input_ids=torch.arange(3, 15)[None], attention_mask=mask).logits
    assert bool(logits[0, 6:].isnan().any()) is lost


@pytest.mark.parametrize("family", FAIL_UNDER_AUTOCAST)
def test_upstream_these_families_do_not_run_under_autocast(probe, family):
    model = copy.deepcopy(probe("encoder", family))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError):
        token_losses(model, a_batch(model))
