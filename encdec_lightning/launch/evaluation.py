"""A finished or interrupted run, scored again from its folder alone."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf

from encdec_lightning.composition.compatibility import length_problems
from encdec_lightning.config import Config, Node, convert, unknown_option
from encdec_lightning.data.datamodule import Seq2SeqDataModule
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.launch.job import build_evaluator, loading, quiet, test
from encdec_lightning.launch.processes import recover, refusals_of_the_disk
from encdec_lightning.run import Run
from encdec_lightning.training.module import Seq2SeqModule


def evaluate(run: Run, checkpoint: str | None, options: dict[str, str]) -> Run:
    """Test a checkpoint and write the results: into the run, or with other options into a run of `evaluations/`.

    Where nothing can be written into the run, the results are in a folder for temporary files, which a line names.
    Of the frozen config only the data and plain options are used: what it could call is never built.
    """
    quiet()
    frozen = convert(run.config())
    config = with_options(frozen, options, checkpoint)
    module = load(run, config)
    target = run if config == frozen else run.folder / "evaluations" / _name(config)
    if not run.is_writable:
        target = Path(tempfile.mkdtemp(prefix="encdec-evaluation-")) / run.folder.name
        print(f"Nothing can be written into {run.folder}: the results are in {target}.", file=sys.stderr)
    if isinstance(target, Path):
        target = Run.create(target, asdict(config), _name(config))
    with refusals_of_the_disk(target), target.lock():
        if target is run:
            recover(run)
        data = Seq2SeqDataModule(config.task, module.tokenizers, loading(config))
        test(target, replace(config, export=False), build_evaluator(config), data, module)
    return target


def load(run: Run, config: Config, device: torch.device | str = "cpu") -> Seq2SeqModule:
    """The module of the config's checkpoint, ready to generate; raises `UserError` if it cannot write texts so long."""
    module = Seq2SeqModule.load_from_checkpoint(run.checkpoint(config.checkpoint), device, generation=config.generation)
    longest = config.generation.max_length
    if longest is not None:
        model = module.model
        sides = [getattr(model.config, side.role) for side in model.composition.sides]
        for side, _, expected in length_problems(model.composition, sides, config.task.max_source_length, longest):
            if side == "target" or len(sides) == 1:
                raise UserError("generation.max_length", longest, expected)
    return module.eval().to(device)


def with_options(config: Config, options: dict[str, str], checkpoint: str | None) -> Config:
    """The config with options `node.name: value` replaced; raises `UserErrors`."""
    values: Node = asdict(config)
    unknown = [problem for name, value in options.items() if (problem := unknown_option(name, value))]
    if unknown:
        raise UserErrors(unknown)
    for name, value in options.items():
        node, _, field = name.partition(".")
        values[node][field] = _value(name, value)
    if checkpoint is not None:
        values["checkpoint"] = checkpoint
    return convert(values)


def _value(name: str, text: str) -> Any:
    """A value as the command line of `encdec-train` reads it, 1e-1 being a number."""
    try:
        node: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except yaml.YAMLError as error:
        raise UserError(name, text, "it is not a value in YAML") from error
    return node["value"]


def _name(config: Config) -> str:
    return f"{replace(config, name='evaluation').identity()[:12]}-{config.checkpoint.replace('/', '_')[-40:]}"
