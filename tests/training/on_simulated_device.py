"""Steps on a device that is not the processor (`simulated_device.py`), beside the same on the processor."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import simulated_device as device
import torch

from encdec_lightning import ExtractiveModule, Generation, Task, Tokenizers, compose, generate
from encdec_lightning.data.batches.batch import Batch, collate
from encdec_lightning.data.examples.examples import InMemory
from encdec_lightning.generation.generate import stream
from encdec_lightning.kernels import varlen
from encdec_lightning.kernels.attention_interface import use_attention
from encdec_lightning.records import Pair
from encdec_lightning.training.loss import TrainingLoss, token_losses

sys.path.append(str(Path(__file__).parent.parent / "kernels"))
from varlen_stand_in import varlen_attn

PAIRS = ["bert-bert", "bert-gpt2", "roberta-roberta", "gpt2 alone"]


def model_of(files, pair: str):
    """Without dropout, whose random numbers are others; one pair is tied."""
    encoder, _, decoder = pair.rpartition("-")
    weights = {"weights": "tied" if pair == "roberta-roberta" else "untied"} if encoder else {}
    sides = getattr(files, encoder) if encoder else None, getattr(files, decoder.removesuffix(" alone"))
    model = compose(*sides, dropout=0.0, **weights)
    use_attention(model)
    settings = model.generation_config
    settings.decoder_start_token_id, settings.eos_token_id, settings.pad_token_id = 2, 3, 0
    return model.train()


def a_batch(rows: int = 5) -> Batch:
    made = torch.Generator().manual_seed(0)
    sources, targets = (torch.randint(5, 50, (rows, width), generator=made) for width in (9, 6))
    lengths, of_targets = (torch.tensor([width - each % 4 for each in range(rows)]) for width in (9, 6))
    tokens = int(of_targets.sum())
    return Batch(
        (), rows, sources, lengths, targets.roll(1, 1), targets, of_targets, tokens, tokens + int(lengths.sum())
    )


def expect_close(found: torch.Tensor, expected: torch.Tensor, low: bool) -> None:
    """In bf16 a small gradient, a sum of large parts of both signs, differs by some percent between two orders of sums."""
    assert (found.detach().cpu() - expected.detach()).norm() < (0.1 if low else 1e-5) * expected.detach().norm()


def expect_close_gradients(there: torch.nn.Module, model: torch.nn.Module, low: bool, least: float) -> None:
    """Each gradient whose norm is above `least`, and all of them as one vector, more strictly."""
    gradients = {name: each.grad for name, each in there.named_parameters()}
    pairs = [(gradients[name], each.grad) for name, each in model.named_parameters() if each.grad is not None]
    for found, expected in pairs:
        if expected.norm() > least:
            expect_close(found, expected, low)
    found, expected = (torch.cat([each.detach().cpu().flatten() for each in side]) for side in zip(*pairs, strict=True))
    assert (found - expected).norm() < (3e-2 if low else 1e-5) * expected.norm()


@pytest.mark.parametrize(
    ("pair", "low"), [*((pair, False) for pair in PAIRS), ("bert-gpt2", True), ("gpt2 alone", True)]
)
def test_training_step(files, pair: str, low: bool) -> None:
    model = model_of(files, pair)
    there = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        expected = TrainingLoss(model)(a_batch(), 0.1)
    expected.backward()
    with device.Watch() as watch:
        there.to(device.DEVICE)
        batch, loss_of = a_batch().to(device.DEVICE), TrainingLoss(there)
        for _ in range(2):  # the first finds out once what the model allows
            watch.clear()
            there.zero_grad()
            with torch.autocast(device.KIND, torch.bfloat16, enabled=low):
                found = loss_of(batch, 0.1)
            found.backward()
        assert watch.waits == {}
        assert watch.uploads == {}
        assert sum(watch.operators.values()) > 100
        expect_close(found, expected, low)
        expect_close_gradients(there, model, low, 1e-3)


@pytest.mark.parametrize("low", [False, True])
def test_training_step_of_extracts(files, low: bool) -> None:
    tokenizers = Tokenizers.from_pretrained(files.bert, sentences="en")
    marked = {"encoder_sentences": "en", "encoder_segments": "interval", "dropout": 0.0}
    model = compose(files.bert, None, **marked, tokenizers=tokenizers)
    texts = ["The list is old. Sort it. Return it.", "One file.", "It reads. It writes."]
    pairs = [Pair(str(number), text, "") for number, text in enumerate(texts)]
    examples = InMemory(pairs, tokenizers.encode_sources(texts, 64), [[1, 0, 0], [1], [0, 1]])
    batch = collate(examples, range(3), tokenizers, update_tokens=6)
    task = Task(train="a", validation="b")
    module, there = (ExtractiveModule(each, tokenizers, task) for each in (model, copy.deepcopy(model)))
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        expected, _ = module.loss(batch)
    expected.backward()
    with device.Watch() as watch:
        there.model.to(device.DEVICE)
        moved = batch.to(device.DEVICE)
        watch.clear()
        with torch.autocast(device.KIND, torch.bfloat16, enabled=low):
            found, _ = there.loss(moved)
        found.backward()
        assert (watch.waits, watch.uploads) == ({}, {})
        assert sum(watch.operators.values()) > 100
        expect_close(found, expected, low)
        expect_close_gradients(there.model, model, low, 0.1 if low else 1e-2)


@pytest.mark.parametrize("pair", ["bert-gpt2", "roberta-roberta"])
def test_training_step_without_padding(files, monkeypatch, pair: str) -> None:
    """Where torch's variable-length attention applies, here by a stand-in."""
    monkeypatch.setattr(varlen, "DEVICES", (device.KIND,))
    monkeypatch.setattr(varlen, "DTYPES", (torch.float32,))
    calls: list[torch.Size] = []

    def stand_in(query, *more, **named):
        calls.append(query.shape)
        return varlen_attn(query, *more, **named)

    monkeypatch.setattr(varlen, "torch_varlen", lambda: stand_in)
    monkeypatch.setattr(varlen, "runs_flash_attention", lambda device: True)
    model = model_of(files, pair).train()  # without dropout
    there = copy.deepcopy(model)
    expected = TrainingLoss(model)(a_batch(), 0.1)
    expected.backward()
    with device.Watch() as watch:
        there.to(device.DEVICE)
        batch, loss_of = a_batch().to(device.DEVICE), TrainingLoss(there)
        loss_of(batch, 0.1)
        watch.clear()
        found = loss_of(batch, 0.1)
        found.backward()
        assert {shape[0] for shape in calls} == {int(a_batch().source_lengths.sum()), a_batch().target_tokens}
        assert watch.waits == {}
        assert watch.uploads == {}
        expect_close(found, expected, low=False)
        expect_close_gradients(there, model, low=False, least=1e-3)


@pytest.mark.parametrize("pair", ["bert-gpt2", "gpt2 alone"])
def test_validation_step(files, pair: str) -> None:
    model = model_of(files, pair).eval()
    there = copy.deepcopy(model)
    with torch.no_grad():
        expected = token_losses(model, a_batch())
        with device.Watch() as watch:
            there.to(device.DEVICE)
            batch = a_batch().to(device.DEVICE)
            watch.clear()
            found = token_losses(there, batch)
            assert watch.waits == {}
            assert watch.uploads == {}
            torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)


SEARCHES = {
    "greedy": {},
    "beams": {"num_beams": 3, "no_repeat_ngram_size": 2},
    "draws": {"do_sample": True, "top_p": 0.9},
}


def generated(model, batch: Batch, options: dict, length: int) -> list[list[list[int]]]:
    generator = torch.Generator().manual_seed(0) if "do_sample" in options else None
    found = generate(model, batch, Generation(**options), max_target_length=length, generator=generator)
    return [[each.tokens for each in hypotheses] for hypotheses in found]


@pytest.mark.parametrize(
    ("pair", "search"),
    [*(("bert-gpt2", search) for search in SEARCHES), ("roberta-roberta", "greedy"), ("gpt2 alone", "beams")],
)
def test_generation(files, pair: str, search: str) -> None:
    options = SEARCHES[search]
    model = model_of(files, pair).eval()
    there = copy.deepcopy(model)
    expected = generated(model, a_batch(), options, 12)
    with device.Watch() as watch:
        there.to(device.DEVICE)
        batch = a_batch().to(device.DEVICE)
        assert generated(there, batch, options, 12) == expected
        seen = []
        for length in (8, 18):  # no source ends before
            watch.clear()
            generated(there, batch, options | {"min_length": length}, length)
            seen.append((watch.waits.copy(), watch.uploads.copy()))
        (waits, uploads), (more_waits, more_uploads) = seen
        assert list((more_waits - waits).values()) == [10]  # once a step: which sources are done
        assert uploads == more_uploads  # nothing is copied to the device in a step
        assert sum(more_waits.values()) <= 18 + 3 + 2


def test_sources_that_come_and_go(files) -> None:
    """With two places for five sources targets of different lengths are under way, and results leave in between."""
    model = model_of(files, "bert-bert").eval()
    there = copy.deepcopy(model)
    options = Generation(num_beams=2)
    sources = [(row, a_batch().source_ids[row, : 5 + row]) for row in range(5)]
    with torch.no_grad():
        expected = dict(stream(model, sources, options, max_target_length=12, targets=4))
        with device.Watch():
            there.to(device.DEVICE)
            found = dict(stream(there, sources, options, max_target_length=12, targets=4))
    assert {key: each[0].tokens for key, each in found.items()} == {
        key: each[0].tokens for key, each in expected.items()
    }
