"""What only a GPU can show of training and generation on one: `python -m pytest -m gpu`."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from encdec_lightning import (
    Generation,
    compose,
    generate,
)
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.kernels import varlen
from encdec_lightning.kernels.attention_interface import packs_examples, use_attention
from encdec_lightning.kernels.packing import Packing
from encdec_lightning.training.loss import TrainingLoss
from encdec_lightning.training.optimizers import default_optimizer

sys.path.append(str(Path(__file__).parent.parent / "kernels"))
from varlen_stand_in import varlen_attn

PAIRS = ["bert-bert", "bert-gpt2", "roberta-roberta"]


def model_of(files, pair: str, dropout: float = 0.0):
    encoder, decoder = (getattr(files, each) for each in pair.split("-"))
    model = compose(encoder, decoder, "tied" if encoder == decoder else "untied", dropout=dropout)
    settings = model.generation_config
    settings.decoder_start_token_id, settings.eos_token_id, settings.pad_token_id = 2, 3, 0
    use_attention(model)
    return model.train()


def a_batch(rows: int = 6, device: str = "cpu") -> Batch:
    made = torch.Generator().manual_seed(0)
    sources, targets = (torch.randint(5, 50, (rows, width), generator=made) for width in (20, 9))
    lengths, of_targets = (torch.tensor([width - each for each in range(rows)]) for width in (20, 9))
    inputs = targets.roll(1, 1)
    tokens = int(of_targets.sum())
    batch = Batch((), rows, sources, lengths, inputs, targets, of_targets, tokens, tokens + int(lengths.sum()))
    return batch.to(device)


def step(model, device: str, low: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a batch, (), and all gradients, (N,), on the processor."""
    model = copy.deepcopy(model).to(device)
    with torch.autocast(device, low, enabled=low is not None):
        loss = TrainingLoss(model)(a_batch(device=device), 0.1)
    loss.backward()
    gradients = [each.grad for each in model.parameters() if each.grad is not None]
    assert all(each.dtype == torch.float32 for each in gradients)
    return loss.detach().cpu(), torch.cat([each.cpu().flatten() for each in gradients])


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("pair", PAIRS)
def test_a_training_step_is_the_processors(files, device: str, pair: str) -> None:
    model = model_of(files, pair)
    (loss, gradients), (expected, of_expected) = step(model, device), step(model, "cpu")
    assert error(loss, expected) < 1e-5
    assert error(gradients, of_expected) < 1e-4


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("low", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_nobody_waits_in_a_training_step(files, device: str, waits_are_errors, low, dropout: float) -> None:
    model = model_of(files, "bert-bert", dropout).to(device)
    optimizer, loss_of, batch = default_optimizer(model.parameters()), TrainingLoss(model), a_batch(device=device)

    def one() -> None:
        with torch.autocast(device, low, enabled=low is not None):
            loss = loss_of(batch, 0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    one()  # what is found out once
    before = [each.detach().clone() for each in model.parameters()]
    with waits_are_errors():
        one()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_products_are_in_16_bits(files, device: str, low: torch.dtype) -> None:
    model = model_of(files, "bert-bert")
    (loss, gradients), (expected, of_expected) = step(model, device, low), step(model, "cpu")
    assert 1e-9 < error(loss, expected) < 2e-2
    assert 1e-6 < error(gradients, of_expected) < 6e-2


def test_the_optimizer_is_fused(files, device: str) -> None:
    model = model_of(files, "bert-bert")
    there = copy.deepcopy(model).to(device)
    optimizers = [default_optimizer(each.parameters(), lr=1e-2) for each in (model, there)]
    for each, optimizer in zip((model, there), optimizers, strict=True):
        assert optimizer.defaults["fused"]
        for parameter in each.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for expected, found in zip(model.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"num_beams": 4, "no_repeat_ngram_size": 2}], ids=["greedy", "beams"])
@pytest.mark.parametrize("pair", PAIRS)
def test_generated_tokens_are_the_processors(files, device: str, pair: str, options: dict) -> None:
    model = model_of(files, pair).eval()
    found, expected = (
        generate(copy.deepcopy(model).to(where), a_batch(device=where), Generation(**options), max_target_length=12)
        for where in (device, "cpu")
    )
    tokens = [[[each.tokens for each in hypotheses] for hypotheses in all_of] for all_of in (found, expected)]
    assert tokens[0] == tokens[1]


def test_draws_follow_the_generator(files, device: str) -> None:
    model = model_of(files, "bert-bert").eval().to(device)
    drawn = []
    for seed in (0, 0, 1):
        generator = torch.Generator(device).manual_seed(seed)
        options = Generation(do_sample=True, min_length=12)
        found = generate(model, a_batch(device=device), options, max_target_length=12, generator=generator)
        drawn.append([each[0].tokens for each in found])
    assert drawn[0] == drawn[1] != drawn[2]


def test_attention_of_packed_examples(device: str, monkeypatch) -> None:
    """Torch's variable-length attention where `packs_examples` takes it; on a processor a stand-in of it."""
    low = torch.bfloat16 if device == "cuda" else torch.float64
    if device == "cpu":
        monkeypatch.setattr(varlen, "torch_varlen", lambda: varlen_attn)
    elif varlen.torch_varlen() is None or not varlen.runs_flash_attention(torch.device(device, 0)):
        pytest.skip("this torch, or this GPU, has no variable-length attention")
    sources, targets = (70, 3, 5), (20, 4, 1)
    packing = Packing(sources, targets, (torch.tensor(sources, device=device), torch.tensor(targets, device=device)))
    for queries, keys, is_causal in ((sources, sources, False), (targets, targets, True), (targets, sources, False)):
        leaves = [
            torch.randn(1, sum(each), 4, 64, device=device, dtype=low, requires_grad=True)
            for each in (queries, keys, keys)
        ]
        heads = [each.transpose(1, 2) for each in leaves]
        output = varlen.packed_varlen(*heads, packing, None, is_causal)
        precise = [each.detach().double().requires_grad_() for each in leaves]
        splits = [
            each.transpose(1, 2).split(sizes, dim=2) for each, sizes in zip(precise, (queries, keys, keys), strict=True)
        ]
        alone = [
            functional.scaled_dot_product_attention(*each, is_causal=is_causal).transpose(1, 2)
            for each in zip(*splits, strict=True)
        ]
        expected = torch.cat(alone, dim=1)
        weights = torch.randn_like(expected)
        found = torch.autograd.grad((output.double() * weights).sum(), leaves)
        wanted = torch.autograd.grad((expected * weights).sum(), precise)
        for one, other in zip((output, *found), (expected, *wanted), strict=True):
            assert error(one.detach().double(), other.detach()) < 2e-2


def test_a_step_of_packed_examples(files, device: str, waits_are_errors) -> None:
    """In bf16 and without dropout examples lie side by side on a GPU too; with dropout of attention they do not."""
    model = model_of(files, "bert-gpt2").to(device)
    batch, loss_of = a_batch(device=device), TrainingLoss(model)
    there = batch.source_ids.device
    packs = device == "cpu" or (varlen.torch_varlen() is not None and varlen.runs_flash_attention(there))
    with torch.autocast(device, torch.bfloat16):
        assert packs_examples(model, there) == packs
        assert packs_examples(model_of(files, "bert-gpt2", 0.1).to(device), there) == (device == "cpu")
        loss_of(batch)
        with waits_are_errors():
            loss = loss_of(batch)
            loss.backward()
    expected, _ = step(model.cpu(), "cpu")
    model.zero_grad()
    assert error(loss.detach().cpu(), TrainingLoss(model)(a_batch()).detach()) < 2e-2
    assert expected.isfinite()
