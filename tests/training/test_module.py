from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import lightning
import pytest
import tiny
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from encdec_lightning import Generation, Loading, Seq2SeqDataModule, Seq2SeqModule, Task, Tokenizers, Training, compose
from encdec_lightning.composition.model import count_ties
from encdec_lightning.errors import UserError
from encdec_lightning.launch.loggers.journal import Journal
from encdec_lightning.launch.loggers.showing import show_predictions
from encdec_lightning.launch.loggers.wandb_run import WandbRun
from encdec_lightning.training.callbacks.random_state import RandomState

BEAMS = Generation(num_beams=2)


def parts(
    files: tiny.Files,
    dropout: float = 0.1,
    accumulate: int = 1,
    decoder: str = "bert",
    generation: Generation = BEAMS,
    **task: object,
):
    tokenizers = Tokenizers.from_pretrained(files.bert, getattr(files, decoder))
    chosen = Task(train=files.train, validation=files.validation, test=files.test, source="document", target="summary",
                  id="key", max_source_length=40, max_target_length=12, **task)  # type: ignore[arg-type] # fmt: skip
    torch.manual_seed(0)
    weights = "tied" if decoder == "bert" else "untied"
    model = compose(files.bert, getattr(files, decoder), weights, dropout=dropout, tokenizers=tokenizers)
    training = Training(
        learning_rate=1e-3, fresh_learning_rate=3e-3, warmup_steps=2, weight_decay=0.01, label_smoothing=0.1
    )
    module = Seq2SeqModule(model, tokenizers, chosen, training, generation)
    return module, Seq2SeqDataModule(chosen, tokenizers, Loading(batch_tokens=200, accumulate=accumulate))


def trainer(folder: Path, **arguments: object) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    defaults = {"max_steps": 6, "enable_checkpointing": False, "use_distributed_sampler": False}
    return lightning.Trainer(default_root_dir=folder, **{**quiet, **defaults, **arguments})  # type: ignore[arg-type]


def weights(module: Seq2SeqModule) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def fit(
    files: tiny.Files, folder: Path, callbacks: list[lightning.Callback], ckpt: Path | None = None, **arguments: object
):
    lightning.seed_everything(3, verbose=False)
    module, data = parts(files)
    runner = trainer(folder, callbacks=[RandomState(), *callbacks], **arguments)
    runner.fit(module, data, ckpt_path=ckpt, weights_only=True)
    return module


def test_dropout_is_on_in_training_and_off_in_validation(files: tiny.Files, tmp_path: Path) -> None:
    seen: dict[str, bool] = {}

    class Look(lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, index) -> None:
            seen["train"] = all(each.training for each in module.model.modules())

        def on_validation_batch_start(self, trainer, module, batch, index, dataloader_idx=0) -> None:
            seen["validation"] = any(each.training for each in module.model.modules())

    module = fit(files, tmp_path, [Look()])
    assert seen == {"train": True, "validation": False}
    batch = next(iter(parts(files)[1].train_dataloader()))
    module.model.train()
    first, second = (module.loss(batch)[0].item() for _ in range(2))
    assert first != second


@pytest.mark.parametrize("generation", [Generation(num_beams=2), Generation(do_sample=True)], ids=["beams", "draws"])
def test_watching_changes_nothing(files: tiny.Files, tmp_path: Path, generation: Generation) -> None:
    lightning.seed_everything(3, verbose=False)
    module, data = parts(files)
    trainer(tmp_path, limit_val_batches=0, num_sanity_val_steps=0).fit(module, data)
    alone = weights(module)
    lightning.seed_everything(3, verbose=False)
    module, data = parts(files, generation=generation, validation_generate=8)
    dashboard = WandbRun(save_dir=tmp_path, offline=True, project="mine")
    loggers = [lightning.pytorch.loggers.CSVLogger(tmp_path), dashboard]
    watched = trainer(tmp_path, val_check_interval=1, log_every_n_steps=1, logger=loggers)
    module.show_predictions = partial(show_predictions, watched, "val/predictions")
    watched.fit(module, data)
    dashboard.end(0)
    (rows,) = (Journal(file).rows() for file in tmp_path.rglob("wandb.jsonl"))
    assert sum("val/predictions" in row for row in rows.values()) == watched.global_step
    assert_equal(alone, weights(module))
    assert 0 <= float(watched.callback_metrics["val/rouge1"]) <= 100
    assert float(watched.callback_metrics["val/texts_per_second"]) > 0


@pytest.mark.parametrize("stop_at", [2, 5])  # within the first epoch, and beyond it
def test_resume_is_bit_exact_in_mid_epoch_with_dropout(files: tiny.Files, tmp_path: Path, stop_at: int) -> None:
    class Save(lightning.Callback):
        def on_validation_end(self, trainer, module) -> None:
            if trainer.global_step == stop_at:
                trainer.save_checkpoint(tmp_path / "at.ckpt")

    arguments = {"max_steps": 8, "val_check_interval": 1, "check_val_every_n_epoch": None}
    whole = fit(files, tmp_path, [Save()], **arguments)
    resumed = fit(files, tmp_path, [], ckpt=tmp_path / "at.ckpt", **arguments)
    assert_equal(weights(whole), weights(resumed))


def test_accumulation_is_token_exact(files: tiny.Files, tmp_path: Path) -> None:
    def one_step(accumulate: int, budget: int) -> dict[str, torch.Tensor]:
        module, _ = parts(files, dropout=0.0)
        data = Seq2SeqDataModule(module.task, module.tokenizers, Loading(batch_tokens=budget, accumulate=accumulate))
        steps = {"max_steps": 1, "accumulate_grad_batches": accumulate, "gradient_clip_val": 1.0}
        trainer(tmp_path, limit_val_batches=0, **steps).fit(module, data)
        return weights(module)

    # One update over all 64 examples: as one batch, and as several of different sizes.
    _, data = parts(files)
    several = len(data.train_dataloader())
    assert several > 2
    whole, pieces = one_step(1, 100_000), one_step(several, 200)
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_gradients_are_clipped_in_every_precision(precision, algorithm, files: tiny.Files, tmp_path: Path) -> None:
    """The default optimizer is fused."""
    before: list[float] = []
    stepped: list[float] = []

    class Look(lightning.Callback):
        def on_train_start(self, trainer, module) -> None:
            trainer.optimizers[0].register_step_post_hook(lambda *_: stepped.append(size(module)))

        def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
            before.append(size(module))

    def size(module) -> float:
        gradients = [each.grad.flatten() for each in module.parameters() if each.grad is not None]
        return torch.cat(gradients).norm(p=2 if algorithm == "norm" else torch.inf).item()

    limit = {"norm": 0.1, "value": 0.01}[algorithm]
    module, data = parts(files)
    clipping = {"gradient_clip_val": limit, "gradient_clip_algorithm": algorithm, "precision": precision}
    if precision == "16-mixed":  # which Lightning takes for another one on a processor
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        clipping |= {"precision": None, "plugins": [MixedPrecision(precision, "cpu", scaler)]}
    trainer(tmp_path, max_steps=2, limit_val_batches=0, callbacks=[Look()], **clipping).fit(module, data)
    assert min(before) > limit
    assert len(stepped) == 2
    assert max(stepped) <= limit * 1.001


def test_a_trainer_that_ends_an_epoch_within_a_step_is_refused(files: tiny.Files, tmp_path: Path) -> None:
    module, data = parts(files, accumulate=2)
    arguments = {"accumulate_grad_batches": 2, "limit_train_batches": 3}
    with pytest.raises(UserError, match=r"limit_train_batches is 3: it must be a multiple of the 2 micro-batches"):
        trainer(tmp_path, **arguments).fit(module, data)


def test_a_trainer_that_accumulates_otherwise_is_refused(files: tiny.Files, tmp_path: Path) -> None:
    module, data = parts(files, accumulate=2)
    with pytest.raises(UserError, match="accumulate"):
        trainer(tmp_path, accumulate_grad_batches=3).fit(module, data)


@pytest.mark.parametrize("decoder", ["bert", "gpt2"])
def test_load_from_checkpoint_needs_no_base_weights(tmp_path: Path, decoder: str) -> None:
    import shutil

    files = tiny.write_all(tmp_path)
    module, data = parts(files, decoder=decoder)
    runner = trainer(tmp_path, max_steps=2)
    runner.fit(module, data)
    runner.save_checkpoint(tmp_path / "a.ckpt")
    for folder in (files.bert, files.gpt2):
        shutil.rmtree(folder)
    loaded = Seq2SeqModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert_equal(weights(module), weights(loaded))
    assert count_ties(loaded.model) == len(module.model.shared)
    assert (loaded.task, loaded.generation) == (module.task, module.generation)
    batch = next(iter(data.test_dataloader()))
    module.eval()
    loaded.eval()
    assert [each.prediction for each in loaded.predict(batch)] == [each.prediction for each in module.predict(batch)]


def test_optimizer_has_each_tensor_once_in_groups_by_rate_and_decay(files: tiny.Files, tmp_path: Path) -> None:
    module, data = parts(files)
    trainer(tmp_path, max_steps=1).fit(module, data)
    optimizer = module.optimizers(use_pl_optimizer=False)
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(held) == len(set(held)) == len(list(module.parameters()))
    fresh = {id(dict(module.model.named_parameters())[name]) for name in module.model.config.fresh_parameters}
    for group in optimizer.param_groups:
        expected = 3e-3 if group["initial_lr"] == 3e-3 else 1e-3
        assert all((id(parameter) in fresh) == (expected == 3e-3) for parameter in group["params"])
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}
    assert {group["initial_lr"] for group in optimizer.param_groups} == {1e-3, 3e-3}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.01}


def test_it_learns(files: tiny.Files, tmp_path: Path) -> None:
    module, data = parts(files, dropout=0.0)
    trainer(tmp_path, max_steps=250, limit_val_batches=0, gradient_clip_val=1.0).fit(module, data)
    runner = trainer(tmp_path)
    runner.test(module, data, verbose=False)
    assert module.scores["rouge1"].value > 60  # an untrained model is below 20
    assert [each.id for each in module.predictions] == [row["key"] for row in tiny.pairs(12, 3)]


def test_validation_loss_is_the_mean_per_token_without_smoothing(files: tiny.Files, tmp_path: Path) -> None:
    module, data = parts(files)
    runner = trainer(tmp_path)
    (results, *_) = runner.validate(module, data, verbose=False)
    module.eval().requires_grad_(False)
    losses = [module.loss(batch) for batch in data.val_dataloader()[0]]
    expected = sum(float(total) for total, _ in losses) / sum(count for _, count in losses)
    assert results["val/loss"] == pytest.approx(expected, rel=1e-5)
    assert results["val/perplexity"] == pytest.approx(math.exp(results["val/loss"]))
    assert math.isfinite(expected)


def test_an_interrupted_evaluation_leaves_nothing_to_the_next(files: tiny.Files, tmp_path: Path) -> None:
    class Breaks(lightning.Callback):
        def on_validation_batch_end(self, trainer, module, outputs, batch, index, dataloader_idx=0) -> None:
            if dataloader_idx == 1:
                raise RuntimeError("interrupted")

    module, data = parts(files, validation_generate=8)
    expected = trainer(tmp_path).validate(module, data, verbose=False)[0]
    for evaluate in ("validate", "test"):
        with pytest.raises(RuntimeError, match="interrupted"):
            trainer(tmp_path, callbacks=[Breaks()]).validate(module, data, verbose=False)
        (found, *_) = getattr(trainer(tmp_path), evaluate)(module, data, verbose=False)
        assert all(found[name] == value for name, value in expected.items() if name in found and "texts" not in name)
    assert [each.id for each in module.predictions] == [row["key"] for row in tiny.pairs(12, 3)]


def test_it_validates_at_the_last_step(files: tiny.Files, tmp_path: Path) -> None:
    steps: list[int] = []

    class Look(lightning.Callback):
        def on_validation_end(self, trainer, module) -> None:
            steps.append(trainer.global_step)

    fit(
        files,
        tmp_path,
        [Look()],
        max_steps=5,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
    )
    assert steps == [2, 4, 5]
