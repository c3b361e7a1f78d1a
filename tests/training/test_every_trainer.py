"""All that Lightning's own Trainer does, with our module and our data: fit, validate, test, predict, whatever it is asked."""

from __future__ import annotations

import copy
import json
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import lightning
import pytest
import tiny
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.fabric.utilities.exceptions import MisconfigurationException

from encdec_lightning import Generation, Loading, Seq2SeqDataModule, Seq2SeqModule, Task, Tokenizers, Training, compose
from encdec_lightning.errors import UserError
from encdec_lightning.records import Pair, Prediction
from encdec_lightning.training.callbacks.throughput import Throughput

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


def parts(files: tiny.Files, loading: Loading | None = None, **task: object):
    tokenizers = Tokenizers.from_pretrained(files.bert)
    chosen = Task(train=files.train, validation=files.validation, test=files.test, source="document", target="summary",
                  id="key", max_source_length=40, max_target_length=12, **task)  # type: ignore[arg-type] # fmt: skip
    torch.manual_seed(0)
    model = compose(files.bert, files.bert, "tied", dropout=0.0, tokenizers=tokenizers)
    training = Training(learning_rate=3e-3, warmup_steps=1)
    module = Seq2SeqModule(model, tokenizers, chosen, training, Generation(max_length=4))
    return module, Seq2SeqDataModule(chosen, tokenizers, loading or Loading(batch_tokens=400))


class Losses(lightning.Callback):
    """The mean loss per target token of every batch."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.batches: list[int] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        scale = batch.update_tokens / int(batch.target_lengths.sum()) / trainer.accumulate_grad_batches
        self.values.append(outputs["loss"].item() * scale)
        self.batches.append(int(batch.target_ids.sum()))


def run(files: tiny.Files, loading: Loading | None = None, **arguments: object):
    """All four in turn; what each has seen."""
    module, data = parts(files, loading, validation_generate=4)
    losses = Losses()
    chosen = {**QUIET, "accelerator": "cpu", "max_steps": 6, "callbacks": [losses, Throughput()], **arguments}
    trainer = lightning.Trainer(**chosen)
    trainer.fit(module, data)
    validated = trainer.validate(module, data, verbose=False)
    trainer.test(module, data, verbose=False)
    tested = module.predictions
    predicted = [each for batch in trainer.predict(module, data) for each in batch]
    assert all(isinstance(each, Prediction) for each in [*tested, *predicted])
    if trainer.limit_predict_batches == trainer.limit_test_batches:
        assert sorted(predicted, key=lambda each: each.id) == sorted(tested, key=lambda each: each.id)
    return trainer, losses, validated, tested


@pytest.fixture(scope="module")
def plain(files):
    return run(files)


PRECISIONS = {
    "32-true": (torch.float32, 1e-6),
    "64-true": (torch.float64, 1e-4),
    "bf16-mixed": (torch.float32, 0.02),
    "bf16-true": (torch.bfloat16, 0.05),
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_trains_to_nearly_the_same_losses(precision, plain, files, tmp_path):
    dtype, tolerance = PRECISIONS[precision]
    trainer, losses, validated, _ = run(files, precision=precision)
    assert {each.dtype for each in trainer.lightning_module.parameters()} == {dtype}
    _, expected, known, _ = plain
    assert losses.values[0] == pytest.approx(expected.values[0], rel=tolerance)
    assert losses.values == pytest.approx(expected.values, rel=4 * tolerance)
    assert expected.values[-1] < expected.values[0] - 0.5
    assert validated[0]["val/loss"] == pytest.approx(known[0]["val/loss"], rel=4 * tolerance)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = Seq2SeqModule.load_from_checkpoint(tmp_path / "a.ckpt")
    for name, value in trainer.lightning_module.state_dict().items():
        assert loaded.state_dict()[name].dtype == value.dtype and torch.equal(loaded.state_dict()[name], value)


def test_fp16_with_autocast_is_bf16_on_a_processor_and_lightning_says_so(files):
    with pytest.warns(UserWarning, match="Using `precision='bf16-mixed'` instead"):
        trainer, *_ = run(files, precision="16-mixed")
    assert trainer.precision == "bf16-mixed"


def test_weights_in_fp16_generate_and_are_not_trained(files):
    module, data = parts(files)
    trainer = lightning.Trainer(**QUIET, accelerator="cpu", max_steps=2, precision="16-true")
    with pytest.raises(UserError, match=r"Trainer\.precision is '16-true': squares of gradients vanish in fp16"):
        trainer.fit(module, data)
    (validated,) = trainer.validate(module, data, verbose=False)
    trainer.test(module, data, verbose=False)
    assert next(module.parameters()).dtype == torch.float16
    assert 3 < validated["val/loss"] < 6 and len(module.predictions) == 12


OPTIONS = {
    "limits in numbers": {f"limit_{name}_batches": 1 for name in ("train", "val", "test", "predict")},
    "limits in shares": {f"limit_{name}_batches": 0.5 for name in ("train", "test", "predict")},
    "overfit": {"overfit_batches": 2},
    "time": {"max_time": "00:00:00:02", "max_steps": 100_000},
    "epochs": {"max_steps": -1, "max_epochs": 2, "reload_dataloaders_every_n_epochs": 1},
    "simple profiler": {"profiler": "simple"},
    "advanced profiler": {"profiler": "advanced"},
    "anomalies": {"detect_anomaly": True},
    "dry": {"fast_dev_run": True},
    "three dry batches": {"fast_dev_run": 3},
    "sanity": {"num_sanity_val_steps": -1},
    "clipped by norm": {"gradient_clip_val": 1.0},
    "clipped by value": {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
    "deterministic": {"deterministic": True},
    "no inference mode": {"inference_mode": False},
    "no logs": {"log_every_n_steps": 0},
    "validation by shares": {"val_check_interval": 0.25},
    "no validation": {"limit_val_batches": 0},
    "its own sampler": {"use_distributed_sampler": True},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option(option, files):
    trainer, losses, _, tested = run(files, **OPTIONS[option])
    assert trainer.global_step == len(losses.values) > 0
    assert all(value < 8 for value in losses.values)
    assert tested


def test_barebones(files):
    """It switches off what it is asked for to be switched off by others."""
    module, data = parts(files, validation_generate=4)
    trainer = lightning.Trainer(barebones=True, accelerator="cpu", max_steps=3, callbacks=[Throughput()])
    trainer.fit(module, data)
    trainer.validate(module, data, verbose=False)
    trainer.test(module, data, verbose=False)
    assert (trainer.global_step, len(module.predictions)) == (3, 12)
    assert [each for batch in trainer.predict(module, data) for each in batch]


@pytest.mark.filterwarnings("ignore:The PyTorch Profiler default schedule will be overridden")
def test_the_profiler_of_torch_writes_what_it_has_seen(files, tmp_path):
    module, data = parts(files)
    lightning.Trainer(**QUIET, accelerator="cpu", max_steps=6, profiler="pytorch", default_root_dir=tmp_path).fit(module, data)  # fmt: skip
    (trace,) = tmp_path.glob("*.pt.trace.json")
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"aten::addmm", "[pl][profile]run_training_batch"} <= names


def test_overfitting_sees_the_same_batches_again(files):
    _, losses, *_ = run(files, overfit_batches=2, max_steps=40)
    assert len(set(losses.batches)) == 2
    assert losses.batches[::2] == losses.batches[:1] * 20
    assert losses.values[-1] < 0.7 * losses.values[0]


ACCUMULATED = {
    "share": ({"limit_train_batches": 0.5}, None),
    "number": ({"limit_train_batches": 6}, 2),
    "overfit": ({"overfit_batches": 3}, 1),
    "all": ({}, None),
}


@pytest.mark.parametrize("case", ACCUMULATED)
@pytest.mark.parametrize("sized", [True, False])
def test_limits_are_of_whole_steps_and_the_schedule_ends_with_them(sized, case, files):
    options, updates = ACCUMULATED[case]
    loading = Loading(batch_tokens=100, **({"update_examples": 8} if sized else {"accumulate": 3}))
    module, data = parts(files, loading)
    micro_batches = data.micro_batches
    if "limit_train_batches" in options and isinstance(options["limit_train_batches"], int):
        options = {"limit_train_batches": 2 * micro_batches}
    elif "overfit_batches" in options:
        options = {"overfit_batches": micro_batches}
    losses = Losses()
    rates: list[float] = []

    class Rates(lightning.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    trainer = lightning.Trainer(**QUIET, accelerator="cpu", max_epochs=2, callbacks=[losses, Rates()], num_sanity_val_steps=0,
                                accumulate_grad_batches=1 if sized else 3, **options)  # fmt: skip
    trainer.fit(module, data)
    if updates is None:
        updates = int(len(data._training_plan(0)) * options.get("limit_train_batches", 1.0))
    assert trainer.global_step == len(rates) == 2 * updates
    assert len(losses.values) == 2 * updates * micro_batches
    assert rates[-1] == pytest.approx(rates[0] / (2 * updates))  # linear: the step after the last would have 0


@pytest.mark.parametrize("name", ["limit_train_batches", "overfit_batches"])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_share_of_less_than_one_step_is_refused(accumulate, name, files):
    module, data = parts(files, Loading(batch_tokens=100, accumulate=accumulate))
    share = 0.5 / len(data._training_plan(0))
    trainer = lightning.Trainer(
        **QUIET, accelerator="cpu", max_steps=2, accumulate_grad_batches=accumulate, **{name: share}
    )
    with pytest.raises(
        UserError, match=rf"Trainer.{name} is .*: it must leave at least one of the \d+ optimizer steps"
    ):
        trainer.fit(module, data)


def test_a_dry_run_of_accumulated_batches(files):
    module, data = parts(files, Loading(batch_tokens=100, update_examples=8))
    assert data.micro_batches > 1
    trainer = lightning.Trainer(**QUIET, accelerator="cpu", max_epochs=2, fast_dev_run=True)
    trainer.fit(module, data)
    assert trainer.global_step == 1


def test_what_lightning_refuses_it_refuses(files):
    with pytest.raises(MisconfigurationException, match=r"limit_val_batches"):
        run(files, limit_val_batches=0.01)


def test_records_are_fixed_and_yet_lightning_may_copy_them(files):
    batch = next(iter(parts(files)[1].test_dataloader()))
    records = (Pair("1", "a", "b"), Prediction("1", "a", "b", "c"), batch)
    for record in records:
        for each in fields(record):
            setattr(record, each.name, getattr(record, each.name))  # what it holds already
            with pytest.raises(FrozenInstanceError):
                setattr(record, each.name, "another")
            with pytest.raises(FrozenInstanceError):
                delattr(record, each.name)
    with pytest.raises(FrozenInstanceError):
        batch.source_ids = batch.source_ids.clone()
    with pytest.raises(FrozenInstanceError):
        batch.examples = float(batch.examples)
    for record in records[:2]:
        assert hash(record) == hash(copy.deepcopy(record)) and copy.copy(record) == record
        assert move_data_to_device([record], "cpu") == [record]


def test_predictions_of_a_plain_trainer_are_those_of_the_module(plain, tmp_path: Path, files):
    trainer, _, _, tested = plain
    data = parts(files)[1]
    trainer.lightning_module.eval()
    expected = [each for batch in data.predict_dataloader() for each in trainer.lightning_module.predict(batch)]
    assert sorted(expected, key=lambda each: each.id) == sorted(tested, key=lambda each: each.id)
