"""Steps on a device that is not the processor (`simulated_device.py`), beside the same on the processor."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import lightning
import pytest
import simulated_device as device
import torch
from lightning.pytorch import accelerators
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from tiny import write_all

from encdec_lightning import (
    Generation,
    Loading,
    Seq2SeqDataModule,
    Seq2SeqModule,
    Task,
    Tokenizers,
    Training,
    compose,
    generate,
)
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.generation.generate import stream
from encdec_lightning.kernels import varlen
from encdec_lightning.kernels.attention_interface import DROPOUTS, use_attention
from encdec_lightning.training.callbacks.finite import FiniteSteps
from encdec_lightning.training.callbacks.progress import FitProgress
from encdec_lightning.training.callbacks.throughput import Throughput
from encdec_lightning.training.loss import TrainingLoss, token_losses

sys.path.append(str(Path(__file__).parent.parent / "kernels"))
from varlen_stand_in import varlen_attn

PAIRS = ["bert-bert", "bert-gpt2", "roberta-roberta", "gpt2 alone"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("files"))


def model_of(files, pair: str, weights: str = "untied"):
    encoder, _, decoder = pair.rpartition("-")
    given = {} if pair == "gpt2 alone" else {"weights": weights}
    model = compose(
        getattr(files, encoder) if encoder else None, getattr(files, decoder.removesuffix(" alone")), **given
    )
    use_attention(model)
    settings = model.generation_config
    settings.decoder_start_token_id, settings.eos_token_id, settings.pad_token_id = 2, 3, 0
    return model


def a_batch(rows: int = 5) -> Batch:
    made = torch.Generator().manual_seed(0)
    sources, targets = (torch.randint(5, 50, (rows, width), generator=made) for width in (9, 6))
    lengths, of_targets = (torch.tensor([width - each % 4 for each in range(rows)]) for width in (9, 6))
    tokens = int(of_targets.sum())
    return Batch(
        (), rows, sources, lengths, targets.roll(1, 1), targets, of_targets, tokens, tokens + int(lengths.sum())
    )


def whole(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().cpu().flatten() for each in model.parameters()])


def expect_close(found: torch.Tensor, expected: torch.Tensor, low: bool) -> None:
    assert (found.detach().cpu() - expected.detach()).norm() < (3e-2 if low else 1e-5) * expected.detach().norm()


@pytest.mark.parametrize(
    ("pair", "low"), [*((pair, False) for pair in PAIRS), ("bert-gpt2", True), ("gpt2 alone", True)]
)
def test_training_step(files, pair: str, low: bool) -> None:
    model = model_of(files, pair).eval()  # without dropout, whose numbers are others
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
        gradients = {name: each.grad for name, each in there.named_parameters()}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and parameter.grad.norm() > 1e-3:
                expect_close(gradients[name], parameter.grad, low)


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
    model = model_of(files, pair).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for side in model.sides.values():
        for name in DROPOUTS:
            setattr(side.config, name, 0.0)
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
        gradients = {name: each.grad for name, each in there.named_parameters()}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and parameter.grad.norm() > 1e-3:
                expect_close(gradients[name], parameter.grad, low=False)


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


class Accelerator(accelerators.Accelerator):
    """What Lightning asks of a kind of device."""

    def setup_device(self, device: torch.device) -> None: ...

    def teardown(self) -> None: ...

    @staticmethod
    def parse_devices(devices: object) -> int:
        return 1

    @staticmethod
    def get_parallel_devices(devices: object) -> list[torch.device]:
        return [device.DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return device.KIND


class Steps(lightning.Callback):
    """What each training step and the validation made the processor wait for, and copied."""

    def __init__(self, watch: device.Watch) -> None:
        self.watch, self.seen, self.validations = watch, [], []

    def on_train_batch_start(self, *args: object) -> None:
        self.seen.append((self.watch.waits.copy(), self.watch.uploads.copy()))
        self.watch.clear()

    def on_validation_batch_start(self, *args: object) -> None:
        self.watch.clear()

    def on_validation_batch_end(self, *args: object) -> None:
        self.validations.append((self.watch.waits.copy(), self.watch.uploads.copy()))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fit(files, tmp_path, precision: str) -> None:
    """Under the Trainer: every step, what Lightning and the callbacks do included."""

    def fitted(watch: device.Watch | None) -> tuple[Seq2SeqModule, Steps | None]:
        lightning.seed_everything(3, verbose=False)
        tokenizers = Tokenizers.from_pretrained(files.bert, files.bert)
        task = Task(train=files.train, validation=files.validation, test=files.test, source="document",
                    target="summary", max_source_length=40, max_target_length=12)  # fmt: skip
        model = compose(files.bert, files.bert, "tied", dropout=0.0, tokenizers=tokenizers)
        module = Seq2SeqModule(model, tokenizers, task, Training(learning_rate=1e-3, warmup_steps=2))
        module._finite = FiniteSteps(deferred=True)
        steps = Steps(watch) if watch else None
        bar = FitProgress()
        bar.disable()
        where = {"accelerator": "cpu", "precision": precision}
        if watch:
            where = {"accelerator": Accelerator(), "strategy": SingleDeviceStrategy(device.DEVICE)}
            if precision != "32-true":
                where["plugins"] = [MixedPrecision("bf16-mixed", device.KIND)]
        trainer = lightning.Trainer(
            default_root_dir=tmp_path, max_steps=6, devices=1, logger=False, enable_model_summary=False,
            enable_checkpointing=False, use_distributed_sampler=False, gradient_clip_val=1.0, log_every_n_steps=4,
            callbacks=[*([steps] if steps else []), Throughput(), bar], **where,
        )  # fmt: skip
        trainer.fit(module, Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=200)))
        return module, steps

    expected, _ = fitted(None)
    with device.Watch() as watch:
        found, steps = fitted(watch)
        assert steps is not None and len(steps.seen) == 6
        for number, (waits, uploads) in enumerate(steps.seen):
            if number in (0, 1, 4):  # what follows what is logged, here steps 1 and 4, and their own reports, may wait
                continue
            assert {key.partition(" in ")[2].partition(":")[0] for key in waits} <= {"finite.py"}
            assert sum(waits.values()) <= 1, waits  # a GPU is not waited for there: the number was copied a step before
            assert {key.partition(":")[0] for key in uploads} <= {"batch.py"}
        assert steps.validations
        for waits, uploads in steps.validations:
            assert waits == {}
            assert uploads == {}
        expect_close(*(whole(each.model) for each in (found, expected)), precision != "32-true")
