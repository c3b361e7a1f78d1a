"""Other devices for a run that goes on: its identity, and what it learns, stay."""

from __future__ import annotations

from collections.abc import Mapping

from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.launch.job.devices import MOVABLE
from encdec_lightning.rules import convert
from encdec_lightning.run import Run


def move(run: Run, options: Mapping[str, str]) -> None:
    """Let a run go on with other values of `MOVABLE`, written as on the command line, from its next start on.

    Raises `UserErrors` where it has ended, where the values are wrong, or where an optimizer step would have other
    examples.
    """
    from encdec_lightning.launch.checks.checks import check_all
    from encdec_lightning.launch.command_line.overrides import with_options

    config = convert(run.config())
    found = []
    for name, value in options.items():
        if run.status().get("state") == "finished":
            found.append(UserError(name, value, "the run is finished, no device is left to choose"))
        elif name != "trainer.accelerator" and config.data.update_examples is config.data.update_target_tokens is None:
            expected = (
                "a step is data.accumulate micro-batches on each device here, so that others change it;"
                " a run with data.update_examples or data.update_target_tokens can go on elsewhere"
            )
            found.append(UserError(name, value, expected))
    if found:
        raise UserErrors(found)
    moved = with_options(config, options, None)
    problems = check_all(moved)
    if problems:
        raise UserErrors(problems)
    names = [name.partition(".")[2] for name in MOVABLE]
    with run.lock():
        run.note(hardware={name: moved.trainer[name] for name in names if name in moved.trainer})
