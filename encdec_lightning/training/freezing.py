"""Parameters that a fit leaves as they are."""

from __future__ import annotations

from collections.abc import Callable

from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.sides.cross_attention import is_cross_attention
from encdec_lightning.composition.sides.names import untrainable
from encdec_lightning.errors import UserError
from encdec_lightning.training.options import Freeze

PROJECTION = "enc_to_dec_proj."
"""The start of the names of what makes the encoder's states as wide as the decoder's."""


def freeze(model: ComposedModel, part: Freeze | None) -> None:
    """Take a part of the model out of training, and everything else in; a shared tensor belongs to both sides.

    Raises `UserError` when nothing would be left to train, or there is no such part.
    """
    if model.reads_prefix and part in ("encoder", "all_but_cross_attention"):
        lacking = "encoder" if part == "encoder" else "cross-attention"
        raise UserError("training.freeze", part, f"a decoder alone has no {lacking}")
    untouched = {
        id(model.sides[side.role].get_parameter(name))
        for side in model.composition.sides
        for name in untrainable(side, model.sides[side.role])
    }
    chosen = _chosen(model, part)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(id(parameter) not in untouched and chosen(name))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        merged = part == "all_but_cross_attention" and model.composition.cross_attention_kind == "merged"
        why = "merged attention has no parameter of its own, so " if merged else ""
        raise UserError("training.freeze", part, f"{why}nothing would be left to train")


def _chosen(model: ComposedModel, part: Freeze | None) -> Callable[[str], bool]:
    """Whether a parameter of this name is left in training where a part of the model is taken out."""
    if part is None:
        return lambda name: True
    if part == "pretrained":
        return set(model.config.fresh_parameters).__contains__
    if part == "all_but_cross_attention":  # a gate is a part of it
        return lambda name: is_cross_attention(name) or name.startswith(PROJECTION)
    frozen = {id(each) for each in model.sides[part].parameters()}
    return lambda name: id(model.get_parameter(name)) not in frozen
