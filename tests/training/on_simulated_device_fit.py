"""A fit under the Trainer on a device that is not the processor (`simulated_device.py`), beside the same on the processor."""

from __future__ import annotations

import lightning
import pytest
import simulated_device as device
import torch
from lightning.pytorch import accelerators
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy

from encdec_lightning import Loading, Seq2SeqDataModule, Seq2SeqModule, Task, Tokenizers, Training, compose
from encdec_lightning.training.callbacks.finite import FiniteSteps
from encdec_lightning.training.callbacks.progress import FitProgress
from encdec_lightning.training.callbacks.throughput import Throughput


def whole(model: torch.nn.Module) -> torch.Tensor:
    """All weights, shared ones by each of their names: a fit's end takes the model off the device, and parts them there."""
    return torch.cat(
        [each.detach().cpu().flatten() for each in model.state_dict().values() if each.is_floating_point()]
    )


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
        weights, right = whole(found.model), whole(expected.model)
        assert (weights - right).norm() < (3e-2 if precision == "bf16-mixed" else 1e-4) * right.norm()
