"""`encdec-check`: whether a job can work, and what model it builds, before any weight is loaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from encdec_lightning.cli.arguments import Arguments, command, parse_overrides, refuse, refuse_nothing
from encdec_lightning.config import Config
from encdec_lightning.errors import UserError, UserErrors

if TYPE_CHECKING:
    from encdec_lightning.composition.composed_model import ComposedModel
    from encdec_lightning.launch.checks.checks import Purpose
    from encdec_lightning.reporting.memory import Memory

DESCRIPTION = (
    "Check a job from configs alone: its problems, or the model it builds, with numbers of parameters; or its data."
)
FLAGS = {
    "--json": "print plain values for programs",
    "--variants": "count all variants of the paper with the chosen checkpoints",
    "--data": "tokenize the task's data and show lengths, what is cut, unknown tokens, duplicates, leaks, examples",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command(lambda: _check(argv))


def _check(argv: Sequence[str] | None) -> None:
    arguments = parse_overrides("encdec-check", DESCRIPTION, argv, FLAGS)
    if "--json" not in arguments.flags:
        _report(arguments)
        return
    try:
        _report(arguments)
    except (UserError, UserErrors) as error:
        from encdec_lightning.reporting.composition import problems

        found = [error] if isinstance(error, UserError) else error.problems
        if found:  # else they are printed
            _print(problems(found))
        raise UserErrors([]) from None  # the exit code alone is left to say


def _report(arguments: Arguments) -> None:
    from encdec_lightning.launch.command_line.overrides import compose_draft

    if {"--variants", "--data"} <= arguments.flags:
        raise UserError("--data", "--variants", "one of them can be shown, not both")
    if "--variants" in arguments.flags:
        _variants(arguments)
        return
    purpose: Purpose = "data" if "--data" in arguments.flags else "model"
    refuse_nothing(arguments, purpose)
    from encdec_lightning.launch.checks.checks import mistakes

    plain = "--json" in arguments.flags
    made = compose_draft(*arguments.given)
    if plain and (found := list(mistakes(made, purpose))):
        raise UserErrors(dict(zip(map(str, found), found, strict=True)).values())
    refuse(() if plain else mistakes(made, purpose))
    config = made.config
    if purpose == "data":
        _data(config, plain)
        return
    from encdec_lightning.composition.compatibility import check
    from encdec_lightning.composition.parameters import count_trained
    from encdec_lightning.composition.tokenizers import special_tokens
    from encdec_lightning.reporting.composition import describe, show_composition
    from encdec_lightning.reporting.memory import show_memory

    parameters = check(**vars(config.model)).parameters
    assert parameters is not None  # no mistake was found
    tokens = special_tokens(config.model)
    model = _trained(config)
    trained = count_trained(model)
    memory = _memory(config, model)
    if plain:
        _print(describe(config.model, parameters, tokens, trained, memory))
    else:
        show_composition(config.model, parameters, tokens, trained)
        if memory is not None:
            show_memory(memory, config.data.batch_tokens)


def _trained(config: Config) -> ComposedModel:
    """The model without values, with what a fit adds to it; it knows which parameters are trained."""
    from encdec_lightning.composition.checks.skeleton import skeleton
    from encdec_lightning.training.freezing import freeze
    from encdec_lightning.training.lora import add_lora

    model = skeleton(config.model)
    add_lora(model, config.training.lora)
    freeze(model, config.training.freeze)
    return model


def _memory(config: Config, model: ComposedModel) -> dict[str, Memory] | None:
    """What a fit takes on one device, and on each of as many as the job asks for, or of 8.

    None for a family that looks into its inputs, so that it cannot run without values.
    """
    import torch

    from encdec_lightning.composition.architectures import length_limit
    from encdec_lightning.launch.slots.build import OPTIMIZER, build_partial, is_known, target_of
    from encdec_lightning.reporting.memory import DEVICES, Setting, memory_per_device, states_of

    limits = [length_limit(each) for each in (model.source_config, model.sides[model.roles[-1]].config)]
    given = (config.task.max_source_length, config.task.max_target_length)
    source, target = (min(length, limit or length) for length, limit in zip(given, limits, strict=True))
    known = is_known(target_of(config.optimizer) or object)
    optimizer = build_partial("optimizer", config.optimizer, OPTIMIZER) if known else torch.optim.AdamW
    setting = Setting(
        precision=str(config.trainer.get("precision")),
        states=states_of(optimizer),
        batch_tokens=config.data.batch_tokens,
        lengths=(source, target),
        training=config.training,
    )
    devices, nodes = (config.trainer.get(name, 1) for name in ("devices", "num_nodes"))
    several = devices * nodes if isinstance(devices, int) and devices > 0 and isinstance(nodes, int) else 1
    try:
        return memory_per_device(model, setting, several if several > 1 else DEVICES)
    except (RuntimeError, NotImplementedError):
        return None


def _data(config: Config, plain: bool) -> None:
    """The task's data as the model will see them; they are in the cache afterwards."""
    from encdec_lightning.cache.fingerprints import hash_of
    from encdec_lightning.cache.folder import cache_folder
    from encdec_lightning.data.inspection import inspect
    from encdec_lightning.launch.prepare import prepare
    from encdec_lightning.reporting.data import describe_data, draw_lengths, show_data

    tokenizers, splits = prepare(config, with_model=False)
    statistics = inspect(splits)
    if plain:
        _print(describe_data(statistics))
        return
    show_data(splits, statistics, tokenizers)
    name = hash_of([examples.folder.name for examples in splits.values()])[:12]
    picture = cache_folder(config.data.cache) / "inspections" / f"lengths-{name}.png"
    try:
        draw_lengths(splits, picture)
        print(f"token lengths as a picture: {picture}")
    except OSError as error:
        print(f"no picture of the token lengths: {picture} cannot be written ({error.strerror})", file=sys.stderr)


def _variants(arguments: Arguments) -> None:
    """All rows of the paper's table that the chosen set of checkpoints can fill."""
    from encdec_lightning.composition.compatibility import check
    from encdec_lightning.composition.paper import ROWS
    from encdec_lightning.launch.command_line.overrides import compose_draft
    from encdec_lightning.launch.job.quiet import quiet
    from encdec_lightning.reporting.composition import describe, problems, show_variants

    for line in arguments.overrides:
        if line.lstrip("+").startswith("variant="):
            raise UserError("variant", line.partition("=")[2], "--variants counts them all, leave it away")
    quiet()
    rows, refused = [], {}
    for variant in ROWS:
        made = compose_draft([*arguments.overrides, f"variant={variant}"], arguments.config_dirs)
        others = [problem for problem in made.problems if not problem.field.startswith("checkpoints.")]
        if others:
            raise UserErrors(others)
        if made.problems:
            continue  # the set has no checkpoint for a role of this variant
        composition = made.config.model
        compatibility = check(**vars(composition))
        if compatibility.parameters is None:
            refused[variant] = [problem.inside("model") for problem in compatibility.problems]
            continue
        rows.append((variant, composition, compatibility.parameters))
    if "--json" in arguments.flags:
        built = {variant: describe(composition, parameters, None) for variant, composition, parameters in rows}
        _print(built | {variant: problems(found) for variant, found in refused.items()})
        if refused:
            raise UserErrors([])  # the exit code alone is left to say
        return
    show_variants(rows)
    if refused:
        raise UserErrors(
            UserError(f"{problem.field} of {variant}", problem.value, problem.expected)
            for variant, found in refused.items()
            for problem in found
        )


def _print(values: dict[str, Any]) -> None:
    print(json.dumps(values, indent=2))


if __name__ == "__main__":
    sys.exit(main())
