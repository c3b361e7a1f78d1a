"""What only a GPU can show of training and generation on one: `python -m pytest -m gpu`."""

from __future__ import annotations

import copy
import functools
import gc
import sys
from pathlib import Path

import lightning
import pytest
import tiny
import torch
from torch.nn import functional

from encdec_lightning import (
    Composition,
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
from encdec_lightning.composition.checks.skeleton import skeleton
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.kernels import varlen
from encdec_lightning.kernels.attention_interface import packs_examples, use_attention
from encdec_lightning.kernels.packing import Packing
from encdec_lightning.reporting.memory import Setting, memory_per_device, states_of
from encdec_lightning.training import arrange
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


def module_and_data(files, training: Training | None = None, workers: int = 0):
    tokenizers = Tokenizers.from_pretrained(files.bert, files.bert)
    task = Task(train=files.train, validation=files.validation, test=files.test, source="document", target="summary",
                max_source_length=40, max_target_length=12)  # fmt: skip
    torch.manual_seed(0)
    model = compose(files.bert, files.bert, "tied", dropout=0.0, tokenizers=tokenizers)
    module = Seq2SeqModule(model, tokenizers, task, training or Training(learning_rate=1e-3))
    return module, Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=200, workers=workers))


def trainer(folder: Path, device: str, **more) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    more = {"max_steps": 4, "limit_val_batches": 0, "enable_checkpointing": False} | more
    return lightning.Trainer(
        default_root_dir=folder, accelerator={"cpu": "cpu", "cuda": "gpu"}[device], devices=1,
        use_distributed_sampler=False, **quiet, **more,
    )  # fmt: skip


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


class Watched(lightning.Callback):
    """Waiting is an error from a batch's start to its end, but in the first steps."""

    def __init__(self, device: str) -> None:
        self.on, self.steps = device == "cuda", 0

    def on_train_batch_start(self, runner, module, batch, index) -> None:
        if self.on and index >= 2:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, runner, module, outputs, batch, index) -> None:
        self.steps += 1
        if self.on:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("workers", [0, 1])
def test_nobody_waits_in_a_fit(files, tmp_path, device: str, workers: int) -> None:
    module, data = module_and_data(files, workers=workers)
    watched = Watched(device)
    trainer(tmp_path, device, max_steps=6, precision="bf16-mixed", gradient_clip_val=1.0, callbacks=[watched]).fit(
        module, data
    )
    assert watched.steps == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_in_pinned_memory(files, device: str, workers: int) -> None:
    _, data = module_and_data(files, workers=workers)
    batch = next(iter(data.train_dataloader()))
    assert batch.source_ids.is_pinned() == (device == "cuda" or torch.cuda.is_available())
    assert batch.to(device, non_blocking=True).source_ids.device.type == device


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_products_are_in_16_bits(files, device: str, low: torch.dtype) -> None:
    model = model_of(files, "bert-bert")
    (loss, gradients), (expected, of_expected) = step(model, device, low), step(model, "cpu")
    assert 1e-9 < error(loss, expected) < 2e-2
    assert 1e-6 < error(gradients, of_expected) < 6e-2


def test_16_bits_with_a_scaler(files, tmp_path, device: str) -> None:
    module, data = module_and_data(files)
    before = copy.deepcopy(module.model).state_dict()
    precision = "16-mixed" if device == "cuda" else "bf16-mixed"
    trainer(tmp_path, device, precision=precision, max_steps=8, gradient_clip_val=1.0).fit(module, data)
    after = module.model.state_dict()
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert any(not torch.equal(value.cpu(), before[name]) for name, value in after.items())


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


@pytest.mark.filterwarnings("ignore")  # dynamo does what it warns of
@pytest.mark.parametrize(
    "training", [Training(gradient_checkpointing=True), Training(compile=True)], ids=["again", "compiled"]
)
def test_rearranged_layers_change_nothing(files, tmp_path, device: str, monkeypatch, training: Training) -> None:
    if device == "cpu":
        monkeypatch.setattr(arrange, "BACKEND", "eager")
    weights = []
    for options in (Training(), training):
        module, data = module_and_data(files, options)
        trainer(tmp_path, device, max_steps=2).fit(module, data)
        weights.append(torch.cat([each.detach().cpu().flatten() for each in module.model.parameters()]))
    assert error(*weights) < 1e-4


def test_the_memory_of_a_fit_is_what_encdec_check_says(files, tmp_path, device: str) -> None:
    width, layers = (512, 6) if device == "cuda" else (32, 2)
    checkpoint = tiny.checkpoint(tmp_path / "bert", "bert", width, layers)
    composition = Composition(encoder=checkpoint, decoder=checkpoint, weights="tied")
    tokens, training = 2000, Training(schedule="constant")
    states = states_of(functools.partial(torch.optim.AdamW, fused=True))
    setting = Setting(precision="bf16-mixed", states=states, batch_tokens=tokens, lengths=(40, 12), training=training)
    estimate = next(iter(memory_per_device(skeleton(composition), setting, 1).values())).total
    assert estimate > 0
    tokenizers = Tokenizers.from_pretrained(checkpoint)
    task = Task(train=files.train, validation=files.validation, source="document", target="summary",
                max_source_length=40, max_target_length=12)  # fmt: skip
    module = Seq2SeqModule(compose(checkpoint, checkpoint, "tied", tokenizers=tokenizers), tokenizers, task, training)
    runner = trainer(tmp_path, device, precision="bf16-mixed", num_sanity_val_steps=0)
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    runner.fit(module, Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=tokens)))
    if device == "cuda":  # the estimate counts scores of attention, which a GPU may not keep
        assert 0.5 < (torch.cuda.max_memory_allocated() - before) / estimate < 1.3


def test_a_checkpoint_of_the_device_loads_on_the_processor(files, tmp_path, device: str) -> None:
    module, data = module_and_data(files)
    runner = trainer(tmp_path, device, enable_checkpointing=True)
    runner.fit(module, data)
    runner.save_checkpoint(tmp_path / "kept.ckpt")
    loaded = Seq2SeqModule.load_from_checkpoint(tmp_path / "kept.ckpt")
    for name, value in loaded.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, module.state_dict()[name].cpu())
