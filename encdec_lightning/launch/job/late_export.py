"""The export of a run that had ended before its command asked for one."""

from __future__ import annotations

import sys

from encdec_lightning.launch.job.modules import loaded_module
from encdec_lightning.launch.job.quiet import quiet
from encdec_lightning.launch.job.refusals import refusals_of_the_disk
from encdec_lightning.reporting.card import write_card
from encdec_lightning.rules import convert
from encdec_lightning.run import Run


def export_late(run: Run) -> None:
    """Write a finished run's `model/` of the checkpoint that was tested; raises `UserError` where that one is gone."""
    config = convert(run.config())
    quiet()
    module = loaded_module(run.checkpoint(config.checkpoint), config)
    with refusals_of_the_disk(run), run.lock():
        with run.replacing_model() as folder:
            module.export(folder, as_a_t5gemma=config.export == "t5gemma")
            write_card(run, folder)
        run.note(export="done")
    print(f"The run was finished; its model is now in {run.model}.", file=sys.stderr)
