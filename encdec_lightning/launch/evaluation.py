"""A finished or interrupted run, scored again from its folder alone."""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from encdec_lightning.composition.checks.lengths import generation_problem
from encdec_lightning.config import Config
from encdec_lightning.errors import UserError
from encdec_lightning.launch.command_line.overrides import with_options
from encdec_lightning.launch.job.modules import loaded_module, new_data
from encdec_lightning.launch.job.quiet import quiet
from encdec_lightning.launch.job.refusals import refusals_of_the_disk
from encdec_lightning.launch.job.testing import test
from encdec_lightning.launch.job.trainer import build_evaluator
from encdec_lightning.launch.processes import recorded, recover
from encdec_lightning.rules import convert
from encdec_lightning.run import EVALUATIONS, Run
from encdec_lightning.training.extractive_module import ExtractiveModule
from encdec_lightning.training.module import Seq2SeqModule
from encdec_lightning.training.precision import low_dtype, precision_of_texts


def evaluate(run: Run, checkpoint: str | None, options: dict[str, str]) -> Run:
    """Test a checkpoint and write the results: into the run, or with other options into a run of `evaluations/`.

    Where nothing can be written into the run, the results are in a folder for temporary files, which a line names.
    Of the frozen config only the data and plain options are used: what it could call is never built. Raises `UserError`
    when the test examples are not those of the run's own test.
    """
    quiet()
    frozen = convert(run.config())
    config = with_options(frozen, options, checkpoint)
    here = with_precision_of_texts(config, _device())
    module = load(run, here)
    data = new_data(config, module.tokenizers)
    began, now = None, data.fingerprint("test")
    with suppress(UserError):  # metrics that cannot be read are put aside below
        began = run.metrics().get("data/test_fingerprint")
    if began not in (None, now):
        expected = f"its examples are not those that the run was tested on ({now[:12]}, they were {began[:12]})"
        raise UserError("task.test", config.task.path("test"), f"{expected}: put those back, or use encdec-predict")
    target = run if config == frozen else run.folder / EVALUATIONS / _name(config)
    if not run.is_writable:
        target = Path(tempfile.mkdtemp(prefix="encdec-evaluation-")) / run.folder.name
        print(f"Nothing can be written into {run.folder}: the results are in {target}.", file=sys.stderr)
    if isinstance(target, Path):
        target = Run.create(target, config.frozen(), _name(config))
    with refusals_of_the_disk(target), target.lock():
        if target is run:
            recover(run)
            test(target, replace(config, export=False), build_evaluator(here), data, module)
        else:
            target.set_state("running")
            with recorded(target):
                test(target, replace(config, export=False), build_evaluator(here), data, module)
            target.set_state("finished")
    return target


def with_precision_of_texts(config: Config, device: str) -> Config:
    """The config with the precision in which texts are written on this kind of device."""
    precision = precision_of_texts(config.trainer.get("precision"), torch.device(device))
    return replace(config, trainer={**config.trainer, "precision": precision})


def _device() -> str:
    """The kind that Lightning takes by itself."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def load(run: Run, config: Config, device: torch.device | str = "cpu") -> Seq2SeqModule | ExtractiveModule:
    """The module of the config's checkpoint, ready to predict; raises `UserError` if it cannot write texts so long."""
    module = loaded_module(run.checkpoint(config.checkpoint), config, device)
    if module.dtype in (torch.bfloat16, torch.float16) and low_dtype(config.trainer.get("precision")) is None:
        module.float()  # weights in bf16, on a processor that would emulate it
    longest = config.generation.max_length
    if longest is not None and not config.model.scores_sentences:
        model = module.model
        configs = [side.config for side in model.sides.values()]
        expected = generation_problem(model.composition, configs, config.task.max_source_length, longest)
        if expected is not None:
            raise UserError("generation.max_length", longest, expected)
    return module.eval().to(device)


def _name(config: Config) -> str:
    return f"{replace(config, name='evaluation').identity()[:12]}-{config.checkpoint.replace('/', '_')[-40:]}"
