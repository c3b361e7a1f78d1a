"""A command's overrides in, a checked `Config` out. Hydra only composes; every mistake is ours to word."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from encdec_lightning.config import Config, Node, not_given, unknown_option
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.launch.command_line.draft import Draft, doubted, draft, set_by
from encdec_lightning.launch.command_line.hydra_compose import compose_raw
from encdec_lightning.launch.command_line.hydra_values import resolved
from encdec_lightning.launch.command_line.names import check_overrides
from encdec_lightning.launch.command_line.presets import choices
from encdec_lightning.launch.command_line.reading import read_value
from encdec_lightning.rules import concerned, problems


def compose_config(overrides: Sequence[str], config_dirs: Sequence[Path] = (), multirun: bool = False) -> Config:
    """The config of a command; raises `UserErrors` with all mistakes that show without torch."""
    made = compose_draft(overrides, config_dirs, multirun)
    found = [*made.problems, *map(not_given, made.missing), *problems(made.config, made.doubtful)]
    if found:
        raise UserErrors(found)
    return made.config


def compose_draft(overrides: Sequence[str], config_dirs: Sequence[Path] = (), multirun: bool = False) -> Draft:
    """The config of a command as far as it is right; raises `UserErrors` where nothing can be composed.

    What is missing only because of a mistake elsewhere, such as a mistyped name, is not called missing.
    """
    mistakes, usable = check_overrides(overrides, config_dirs, multirun)
    try:
        values, unresolved = resolved(compose_raw(usable, config_dirs))
        made = draft(values)
    except UserErrors as errors:
        raise UserErrors([*mistakes, *errors.problems]) from None
    groups = choices(config_dirs)
    wrong = [_of_a_presets_place(each, groups) for each in made.problems]
    found = {str(each): each for each in (*mistakes, *unresolved.values(), *wrong)}
    doubts = {*doubted(mistakes, groups), *unresolved}
    missing = tuple(path for path in made.missing if not concerned([path], doubts))
    named = [set_by(re.split("[=@]", line.lstrip("+~"))[0], groups) for line in usable]
    given = frozenset(each for each in named if each is not None)
    return Draft(made.config, tuple(found.values()), missing, made.doubtful | doubts, given)


def _of_a_presets_place(mistake: UserError, groups: Collection[str]) -> UserError:
    """What to do about a preset whose options lie elsewhere than it says."""
    group, _, inner = mistake.field.partition(".")
    if not isinstance(mistake.value, dict) or group not in groups or inner not in ("", group):
        return mistake
    expected = "a preset that sets options outside its group begins with the line `# @package _global_`"
    if inner:
        expected = f"a preset of {group}/ has the options of {group}: leave the line `{group}:` away"
    return UserError(mistake.field, mistake.value, expected)


def with_options(config: Config, options: Mapping[str, str], checkpoint: str | None) -> Config:
    """The config with options `node.name: value` replaced, read as in `encdec-train`; raises `UserErrors`."""
    values: Node = asdict(config)
    mistakes: list[UserError] = []
    for name, text in options.items():
        try:
            mistake = unknown_option(name, text)
            if mistake is not None:
                raise mistake
            node, _, field = name.partition(".")
            if node == ("generation" if config.model.scores_sentences else "extraction"):
                what = "extracts, which extraction.* changes" if node == "generation" else "texts of its own"
                raise UserError(name, text, f"the run's model makes {what}; leave it away")
            values[node][field] = read_value(name, text)
        except UserError as error:
            mistakes.append(error)
    if checkpoint is not None:
        values["checkpoint"] = checkpoint
    made = draft(values)
    mistakes += [*made.problems, *problems(made.config, made.doubtful)]
    if mistakes:
        raise UserErrors(mistakes)
    return made.config
