"""The Trainer, its callbacks and the optimizer, built before a run and thrown away: what they refuse is known early."""

from __future__ import annotations

import importlib.util
import inspect
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ProgressBar,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, StrategyRegistry

from encdec_lightning.cluster.queue import is_slurm_job
from encdec_lightning.config import Config, Node
from encdec_lightning.errors import UserError, UserErrors, did_you_mean, one_of
from encdec_lightning.launch.auto_precision import uses_gpu
from encdec_lightning.launch.slots.build import (
    CALLBACK,
    OPTIMIZER,
    TRAINER,
    build,
    build_partial,
    check_call,
    is_known,
    is_node,
    target_of,
)
from encdec_lightning.rules import concerned
from encdec_lightning.training.arrange import why_not_compiled
from encdec_lightning.training.fsdp import STRATEGIES, FullyShardedStrategy
from encdec_lightning.training.options import FSDP

PACKAGES = {
    "CometLogger": ("comet_ml",),
    "MLFlowLogger": ("mlflow",),
    "TensorBoardLogger": ("tensorboard", "tensorboardX"),
    "WandbLogger": ("wandb",),
}
"""What Lightning's loggers import when they are made; of several one is enough."""
EXTRAS = {"mlflow": "mlflow", "tensorboard": "tensorboard"}
"""The extra of this package that has another."""
FSDP1 = ("fsdp", "fsdp_cpu_offload")
"""Lightning's names of the older way to shard."""
PICKLED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)
"""Strategies whose checkpoints are folders with pickles in them."""


INSTEAD = {
    LearningRateFinder: "it knows no run's loop; hparams_search=optuna_learning_rate searches a rate",
    BatchSizeFinder: "data.batch_tokens bounds a batch here, and encdec-check tells the memory that it needs",
    GradientAccumulationScheduler: "data.accumulate says how many micro-batches are one step",
    StochasticWeightAveraging: (
        "no checkpoint holds its average, which would be neither tested nor exported;"
        " lightning.pytorch.callbacks.EMAWeightAveraging keeps its average in the checkpoints"
    ),
}
"""Callbacks of Lightning's that cannot act in a run, and what does."""


def rehearse(config: Config, doubtful: set[str], here: bool = True) -> Iterator[UserError]:
    """What the constructors refuse. Only classes of this project, Lightning and torch are made: others may do anything.

    Loggers are not made, since some begin their work at once. `here`: the hardware must be that of this machine.
    """
    yield from _loggers(config, doubtful)
    callbacks: list[Any] = []
    refused = concerned(["callbacks"], doubtful)
    for name, node in config.callbacks.items():
        if node is not None and not concerned([f"callbacks.{name}"], doubtful):
            kind = target_of(node)
            instead = next(
                (told for each, told in INSTEAD.items() if kind is not None and issubclass(kind, each)), None
            )
            if instead is not None:
                refused = True
                yield UserError(f"callbacks.{name}._target_", node["_target_"], instead)
                continue
            made, problems = _made(f"callbacks.{name}", node, CALLBACK, dirpath=".")
            callbacks += made
            refused = refused or bool(problems)
            yield from problems
            if sum(isinstance(each, ProgressBar) for each in callbacks) > 1 and isinstance(callbacks[-1], ProgressBar):
                refused = True
                expected = "a run has one progress bar; callbacks.progress=null takes away its own"
                yield UserError(f"callbacks.{name}._target_", node["_target_"], expected)
    if not concerned(["optimizer"], doubtful):
        yield from _optimizer(config.optimizer)
    if not concerned(["trainer", "validate_every", "data.accumulate"], doubtful):
        found = [*_hardware(config.trainer, here), *_in_fp16(config, here), *_compiled(config, here)]
        yield from found or _trainer(config, [] if refused else callbacks, here)
        if here and not concerned(["generation.quantize"], doubtful):
            yield from _quantized(config)


def _loggers(config: Config, doubtful: set[str]) -> Iterator[UserError]:
    for name, node in config.logger.items():
        field = f"logger.{name}"
        if node is None or concerned([field], doubtful):
            continue
        kinds = [each.__name__ for each in (target_of(node) or Logger).__mro__]
        if "NeptuneLogger" in kinds:  # newer versions of Lightning no longer have it as a logger
            yield UserError(f"{field}._target_", node["_target_"], "Neptune has ended its service; use another logger")
            continue
        packages = next((PACKAGES[kind] for kind in kinds if kind in PACKAGES), ())
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            expected = f"it needs the package {' or '.join(packages)}, which is not installed"
            if packages[0] in EXTRAS:
                expected += f": pip install 'encdec_lightning[{EXTRAS[packages[0]]}]'"
            yield UserError(f"{field}._target_", node["_target_"], expected)
            continue
        yield from check_call(field, node, save_dir="", id="", name="")
        if "WandbLogger" in kinds:
            yield from _passed_on(field, node)


def _passed_on(field: str, node: Node) -> Iterator[UserError]:
    """Arguments that Lightning's logger hands on to `wandb.init`, which knows no such ones."""
    import wandb

    takers = (target_of(node) or WandbLogger, WandbLogger, wandb.init)
    known = [name for each in takers for name in inspect.signature(each).parameters]
    for name, value in node.items():
        if name not in ("_target_", *known):
            expected = f"neither the logger nor wandb.init takes such an argument{did_you_mean(name, known)}"
            yield UserError(f"{field}.{name}", value, expected)


def _made(field: str, node: Node, base: type, **extra: Any) -> tuple[list[Any], list[UserError]]:
    """The object of a node in a list, which is empty where it is refused, or not to be made here."""
    if not _all_known(node):
        return [], check_call(field, node, **extra)
    try:
        with _nothing_changed():
            return [build(field, node, base, **extra)], []
    except UserError as problem:
        return [], [problem]
    except UserErrors as errors:
        return [], list(errors.problems)


def _optimizer(node: Node) -> Iterator[UserError]:
    if not _all_known(node):
        return
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1e-3, "weight_decay": 0.0}]
    try:
        build_partial("optimizer", node, OPTIMIZER)(groups)
    except UserErrors as errors:
        yield from errors.problems
    except UserError as problem:
        yield problem


def _hardware(node: Node, here: bool) -> Iterator[UserError]:
    """An accelerator or a strategy that Lightning has not, or that this machine has not."""
    accelerator, strategy = node.get("accelerator", "auto"), node.get("strategy", "auto")
    known = ["auto", "gpu", *AcceleratorRegistry.available_accelerators()]
    if isinstance(accelerator, str) and accelerator not in known:
        expected = f"{one_of(known)}{did_you_mean(accelerator, known)}"
        yield UserError("trainer.accelerator", accelerator, expected)
    elif here and not _is_here(accelerator):
        expected = "this machine has none; hardware=auto takes what it has, hardware=cpu the processor"
        yield UserError("trainer.accelerator", accelerator, expected)
    nodes = node.get("num_nodes", 1)
    if here and isinstance(nodes, int) and nodes > 1 and not is_slurm_job():
        expected = "processes on several machines need a job of Slurm's, hydra/launcher=slurm"
        yield UserError("trainer.num_nodes", nodes, expected)
    strategies = ["auto", *STRATEGIES, *sorted(set(StrategyRegistry.available_strategies()) - {*STRATEGIES, *FSDP1})]
    if isinstance(strategy, str) and strategy.lower() in FSDP1:
        expected = f"it knows no shared weights; hardware=fsdp takes {FSDP}, which shards what the sides share"
        yield UserError("trainer.strategy", strategy, expected)
    elif isinstance(strategy, str) and strategy.lower() not in strategies:
        expected = f"{one_of(strategies[:12])}, ...{did_you_mean(strategy, strategies)}"
        yield UserError("trainer.strategy", strategy, expected)
    elif isinstance(strategy, str) and any(way in strategy.lower() for way in ("spawn", "fork", "notebook")):
        expected = "its processes would take a run's objects from this one; hardware=ddp, or ddp_cpu, starts its own"
        yield UserError("trainer.strategy", strategy, expected)
    elif _pickles(strategy):
        expected = "it reads pickles from its checkpoints, which can run code; hardware=fsdp shards without"
        yield UserError("trainer.strategy", strategy, expected)


def _pickles(strategy: Any) -> bool:
    """Whether a strategy, or the node of one, loads checkpoints that are no plain tensors."""
    kind = target_of(strategy) if is_node(strategy) else None
    if isinstance(strategy, str) and strategy in StrategyRegistry:
        kind = StrategyRegistry[strategy]["strategy"]
    return kind is not None and issubclass(kind, PICKLED) and not issubclass(kind, FullyShardedStrategy)


def _compiled(config: Config, here: bool) -> Iterator[UserError]:
    """Whether layers can be compiled on this machine, where they are to be."""
    why = why_not_compiled("cuda" if uses_gpu(config) else "cpu") if config.training.compile and here else None
    if why is not None:
        yield UserError("training.compile", True, why)


def _in_fp16(config: Config, here: bool) -> Iterator[UserError]:
    """Whether this machine has a device for fp16, where it is asked for; without one Lightning would take bf16."""
    precision = config.trainer.get("precision")
    on_gpu = config.trainer.get("accelerator", "auto") != "cpu" and _is_here("gpu")
    if here and str(precision) in ("16", "16-mixed") and not on_gpu:
        expected = "fp16 with a gradient scaler needs a GPU; take precision=bf16 or precision=fp32"
        yield UserError("trainer.precision", precision, expected)


def _quantized(config: Config) -> Iterator[UserError]:
    """Whether this machine writes texts in int8, where it is to."""
    from encdec_lightning.generation.support import why_not_quantized

    quantize = config.generation.quantize
    why = None if quantize is None else why_not_quantized("cuda" if uses_gpu(config) else "cpu")
    if why is not None:
        yield UserError("generation.quantize", quantize, why)


def _is_here(accelerator: Any) -> bool:
    """Whether this machine has what is asked for by name."""
    if not isinstance(accelerator, str) or accelerator == "auto":
        return True
    kinds = ["cuda", "mps"] if accelerator == "gpu" else [accelerator]
    return any(AcceleratorRegistry.get(kind).is_available() for kind in kinds)


def _trainer(config: Config, callbacks: list[Any], here: bool) -> list[UserError]:
    node = {name: value for name, value in config.trainer.items() if (name, value) != ("precision", "auto")}
    accelerator = node.get("accelerator", "auto")
    if not here and (accelerator == "auto" or not _is_here(accelerator)):
        elsewhere = ("devices", "num_nodes", *(["strategy"] if isinstance(node.get("strategy"), str) else []))
        node = {name: value for name, value in node.items() if name not in elsewhere} | {"accelerator": "cpu"}
    if not node.get("enable_progress_bar", True):  # a run leaves them away too
        callbacks = [each for each in callbacks if not isinstance(each, ProgressBar)]
    every = config.validate_every
    _, problems = _made(
        "trainer",
        node,
        TRAINER,
        callbacks=callbacks,
        plugins=[LightningEnvironment()],  # not an allocation that this command was given in
        logger=False,
        accumulate_grad_batches=config.data.accumulate,
        val_check_interval=every,
        check_val_every_n_epoch=1 if every is None else None,
        use_distributed_sampler=False,
    )
    return problems


def _all_known(node: Node) -> bool:
    """Whether the classes of a node, and of the nodes inside it, may be made and thrown away."""
    target = target_of(node)
    return target is not None and is_known(target) and all(_all_known(each) for each in node.values() if is_node(each))


@contextmanager
def _nothing_changed() -> Iterator[None]:
    """A Trainer sets torch's switches, and the environment, when it is made: they are set back, and nothing is said."""
    environment = dict(os.environ)
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        torch.backends.cudnn.benchmark = benchmark
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
