"""The job of a run folder: build everything from its frozen config, train, test, export."""

from __future__ import annotations

import logging
import platform
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import lightning
import torch
import transformers
from lightning.pytorch.loggers import Logger

from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.config import Config, Node, convert
from encdec_lightning.data.datamodule import Seq2SeqDataModule
from encdec_lightning.data.options import Loading
from encdec_lightning.errors import UserError
from encdec_lightning.launch.build import build, build_partial
from encdec_lightning.reporting.curves import draw_curves
from encdec_lightning.reporting.results import write_results
from encdec_lightning.run import Run
from encdec_lightning.training.callbacks.throughput import Throughput
from encdec_lightning.training.callbacks.validate_every import ValidateEvery
from encdec_lightning.training.checkpoint import load_checkpoint
from encdec_lightning.training.checkpoint_io import DurableCheckpointIO
from encdec_lightning.training.module import Seq2SeqModule

DATA_COUNTS = ("skipped", "dropped_by_preprocessing", "too_long_dropped")
TRAINER, CALLBACK, LOGGER, OPTIMIZER = lightning.Trainer, lightning.Callback, Logger, torch.optim.Optimizer


def train(run: Run) -> None:
    """Fit from the last checkpoint if there is one, then test the chosen checkpoint and export it."""
    config = convert(run.config())
    quiet()
    lightning.seed_everything(config.seed, verbose=False)
    tokenizers = Tokenizers.from_pretrained(*config.model.vocabularies)
    data = Seq2SeqDataModule(config.task, tokenizers, loading(config))
    module = Seq2SeqModule(
        compose(**asdict(config.model), tokenizers=tokenizers),
        tokenizers,
        config.task,
        config.training,
        config.generation,
        optimizer=build_partial("optimizer", config.optimizer, OPTIMIZER),
    )
    resumed = run.resumable()
    if config.init_from is not None and resumed is None:
        start_from(module, config.init_from)
    data.prepare_data()  # before there are processes that would wait for it
    trainer = build_trainer(config, run)
    if trainer.is_global_zero and resumed not in (None, run.last):
        print(f"{run.last} is damaged or gone: training goes on from {resumed}.", file=sys.stderr)
    for logger in trainer.loggers:
        logger.log_hyperparams(asdict(config))
    try:
        trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
    except SystemExit:  # Lightning's answer to an interrupt
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    if trainer.is_global_zero:
        run.write_metrics({**run.metrics(), **training_metrics(trainer, module, data)})
        draw_curves(run)
    chosen = run.checkpoint(config.checkpoint)
    chosen_module = Seq2SeqModule.load_from_checkpoint(chosen, task=config.task, generation=config.generation)
    test(run, config, trainer, data, chosen_module)
    if trainer.is_global_zero:
        run.before_last.unlink(missing_ok=True)  # nothing goes on from here


def test(run: Run, config: Config, trainer: lightning.Trainer, data: Seq2SeqDataModule, module: Seq2SeqModule) -> None:
    """Generate the test set, score it, write it into the run, and export the model."""
    trainer.test(module, data, verbose=False)
    if trainer.is_global_zero:
        metrics, baselines = config.task.metrics or ["rouge"], config.task.baselines or []
        write_results(run, module.predictions, module.scores, metrics, baselines)
        meta = data.examples("test").meta
        told = {f"data/test_{name}": meta[name] for name in ("fingerprint", *DATA_COUNTS)}
        run.write_metrics({**run.metrics(), **told})
        if config.export:
            with run.replacing_model() as folder:
                module.export(folder)


def start_from(module: Seq2SeqModule, folder: str) -> None:
    """Take the weights of another run's best checkpoint."""
    path = Run.open(folder, "init_from").checkpoint("best")
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
    node: Node = {**config.trainer, "precision": resolve_precision(config.trainer)}
    callbacks = [
        build(f"callbacks.{name}", each, CALLBACK, dirpath=run.checkpoints) for name, each in _nodes(config.callbacks)
    ]
    where = {"save_dir": run.logs, "id": f"{config.identity()[:8]}-{run.folder.name}"[:64], "name": config.name}
    loggers = [build(f"logger.{name}", each, LOGGER, **where) for name, each in _nodes(config.logger)]
    every = config.validate_every
    if every is not None:
        callbacks.append(ValidateEvery(every))
    trainer: lightning.Trainer = build(
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
        precision=resolve_precision({"precision": config.trainer.get("precision", "32-true")}),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


def loading(config: Config) -> Loading:
    """The loading options with the run's seed in the order of the examples."""
    return replace(config.data, seed=config.data.seed + config.seed)


def resolve_precision(trainer: Node) -> Any:
    """`auto`: bf16-mixed where the processor multiplies bf16 in hardware, else 32-true."""
    precision = trainer.get("precision", "32-true")
    if precision != "auto":
        return precision
    on_gpu = trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if on_gpu:
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16-mixed" if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else "32-true"


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
        if isinstance(callback, Throughput) and callback.total_seconds:
            metrics["train/seconds"] = callback.total_seconds
            metrics["train/examples"] = callback.total_examples
            metrics["train/tokens_per_second"] = callback.total_tokens / callback.total_seconds
            metrics["train/mfu"] = callback.mfu
    monitored = getattr(trainer.checkpoint_callback, "best_model_score", None)
    if monitored is not None:
        metrics[f"best/{module.task.monitor}"] = float(monitored)
    return metrics


def quiet() -> None:
    """Silence what libraries say that a user of a command can do nothing about."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a run continues
    warnings.filterwarnings("ignore", message="Precision .* is not supported by the model summary.*")
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # the module gathers by itself


def _nodes(slots: dict[str, Node | None]) -> Iterator[tuple[str, Node]]:
    """The slots that are in use."""
    return ((name, node) for name, node in slots.items() if node is not None)
