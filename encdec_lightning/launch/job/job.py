"""The job of a run folder: build everything from its frozen config, train, test, export."""

from __future__ import annotations

import sys
from functools import partial

import lightning
from lightning.pytorch.callbacks import LambdaCallback

from encdec_lightning.composition.parameters import count_parameters, count_trained
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.config import Config
from encdec_lightning.data.datamodule import Seq2SeqDataModule
from encdec_lightning.files import kind_of
from encdec_lightning.launch.job.at_work import at_work
from encdec_lightning.launch.job.devices import job_config
from encdec_lightning.launch.job.metrics_json import training_metrics
from encdec_lightning.launch.job.modules import loaded_module, new_data, new_module
from encdec_lightning.launch.job.quiet import quiet
from encdec_lightning.launch.job.targets import check_targets
from encdec_lightning.launch.job.testing import test
from encdec_lightning.launch.job.trainer import build_trainer, loggers_ended
from encdec_lightning.launch.job.weights import chosen_checkpoint, start_from
from encdec_lightning.launch.loggers.showing import show_parameters, show_predictions, summarize
from encdec_lightning.reporting.curves import draw_curves
from encdec_lightning.reporting.opening import opening
from encdec_lightning.run import Run
from encdec_lightning.signals import TERMINATION
from encdec_lightning.training.checkpoint import checkpoint_damage, read_file
from encdec_lightning.training.pieces import drop_unused_pieces
from encdec_lightning.training.task_module import TaskModule


def train(run: Run) -> None:
    """Fit from the last checkpoint if there is one, then test the chosen checkpoint and export it."""
    config = job_config(run)
    quiet()
    lightning.seed_everything(config.seed, verbose=False)
    tokenizers = Tokenizers.of(config.model)
    data = new_data(config, tokenizers)
    module: TaskModule = new_module(config, tokenizers)
    trainer = build_trainer(config, run)
    with loggers_ended(trainer):
        resumed = run.resumable(checkpoint_damage)
        if config.init_from is not None and resumed is None:
            start_from(module, config.init_from)
        data.prepare_data()  # before there are processes that would wait for it
        check_targets(config, data)
        data.check_devices(trainer.num_devices * trainer.num_nodes)
        if trainer.is_global_zero and resumed not in (None, run.last):
            print(f"{run.last} is damaged or gone: training goes on from {resumed}.", file=sys.stderr)
            if resumed == run.before_last:  # a damaged one must not take its place at the next checkpoint
                run.last.unlink(missing_ok=True)
        for logger in trainer.loggers:
            logger.log_hyperparams(config.frozen())
        module.show_predictions = partial(show_predictions, trainer, "val/predictions")
        opened = LambdaCallback(on_train_start=lambda *_: _opened(run, config, module, data, trainer))
        trainer.callbacks.insert(0, opened)  # type: ignore[attr-defined]  # before the progress begins
        with at_work(run, trainer):
            trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
        TERMINATION.check()
        if trainer.is_global_zero:
            run.write_metrics({**run.metrics(), **training_metrics(trainer, module, data)})
            draw_curves(run)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            chosen = chosen_checkpoint(run, config, trainer)
            module = loaded_module(chosen, config, with_task=True)
        test(run, config, trainer, data, module)
        if trainer.is_global_zero:
            summarize(trainer, run.metrics())
            if kind_of(run.last) is None and kind_of(run.before_last) is not None:  # the fit had ended before
                run.before_last.replace(run.last)
            run.before_last.unlink(missing_ok=True)  # nothing goes on from here
            drop_unused_pieces(run.checkpoints, partial(read_file, map_location="meta"))


def _opened(run: Run, config: Config, module: TaskModule, data: Seq2SeqDataModule, trainer: lightning.Trainer) -> None:
    """Say what is about to happen, in a few lines; from now on the run is of value."""
    if not trainer.is_global_zero:
        return
    run.note(trained=True)
    parameters = count_parameters(module.model)
    counts = parameters.as_built
    if trainer.global_step == 0:
        show_parameters(trainer, parameters)
    trained = count_trained(module.model)
    pairs = {split: int(data.examples(split).meta["examples"]) for split in ("train", "validation", "test")}
    steps = module.total_steps()
    length = f"{steps:,} steps" if steps else "steps without a number"
    warmup = config.training.warmup_steps
    if 0 < steps <= warmup:
        length += f", fewer than the warm-up's {warmup:,}, so that the learning rate never reaches its peak,"
    done = f", {trainer.global_step:,} are done" if trainer.global_step else ""
    devices = "" if trainer.world_size == 1 else f"{trainer.world_size} x "
    where = f"{devices}{trainer.strategy.root_device.type} in {trainer.precision}"
    print(opening(run, config.model, counts, trained, pairs, f"{length}{done} on {where}"), file=sys.stderr)
