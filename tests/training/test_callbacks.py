from __future__ import annotations

import csv
import json
import random
import time
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import tiny
import torch
from lightning.pytorch.loggers import CSVLogger

from encdec_lightning import Loading, Seq2SeqDataModule, Seq2SeqModule, Task, Tokenizers, Training, compose
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.signals import TERMINATION
from encdec_lightning.training.callbacks import ending, heartbeat
from encdec_lightning.training.callbacks.random_state import RandomState
from encdec_lightning.training.callbacks.throughput import Throughput, Totals


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_generators_continue_where_they_were_saved(tmp_path: Path) -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    draws()
    torch.save(RandomState().state_dict(), tmp_path / "state")
    expected = draws()
    callback = RandomState()
    callback.load_state_dict(torch.load(tmp_path / "state", weights_only=True))  # nothing has to be unpickled
    draws()  # what happens between loading and the start of training
    callback.on_train_start(SimpleNamespace(global_rank=0), None)
    assert draws() == expected


PARTS = ("data", "forward", "backward", "optimizer")


class Slow(lightning.Callback):
    """A step's parts take known times."""

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        time.sleep(0.05)

    def on_validation_start(self, trainer, module) -> None:
        time.sleep(0.3)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_throughput_counts_real_tokens_and_all_of_the_time(files: tiny.Files, tmp_path: Path, accumulate: int) -> None:
    tokenizers = Tokenizers.from_pretrained(files.bert, files.bert)
    task = Task(train=files.train, validation=files.validation, source="document", target="summary",
                max_source_length=40, max_target_length=12)  # fmt: skip
    model = compose(files.bert, files.bert, tokenizers=tokenizers)
    module = Seq2SeqModule(model, tokenizers, task, Training())
    data = Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=200, accumulate=accumulate))
    batches: list[Batch] = []

    class Count(lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, index) -> None:
            batches.append(batch)

    throughput, logger = Throughput(), CSVLogger(tmp_path)
    started = time.perf_counter()
    trainer = lightning.Trainer(
        max_steps=4, callbacks=[throughput, Slow(), Count()], logger=logger, log_every_n_steps=2, accelerator="cpu",
        accumulate_grad_batches=accumulate, val_check_interval=2 * accumulate, check_val_every_n_epoch=None,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, data)
    wall = time.perf_counter() - started
    totals = throughput.totals
    assert totals.tokens == sum(each.tokens for each in batches)
    assert totals.examples == sum(each.examples for each in batches)
    assert 0.2 <= totals.seconds < wall - 0.3  # without the validations, which slept longer than that
    assert totals.tokens_per_second == totals.tokens / totals.seconds
    assert 0 < totals.mfu < 1
    logger.save()
    text = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text()
    rows = [row for row in csv.DictReader(text.splitlines()) if row["train/mfu"]]
    last = {name: float(value) for name, value in rows[-1].items() if value and name.startswith("train/")}
    assert last["train/seconds_optimizer"] > 0.05
    assert all(last[f"train/seconds_{part}"] > 0 for part in PARTS)
    assert 0 <= last["train/padding"] < 1 and last["train/memory_gib"] > 0.05
    assert last["train/tokens"] == totals.tokens
    assert last["train/target_tokens"] == totals.target_tokens == sum(each.target_tokens for each in batches)
    assert last["train/seconds"] == pytest.approx(totals.seconds)
    assert [float(row["train/seconds"]) for row in rows] == sorted(float(row["train/seconds"]) for row in rows)
    since = batches[-2 * accumulate :]  # the last log's
    tokens = sum(each.tokens for each in since)
    padded = sum(each.source_ids.numel() + each.target_ids.numel() for each in since)
    seconds = tokens / last["train/tokens_per_second"]
    assert seconds < totals.seconds
    assert last["train/padding"] == pytest.approx(1 - tokens / padded, abs=1e-5)
    examples = sum(each.examples for each in since)
    assert last["train/examples_per_second"] * seconds == pytest.approx(examples, rel=1e-4)
    flops = sum(throughput._flops.of(each) for each in since)
    assert last["train/mfu"] * throughput._peak * seconds == pytest.approx(flops, rel=1e-4)


@pytest.mark.parametrize(("accumulate", "end"), [(1, {"max_steps": 17}), (3, {"max_steps": 7}), (1, {"max_epochs": 2})])
def test_what_is_logged_in_a_later_epoch_is_of_the_step_it_is_logged_at(accumulate, end, files, tmp_path) -> None:
    """Lightning counts the steps of the whole fit, and logs the last one too."""
    tokenizers = Tokenizers.from_pretrained(files.bert, files.bert)
    task = Task(train=files.train, validation=files.validation, source="document", target="summary",
                max_source_length=40, max_target_length=12)  # fmt: skip
    module = Seq2SeqModule(compose(files.bert, files.bert, tokenizers=tokenizers), tokenizers, task, Training())
    data = Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=400, accumulate=accumulate))
    tokens, at = 0, {}

    class Count(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
            nonlocal tokens
            tokens += batch.tokens
            at.setdefault(trainer.global_step - 1, tokens)

    logger = CSVLogger(tmp_path)
    trainer = lightning.Trainer(
        **{"max_epochs": -1, **end}, callbacks=[Throughput(), Count()], logger=logger, log_every_n_steps=3,
        accelerator="cpu", accumulate_grad_batches=accumulate, limit_val_batches=0, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, data)
    assert trainer.current_epoch > 0
    logger.save()
    text = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text()
    rows = {
        int(row["step"]): float(row["train/tokens"]) for row in csv.DictReader(text.splitlines()) if row["train/tokens"]
    }
    assert set(rows) >= {2, 5, trainer.global_step - 1}
    assert rows == {step: at[step] for step in rows}


def test_totals_go_on_where_a_checkpoint_was_written() -> None:
    first = Throughput()
    first._own = Totals(2.0, 300, 30, flops=8.0, peak_flops=20.0, target_tokens=90)
    second = Throughput()
    second.load_state_dict(first.state_dict())
    assert second.totals == first._own  # also where nothing is left to do
    second._own = Totals(1.0, 100, 10, flops=4.0, peak_flops=10.0, target_tokens=30)
    second.on_train_end(SimpleNamespace(), None)
    assert second.totals == Totals(3.0, 400, 40, flops=12.0, peak_flops=30.0, target_tokens=120)
    assert (second.totals.tokens_per_second, second.totals.mfu) == (400 / 3, 0.4)


def test_throughput_changes_no_weight(files: tiny.Files, tmp_path: Path) -> None:
    states = []
    for callbacks in ([], [Throughput()]):
        lightning.seed_everything(3, verbose=False)
        tokenizers = Tokenizers.from_pretrained(files.bert, files.bert)
        task = Task(train=files.train, validation=files.validation, source="document", target="summary",
                    max_source_length=40, max_target_length=12)  # fmt: skip
        module = Seq2SeqModule(compose(files.bert, files.bert, dropout=0.1), tokenizers, task, Training())
        trainer = lightning.Trainer(
            max_steps=3, callbacks=callbacks, logger=CSVLogger(tmp_path), log_every_n_steps=1, accelerator="cpu",
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(module, Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=200)))
        states.append(module.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_time_that_is_left_is_that_of_the_steps_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(time=lambda: now))
    trainer = SimpleNamespace(is_global_zero=True, global_step=10)
    module = SimpleNamespace(total_steps=lambda: 40)
    callback = heartbeat.Heartbeat(tmp_path)
    callback.on_train_start(trainer, module)
    trainer.global_step, now = 20, 130.0
    callback.on_train_batch_end(trainer, module)
    told = json.loads((tmp_path / heartbeat.FILE).read_text())
    assert told["seconds_left"] == 60.0  # 10 steps took 30 s, 20 are left


@pytest.mark.parametrize(("deferred", "heard"), [(False, [True, False]), (True, [False, True])])
def test_a_request_to_another_rank_is_heard_at_once_or_one_step_later(deferred, heard, tmp_path, monkeypatch) -> None:
    others = iter([1.0, 0.0])
    monkeypatch.setattr(TERMINATION, "asked", False)
    monkeypatch.setattr(ending.distributed, "all_reduce", lambda own, op: own.fill_(max(float(own), next(others))))
    trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    callback = ending.EndTogether(tmp_path / "end.ckpt", deferred=deferred)
    assert [callback._agreed(trainer) for _ in range(2)] == heard
