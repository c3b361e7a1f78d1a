"""The Trainer of a run, and one that only evaluates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import lightning
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import WandbLogger

from encdec_lightning.config import Config, Node
from encdec_lightning.launch.job.meeting import RanksMeet
from encdec_lightning.launch.job.rank_starter import rank_starter
from encdec_lightning.launch.loggers.labels import labels
from encdec_lightning.launch.loggers.wandb_run import WandbRun
from encdec_lightning.launch.slots.build import CALLBACK, LOGGER, TRAINER
from encdec_lightning.launch.slots.places import build_inside
from encdec_lightning.run import Run
from encdec_lightning.signals import Terminated
from encdec_lightning.training.callbacks.checkpoints import LastCheckpoint
from encdec_lightning.training.callbacks.ending import EndTogether
from encdec_lightning.training.callbacks.heartbeat import Heartbeat
from encdec_lightning.training.callbacks.progress import FitProgress
from encdec_lightning.training.callbacks.timed_checkpoint import TimedCheckpoint
from encdec_lightning.training.callbacks.validate_every import ValidateEvery
from encdec_lightning.training.checkpoint_io import DurableCheckpointIO

PROFILERS = {"simple": "SimpleProfiler", "advanced": "AdvancedProfiler", "pytorch": "PyTorchProfiler"}


def build_trainer(config: Config, run: Run) -> lightning.Trainer:
    """The Trainer of a run; its checkpoints and logs lie in the run's folder."""
    node: Node = {"enable_model_summary": False, **config.trainer}  # the opening lines say more
    built = partial(build_inside, run.folder)
    callbacks = [
        built(f"callbacks.{name}", each, CALLBACK, dirpath=run.checkpoints) for name, each in _nodes(config.callbacks)
    ]
    if node.get("enable_progress_bar") is False:
        callbacks = [each for each in callbacks if not isinstance(each, ProgressBar)]
    if not any(isinstance(each, LastCheckpoint) for each in callbacks):
        callbacks.append(LastCheckpoint(run.checkpoints, only_at_end=True))
    callbacks.sort(key=lambda each: isinstance(each, LastCheckpoint))  # it writes down the state of all others
    where = {"save_dir": run.logs, "id": run.id, **labels(run, config)}
    loggers = [built(f"logger.{name}", each, LOGGER, **where) for name, each in _nodes(config.logger)]
    callbacks.insert(0, RanksMeet(run))
    callbacks += [EndTogether(run.last), Heartbeat(run.folder)]
    if config.checkpoint_minutes is not None:
        callbacks.append(TimedCheckpoint(run.last, config.checkpoint_minutes))
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
        plugins=[DurableCheckpointIO({run.last: run.before_last}), rank_starter()],
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
        plugins=[rank_starter()],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


@contextmanager
def loggers_ended(trainer: lightning.Trainer) -> Iterator[None]:
    """For a Trainer's work: at its end, good or bad, wandb's run ends, which would take the next fit's logs too."""
    try:
        yield
    except BaseException as error:
        _end_loggers(trainer, 1, preempted=isinstance(error, KeyboardInterrupt | Terminated))
        raise
    _end_loggers(trainer, 0)


def _end_loggers(trainer: lightning.Trainer, exit_code: int, preempted: bool = False) -> None:
    for each in trainer.loggers:
        if isinstance(each, WandbRun):
            each.end(exit_code, preempted)
        elif isinstance(each, WandbLogger):
            import wandb

            if wandb.run is not None:
                wandb.finish(exit_code)


def _nodes(slots: dict[str, Node | None]) -> Iterator[tuple[str, Node]]:
    """The slots that are in use."""
    return ((name, node) for name, node in slots.items() if node is not None)
