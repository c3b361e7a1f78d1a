"""The job of a run folder: build everything from its frozen config, train, test, export."""

from __future__ import annotations

import logging
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
import transformers
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import Logger

from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.parameters import count_parameters
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.config import Config, Node
from encdec_lightning.data.datamodule import Seq2SeqDataModule
from encdec_lightning.data.examples.store import OnDisk
from encdec_lightning.data.sources.pairs import Split
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.evaluation.references import check_references
from encdec_lightning.files import damage, kind_of
from encdec_lightning.launch.build import build_partial, lightnings_refusals
from encdec_lightning.launch.places import build_inside
from encdec_lightning.launch.processes import further_ranks, ranks_watched
from encdec_lightning.reporting.card import write_card
from encdec_lightning.reporting.curves import draw_curves
from encdec_lightning.reporting.opening import opening
from encdec_lightning.reporting.results import write_results
from encdec_lightning.rules import convert
from encdec_lightning.run import Run
from encdec_lightning.signals import TERMINATION
from encdec_lightning.training.callbacks.checkpoints import LastCheckpoint, best_keeper, name_best
from encdec_lightning.training.callbacks.ending import EndTogether
from encdec_lightning.training.callbacks.progress import FitProgress
from encdec_lightning.training.callbacks.throughput import Throughput
from encdec_lightning.training.callbacks.validate_every import ValidateEvery
from encdec_lightning.training.checkpoint import load_checkpoint
from encdec_lightning.training.checkpoint_io import DurableCheckpointIO
from encdec_lightning.training.module import Seq2SeqModule

DATA_COUNTS = ("skipped", "dropped_by_preprocessing", "too_long_dropped")
PROFILERS = {"simple": "SimpleProfiler", "advanced": "AdvancedProfiler", "pytorch": "PyTorchProfiler"}
TRAINER, CALLBACK, LOGGER, OPTIMIZER = lightning.Trainer, lightning.Callback, Logger, torch.optim.Optimizer


def train(run: Run) -> None:
    """Fit from the last checkpoint if there is one, then test the chosen checkpoint and export it."""
    config = convert(run.config())
    quiet()
    lightning.seed_everything(config.seed, verbose=False)
    tokenizers = Tokenizers.from_pretrained(*config.model.vocabularies)
    data = Seq2SeqDataModule(config.task, tokenizers, config.loading)
    module = Seq2SeqModule(
        compose(**asdict(config.model), tokenizers=tokenizers),
        tokenizers,
        config.task,
        config.training,
        config.generation,
        optimizer=build_partial("optimizer", config.optimizer, OPTIMIZER),
    )
    trainer = build_trainer(config, run)
    resumed = run.resumable()
    if config.init_from is not None and resumed is None:
        start_from(module, config.init_from)
    data.prepare_data()  # before there are processes that would wait for it
    check_targets(config, data)
    if trainer.is_global_zero and resumed not in (None, run.last):
        print(f"{run.last} is damaged or gone: training goes on from {resumed}.", file=sys.stderr)
    for logger in trainer.loggers:
        logger.log_hyperparams(asdict(config))
    opened = LambdaCallback(on_train_start=lambda *_: _opened(run, config, module, data, trainer))
    trainer.callbacks.insert(0, opened)  # type: ignore[attr-defined]  # before the progress begins
    with lightnings_refusals(), ranks_watched(run, further_ranks(trainer)), interruptible(trainer):
        trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
    TERMINATION.check()
    if trainer.is_global_zero:
        run.write_metrics({**run.metrics(), **training_metrics(trainer, module, data)})
        draw_curves(run)
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        chosen = chosen_checkpoint(run, config, trainer)
        module = Seq2SeqModule.load_from_checkpoint(chosen, task=config.task, generation=config.generation)
    test(run, config, trainer, data, module)
    if trainer.is_global_zero:
        run.before_last.unlink(missing_ok=True)  # nothing goes on from here


def chosen_checkpoint(run: Run, config: Config, trainer: lightning.Trainer) -> Path:
    """The checkpoint to test after a fit. All ranks must call it: a callback's best one gets its name in the run."""
    keeper = best_keeper(trainer)
    if keeper is not None and keeper.best_model_path:
        name_best(trainer, keeper, run.checkpoints)
    best = run.checkpoints / "best.ckpt"
    if config.checkpoint == "best" and kind_of(best) != "folder" and damage(best) is not None:
        if trainer.is_global_zero:
            why = f"{best}: {damage(best)}" if best.exists() else "the fit has made no best one, or it is gone"
            print(f"checkpoint is 'best': {why}, the last one is tested.", file=sys.stderr)
        return run.checkpoint("last")
    return run.checkpoint(config.checkpoint)


def test(run: Run, config: Config, trainer: lightning.Trainer, data: Seq2SeqDataModule, module: Seq2SeqModule) -> None:
    """Generate the test set, score it, write it into the run, and export the model."""
    module.keep_predictions = run.write_predictions
    with lightnings_refusals(), ranks_watched(run, further_ranks(trainer)), interruptible(trainer):
        trainer.test(module, data, verbose=False)
    if trainer.is_global_zero:
        metrics, baselines = config.task.scored_with, config.task.baselines or []
        write_results(run, module.predictions, module.scores, metrics, baselines, module.failed_scores)
        meta = data.examples("test").meta
        told = {f"data/test_{name}": meta[name] for name in ("fingerprint", *DATA_COUNTS)}
        run.write_metrics({**run.metrics(), **told})
        if config.export:
            with run.replacing_model() as folder:
                module.export(folder)
                write_card(run, folder)
        elif run.model.is_dir():
            write_card(run, run.model)  # tested again: what its card says of scores is out of date


def check_targets(config: Config, data: Seq2SeqDataModule) -> None:
    """Raise `UserErrors` if a metric does not fit the targets of a split that it will be computed on."""
    splits: tuple[Split, ...] = ("validation", "test") if config.task.validation_generate else ("test",)
    found: list[UserError] = []
    for split in splits:
        targets = partial(_targets, data.examples(split))
        found += check_references(config.task.scored_with, split, targets)
    if found:
        raise UserErrors(found)


@contextmanager
def interruptible(trainer: lightning.Trainer) -> Iterator[None]:
    """An interrupt leaves the block as `KeyboardInterrupt`; Lightning turns it into an exit with code 1."""
    try:
        yield
    except SystemExit:
        if trainer.interrupted and not TERMINATION.asked:
            raise KeyboardInterrupt from None
        raise
    finally:
        TERMINATION.deferred = False


def start_from(module: Seq2SeqModule, folder: str) -> None:
    """Take the weights of another run's best checkpoint, or of its last where it has no best one."""
    path = Run.open(folder, "init_from").best_or_last()
    state = load_checkpoint(path, "cpu")["state_dict"]
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError("init_from", folder, "its model has other parameters than this run's") from error
    loaded = module.state_dict()
    if not all(torch.equal(value, loaded[name]) for name, value in state.items()):
        raise UserError("init_from", folder, "its model shares fewer parameters than this run's (model.weights)")


def build_trainer(config: Config, run: Run) -> lightning.Trainer:
    """The Trainer of a run; its checkpoints and logs lie in the run's folder."""
    node: Node = {"enable_model_summary": False, **config.trainer}  # the opening lines say more
    built = partial(build_inside, run.folder)
    callbacks = [
        built(f"callbacks.{name}", each, CALLBACK, dirpath=run.checkpoints) for name, each in _nodes(config.callbacks)
    ]
    if not any(isinstance(each, LastCheckpoint) for each in callbacks):
        callbacks.append(LastCheckpoint(run.checkpoints, only_at_end=True))
    callbacks.sort(key=lambda each: isinstance(each, LastCheckpoint))  # it writes down the state of all others
    where = {"save_dir": run.logs, "id": run.id, "name": config.name}
    loggers = [built(f"logger.{name}", each, LOGGER, **where) for name, each in _nodes(config.logger)]
    callbacks.append(EndTogether(run.checkpoints / "last.ckpt"))
    every = config.validate_every
    if every is not None:
        callbacks.append(ValidateEvery(every))
    if str(node.get("profiler")) in PROFILERS:  # their reports would go to a log that is silent
        target = {"_target_": f"lightning.pytorch.profilers.{PROFILERS[node['profiler']]}"}
        node["profiler"] = {**target, "dirpath": run.logs.name, "filename": "profile"}
    trainer: lightning.Trainer = built(
        "trainer",
        node,
        TRAINER,
        callbacks=callbacks,
        plugins=[DurableCheckpointIO({run.last: run.before_last})],
        logger=loggers,
        default_root_dir=run.folder,
        accumulate_grad_batches=config.data.accumulate,
        val_check_interval=every,
        check_val_every_n_epoch=1 if every is None else None,
        use_distributed_sampler=False,
    )
    return trainer


def build_evaluator(config: Config) -> lightning.Trainer:
    """A Trainer on one device that only tests: nothing of a run's open slots is built, for a config can call code."""
    return lightning.Trainer(
        accelerator="auto",
        devices=1,
        precision=config.trainer.get("precision"),
        callbacks=[FitProgress()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


def _opened(
    run: Run, config: Config, module: Seq2SeqModule, data: Seq2SeqDataModule, trainer: lightning.Trainer
) -> None:
    """Say what is about to happen, in a few lines; from now on the run is of value."""
    if not trainer.is_global_zero:
        return
    run.note_training()
    counts = count_parameters(module.model).as_built
    trained = sum(each.numel() for each in module.parameters() if each.requires_grad)
    pairs = {split: int(data.examples(split).meta["examples"]) for split in ("train", "validation", "test")}
    steps = module.total_steps()
    length = f"{steps:,} steps" if steps else "steps without a number"
    done = f", {trainer.global_step:,} are done" if trainer.global_step else ""
    devices = "" if trainer.world_size == 1 else f"{trainer.world_size} x "
    where = f"{devices}{trainer.strategy.root_device.type} in {trainer.precision}"
    print(opening(run, config.model, counts, trained, pairs, f"{length}{done} on {where}"), file=sys.stderr)


def training_metrics(trainer: lightning.Trainer, module: Seq2SeqModule, data: Seq2SeqDataModule) -> dict[str, Any]:
    """What `metrics.json` says of the training itself."""
    metrics: dict[str, Any] = {
        "train/steps": trainer.global_step,
        "train/precision": str(trainer.precision),
        "train/devices": trainer.world_size,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        **{
            f"data/{split}_{name}": data.examples(split).meta[name]
            for split in ("train", "validation")
            for name in ("examples", "fingerprint", *DATA_COUNTS)
        },
        "train/micro_batches": data.micro_batches,
        "python": platform.python_version(),
        **{f"version/{name}": version(name) for name in ("encdec_lightning", "torch", "transformers", "lightning")},
    }
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Throughput) and callback.totals.seconds:
            metrics["train/seconds"] = callback.totals.seconds
            metrics["train/examples"] = callback.totals.examples
            metrics["train/tokens_per_second"] = callback.totals.tokens_per_second
            metrics["train/mfu"] = callback.totals.mfu
    keeper = best_keeper(trainer)
    if keeper is not None and keeper.best_model_score is not None:
        metrics[f"best/{keeper.monitor}"] = float(keeper.best_model_score)
    return metrics


def quiet() -> None:
    """Silence what libraries say that a user of a command can do nothing about."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a run continues
    warnings.filterwarnings("ignore", message="Precision .* is not supported by the model summary.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # the module gathers by itself


def _targets(examples: OnDisk) -> Iterator[str]:
    return (examples.pair(number).target for number in range(len(examples.lengths)))


def _nodes(slots: dict[str, Node | None]) -> Iterator[tuple[str, Node]]:
    """The slots that are in use."""
    return ((name, node) for name, node in slots.items() if node is not None)
