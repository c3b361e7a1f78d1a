"""What a config leaves open, decided before it is frozen; and what of a user's choices contradicts that."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from encdec_lightning.config import Config, Node
from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.metric import direction
from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.rules import concerned
from encdec_lightning.training.options import NO_FP16_WEIGHTS

Mode = Literal["min", "max"]
LOSSES = ("train/loss", "val/loss", "val/perplexity")
BEST_CHECKPOINT = "encdec_lightning.training.callbacks.checkpoints.BestCheckpoint"


def settle(config: Config) -> Config:
    """The config with everything decided that follows from its metrics and callbacks; a settled one stays as it is.

    `task.monitor_mode` and the `mode` of each callback that monitors something follow from the metric. `checkpoint`
    becomes last where no best one can exist.
    """
    mode = config.task.monitor_mode or _direction(config, config.task.monitor)
    config = replace(config, task=replace(config.task, monitor_mode=mode))
    callbacks = {name: node and _with_mode(config, node) for name, node in config.callbacks.items()}
    config = replace(config, callbacks=callbacks)
    return replace(config, checkpoint="last") if config.checkpoint == "best" and why_no_best(config) else config


def say_what_is_tested(asked: Config, settled: Config) -> None:
    """One line on stderr where another checkpoint is tested than a user expects."""
    if asked.checkpoint != settled.checkpoint:
        tested = "the model is tested as it is in memory" if _dry(asked) else "the last one is tested"
        print(f"checkpoint is 'best': there will be none ({why_no_best(asked)}), {tested}.", file=sys.stderr)


def contradictions(config: Config, doubtful: set[str]) -> list[UserError]:
    """Directions that are given and wrong, or needed and not known; and what of the Trainer a run has no use for.

    What reads an option that is doubtful is left out.
    """
    task, trainer = config.task, config.trainer
    monitored: list[tuple[str, str, object]] = [("task.monitor_mode", task.monitor, task.monitor_mode)]
    for name, node in config.callbacks.items():
        monitor = node and node.get("monitor")
        if node and isinstance(monitor, str):
            if monitor == task.monitor and node.get("mode") in (None, task.monitor_mode):
                continue
            monitored.append((f"callbacks.{name}.mode", monitor, node.get("mode")))
    found = []
    for field, monitor, mode in monitored:
        known = _direction(config, monitor)
        if known is None and field != "task.monitor_mode" and monitor == task.monitor:
            known = task.monitor_mode
        if mode is not None and known is not None and mode != known:
            better = {"min": "less", "max": "more"}[known]
            found.append(UserError(field, mode, f"{better} of {monitor} is better: leave it away, or set {known}"))
        elif mode is None and known is None and monitor in _computed(config):
            expected = f"the metric of {monitor} does not say whether more is better (higher_is_better): set min or max"
            found.append(UserError(field, None, expected))
    if trainer.get("precision") == "16-true":
        found.append(UserError("trainer.precision", "16-true", NO_FP16_WEIGHTS))
    if trainer.get("enable_checkpointing") is False:
        expected = "a run keeps its last checkpoint; callbacks.best=null does without the best one"
        found.append(UserError("trainer.enable_checkpointing", False, expected))
    if trainer.get("barebones"):
        expected = "a run needs what it switches off, logs and checkpoints; use it with Lightning's Trainer alone"
        found.append(UserError("trainer.barebones", trainer["barebones"], expected))
    directions = ("task.metrics", "task.monitor")
    reads = {problem.field: () if problem.field.startswith("trainer.") else directions for problem in found}
    return [problem for problem in found if not concerned([problem.field, *reads[problem.field]], doubtful)]


def why_no_best(config: Config) -> str | None:
    """What keeps a run from having a best checkpoint, in words; None where it will have one."""
    trainer = config.trainer
    if _dry(config):
        return f"trainer.fast_dev_run is {trainer['fast_dev_run']} and writes no checkpoint"
    if trainer.get("limit_val_batches") in (0, 0.0) and not trainer.get("overfit_batches"):
        return "trainer.limit_val_batches is 0"
    if not any(_keeps_best(node) for node in config.callbacks.values() if node):
        return "no callback keeps it"
    return None


def _dry(config: Config) -> bool:
    return bool(config.trainer.get("fast_dev_run"))


def _keeps_best(node: Node) -> bool:
    """Whether a callback is a `ModelCheckpoint` that monitors something and keeps the best of it."""
    if not node.get("monitor") or node.get("save_top_k", 1) == 0:
        return False
    if node.get("_target_") == BEST_CHECKPOINT:
        return True
    from lightning.pytorch.callbacks import ModelCheckpoint

    from encdec_lightning.launch.slots.build import target_of

    target = target_of(node)
    return target is not None and issubclass(target, ModelCheckpoint)


def _with_mode(config: Config, node: Node) -> Node:
    """A callback's node with the direction of what it monitors."""
    monitor = node.get("monitor")
    if not isinstance(monitor, str) or node.get("mode") is not None:
        return node
    mode = config.task.monitor_mode if monitor == config.task.monitor else _direction(config, monitor)
    if mode is None:  # the checks say what is wrong with the metric, not with the mode
        return {name: value for name, value in node.items() if name != "mode"}
    return {**node, "mode": mode} if "mode" in node or _takes_mode(node) else node


def _takes_mode(node: Node) -> bool:
    from encdec_lightning.launch.slots.build import target_of

    target = target_of(node)
    return target is not None and "mode" in inspect.signature(target).parameters


def _direction(config: Config, monitor: str) -> Mode | None:
    return "min" if monitor in LOSSES else dict(_directions(config)).get(monitor)


def _computed(config: Config) -> list[str]:
    return [name for name, _ in _directions(config)]


def _directions(config: Config) -> Iterator[tuple[str, Mode | None]]:
    """The names under which the task's metrics are logged in validation, with their directions."""
    for name in config.task.scored_with:
        try:
            metric = load_metric(name)
            yield from [(f"val/{each}", direction(metric, each)) for each in metric.names]
        except UserError:
            continue  # the check of names says so
