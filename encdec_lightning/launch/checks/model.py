"""Whether a model can be built as a config says, and its positions hold the task's texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from encdec_lightning.config import Config
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.rules import concerned

if TYPE_CHECKING:
    from encdec_lightning.composition.composed_model import ComposedModel


def check_model(config: Config, doubtful: set[str]) -> Iterator[UserError]:
    """What keeps the two checkpoints from being a model, and the model from reading and writing texts so long."""
    from encdec_lightning.composition.adapter.t5gemma import why_no_t5gemma
    from encdec_lightning.composition.checks.lengths import generation_problem, length_problems
    from encdec_lightning.composition.checks.skeleton import skeleton
    from encdec_lightning.composition.sides.config import side_config

    if concerned(["model"], doubtful):
        return
    try:
        model = skeleton(config.model)
    except UserError as problem:
        yield problem.inside("model")
        return
    except UserErrors as errors:
        yield from (problem.inside("model") for problem in errors.problems)
        return
    yield from _check_weights(config)
    task, generated = config.task, config.generation.max_length
    sides = [side_config(side) for side in config.model.sides]
    yield from _check_tokenizers(config, model)
    if not concerned(["training.gradient_checkpointing"], doubtful):
        yield from _check_checkpointing(config, model)
    if config.export == "t5gemma" and (why := why_no_t5gemma(model)) is not None:
        yield UserError("export", config.export, why)
    if not concerned(["training.freeze", "training.lora"], doubtful):
        yield from _check_trained(config, model)
    lengths = ["task.max_source_length", "task.max_target_length"]
    if not concerned(lengths, doubtful):
        longer = length_problems(config.model, sides, task.max_source_length, task.max_target_length)
        yield from (UserError(f"task.max_{side}_length", length, why) for side, length, why in longer)
    decisive = ["generation.max_length", *(lengths[:1] if model.reads_prefix else [])]
    if generated is not None and not model.scores_sentences and not concerned(decisive, doubtful):
        why = generation_problem(config.model, sides, task.max_source_length, generated)
        if why is not None:
            yield UserError("generation.max_length", generated, why)
    if not model.scores_sentences and not concerned(["generation", *lengths], doubtful):
        yield from _check_engine(config, model)


def _check_weights(config: Config) -> Iterator[UserError]:
    """Folders without the weights that a side starts from."""
    from encdec_lightning.composition.checkpoints import no_safetensors

    for side in config.model.sides:
        folder = Path(side.checkpoint)
        stored = [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
        if side.init != "random" and folder.is_dir() and not stored:
            yield UserError(f"model.{side.role}", side.checkpoint, no_safetensors(side.checkpoint))


def _check_engine(config: Config, model: ComposedModel) -> Iterator[UserError]:
    """Options that only the engine has, for a model that transformers' own generate must run."""
    from encdec_lightning.generation.options import LACKING
    from encdec_lightning.generation.support import obstacle

    beyond = config.generation.beyond_transformers()
    target = config.generation.max_length or config.task.max_target_length
    why = obstacle(model, target + (config.task.max_source_length if model.reads_prefix else 0)) if beyond else None
    if why is not None:
        for field in beyond:
            expected = f"{LACKING[field].expected} (it runs this model: {why})"
            yield UserError(f"generation.{field}", getattr(config.generation, field), expected)


def _check_tokenizers(config: Config, model: ComposedModel) -> list[UserError]:
    """Whether the tokenizers fit the vocabularies, where both are folders; others are checked once they are loaded."""
    from encdec_lightning.composition.tokenizers import Tokenizers

    if not all(Path(each).is_dir() for each in config.model.vocabularies):
        return []
    try:
        found = [*Tokenizers.of(config.model).problems(model), *_extended_vocabularies(config)]
    except UserError as problem:
        found = [problem]
    return [problem.inside("model") for problem in found]


def _extended_vocabularies(config: Config) -> Iterator[UserError]:
    """Vocabularies that are a checkpoint's own with some words more, all of which would start at random."""
    from encdec_lightning.composition.checkpoints import load_tokenizer

    for side in config.model.sides:
        if (
            side.vocabulary is None
            or side.init not in ("pretrained", "embeddings")
            or not Path(side.checkpoint).is_dir()
        ):
            continue
        own, new = (load_tokenizer(side.role, each).get_vocab() for each in (side.checkpoint, side.vocabulary))
        if len(new) > len(own) and own.items() <= new.items():
            expected = (
                f"it has all words of {side.checkpoint}, and {len(new) - len(own)} more; each would start at random;"
                " call the checkpoint's resize_token_embeddings(len(tokenizer)), save both into a folder, and give that"
                f" as model.{side.role}"
            )
            yield UserError(f"{side.role}_vocabulary", side.vocabulary, expected)


def _check_trained(config: Config, model: ComposedModel) -> list[UserError]:
    from encdec_lightning.training.freezing import freeze
    from encdec_lightning.training.lora import add_lora
    from encdec_lightning.training.optimizers import check_encoder_is_trained

    try:
        add_lora(model, config.training.lora)
        freeze(model, config.training.freeze)
        check_encoder_is_trained(model, config.training)
    except UserError as problem:
        return [problem]
    return []


def _check_checkpointing(config: Config, model: ComposedModel) -> list[UserError]:
    from encdec_lightning.training.arrange import check_checkpointing

    try:
        check_checkpointing(model, config.training)
    except UserError as problem:
        return [problem]
    return []
