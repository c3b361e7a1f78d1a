"""What only a GPU can show of a fit under the Trainer: `python -m pytest -m gpu`."""

from __future__ import annotations

import copy
import functools
import gc
from pathlib import Path

import lightning
import pytest
import tiny
import torch

from encdec_lightning import Composition, Loading, Seq2SeqDataModule, Seq2SeqModule, Task, Tokenizers, Training, compose
from encdec_lightning.composition.checks.skeleton import skeleton
from encdec_lightning.reporting.memory import Setting, memory_per_device, states_of
from encdec_lightning.training import arrange


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


def test_16_bits_with_a_scaler(files, tmp_path, device: str) -> None:
    module, data = module_and_data(files)
    before = copy.deepcopy(module.model).state_dict()
    precision = "16-mixed" if device == "cuda" else "bf16-mixed"
    trainer(tmp_path, device, precision=precision, max_steps=8, gradient_clip_val=1.0).fit(module, data)
    after = module.model.state_dict()
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert any(not torch.equal(value.cpu(), before[name]) for name, value in after.items())


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
