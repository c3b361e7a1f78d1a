"""What a model, or a source, does not allow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from torch import Tensor

from encdec_lightning.composition.architectures import architecture_of, attention_window, length_limit
from encdec_lightning.composition.composed_model import ComposedModel, check_composed
from encdec_lightning.errors import UserError
from encdec_lightning.generation.options import Generation
from encdec_lightning.generation.special_tokens import unknown_setting
from encdec_lightning.kernels.int8_linear import products_are_exact
from encdec_lightning.kernels.stand_in import changed_by_others

Key = TypeVar("Key")


def check_writes(model: ComposedModel) -> None:
    """Raise `UserError` for a model that is not ours, or that has no decoder."""
    check_composed(model)
    if model.scores_sentences:
        raise UserError("model", type(model).__name__, "it scores sentences; to write a text a model needs a decoder")


def obstacle(model: ComposedModel, longest: int) -> str | None:
    """Why transformers' own generate must run this model, for sequences of so many tokens; none: it need not."""
    config = model.config.decoder
    if any(type(parameter.data).__name__ == "DTensor" for parameter in model.parameters()):
        return "its weights are sharded"
    changed = changed_by_others(model)
    if changed is not None:
        return changed
    why = architecture_of(config).why_positions_are_not_given(config)
    if why is not None:
        return why
    window = attention_window(config)
    if window is not None and longest > window:
        return f"its attention sees {window} tokens only, and a sequence may have {longest}"
    setting = unknown_setting(model)
    return None if setting is None else f"its generation config sets {setting}"


def why_not_quantized(device: str) -> str | None:
    """What keeps the products of a model on this kind of device from int8; none: nothing."""
    if device != "cpu":
        return f"int8 is for models on the CPU, and this one is on {device}; use null"
    return None if products_are_exact() else "oneDNN computes no exact int8 products on this processor; use null"


def target_limit(
    model: ComposedModel, generation: Generation, max_target_length: int | None, longest_source: int | None = None
) -> int:
    """The most tokens of a target: `max_length`, else what the caller gives, else the decoder's positions.

    Of these a source that is read as a prefix takes `longest_source`. Raises `UserError` for more than the decoder has
    positions, for fewer than `min_length`, and where nothing says how many are left to the target.
    """
    positions = length_limit(model.config.decoder)
    longest = generation.max_length or max_target_length
    if longest is None and positions is not None and model.reads_prefix:
        if longest_source is None:
            shared = f"source and target share the decoder's {positions} positions, so one must be given"
            raise UserError("max_length", None, shared)
        longest = max(1, positions - longest_source)
    longest = longest or positions
    if longest is None:
        raise UserError("max_length", None, "the decoder's positions have no end, so one must be given")
    if positions is not None and longest > positions:
        raise UserError("max_length", longest, f"the decoder has {positions} positions, use at most so many")
    if generation.min_length > longest:
        raise UserError("min_length", generation.min_length, f"it must be at most the maximum length, {longest}")
    return longest


def source_limit(model: ComposedModel, max_length: int) -> int | None:
    """The most tokens of a source, none if there is no end; one that is read as a prefix leaves room for the target."""
    positions = length_limit(model.source_config)
    return positions if positions is None or not model.reads_prefix else positions - max_length


def longest_sequence(model: ComposedModel, max_length: int, longest_source: int | None) -> int:
    """The most tokens in a row that the decoder sees: a target's, and those of a source that is read as a prefix.

    A source whose length is not known may be as long as the positions allow.
    """
    if not model.reads_prefix:
        return max_length
    limit = source_limit(model, max_length)
    known = [each for each in (longest_source, limit) if each is not None]
    return max_length + max(0, min(known, default=0))


def checked(sources: Iterable[tuple[Key, Tensor]], limit: int | None) -> Iterator[tuple[Key, Tensor]]:
    """The sources, each with its key. Raises `UserError` at an empty one, or one that its caller should have cut."""
    for key, ids in sources:
        _check(key, len(ids), limit)
        yield key, ids


def _check(key: object, length: int, limit: int | None) -> None:
    if length == 0:
        raise UserError(f"source {key}", "", "it is empty, it needs a token at least")
    if limit is not None and length > limit:
        expected = f"the model reads {max(limit, 0)} at most, cut it (task.max_source_length)"
        raise UserError(f"tokens of source {key}", length, expected)
