"""Parameters that a fit leaves as they are."""

from __future__ import annotations

from collections.abc import Callable

from encdec_lightning.composition.architectures import architecture_of
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.lora import factors, is_factor
from encdec_lightning.composition.sides.cross_attention import joins_sides
from encdec_lightning.composition.sides.names import untrainable
from encdec_lightning.errors import UserError
from encdec_lightning.training.options import Freeze


def freeze(model: ComposedModel, part: Freeze | None) -> None:
    """Take a part of the model out of training, and everything else in; a shared tensor belongs to both sides.

    A side with LoRA's factors trains these and what started at random, and nothing else. Raises `UserError` when
    nothing would be left to train, or there is no such part.
    """
    alone = len(model.roles) == 1
    if (part in ("encoder", "decoder") and part not in model.roles) or (alone and part == "all_but_cross_attention"):
        lacking = "cross-attention" if part == "all_but_cross_attention" else part
        raise UserError(
            "training.freeze", part, f"{'an encoder' if model.scores_sentences else 'a decoder'} alone has no {lacking}"
        )
    started, named = set(model.config.fresh_parameters), dict(model.named_parameters())
    fresh = {id(each) for name, each in named.items() if name in started or is_factor(name)}
    untouched: set[int] = set()
    for side in model.composition.sides:
        own = model.sides[side.role]
        untouched |= {id(own.get_parameter(name)) for name in untrainable(side, own)}
        if factors(own):
            untouched |= {id(each) for each in own.parameters()} - fresh
    chosen = _chosen(model, part, fresh)
    for name, parameter in named.items():
        parameter.requires_grad_(id(parameter) not in untouched and chosen(name))
    _check_positions(model)
    if not any(parameter.requires_grad for parameter in named.values()):
        merged = part == "all_but_cross_attention" and model.composition.cross_attention_kind == "merged"
        why = "merged attention has no parameter of its own, so " if merged else ""
        raise UserError("training.freeze", part, f"{why}nothing would be left to train")


def _check_positions(model: ComposedModel) -> None:
    """Raise `UserError` where the encoder has further positions at random that would never learn."""
    composition = model.composition
    if composition.encoder_positions is None or composition.encoder_positions_init != "random":
        return
    encoder = model.sides["encoder"]
    rows = int(getattr(encoder.config, architecture_of(encoder.config).positions or ""))
    fixed = untrainable(composition.sides[0], encoder)
    for name, each in encoder.named_parameters():
        if "position" in name and len(each) == rows and name not in fixed and not each.requires_grad:
            expected = "the further rows are not trained, so that they would stay at random; use last"
            raise UserError("model.encoder_positions_init", "random", expected)


def _chosen(model: ComposedModel, part: Freeze | None, fresh: set[int]) -> Callable[[str], bool]:
    """Whether a parameter of this name is left in training where a part of the model is taken out."""
    if part is None:
        return lambda name: True
    if part == "pretrained":
        return lambda name: id(model.get_parameter(name)) in fresh
    if part == "all_but_cross_attention":  # a gate is a part of it
        return joins_sides
    frozen = {id(each) for each in model.sides[part].parameters()}
    return lambda name: id(model.get_parameter(name)) not in frozen
