"""Parameters that a fit leaves as they are."""

from __future__ import annotations

from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.lora import factors, is_factor
from encdec_lightning.composition.sides.names import untrainable
from encdec_lightning.errors import UserError
from encdec_lightning.training.options import Freeze


def freeze(model: ComposedModel, part: Freeze | None) -> None:
    """Take a part of the model out of training, and everything else in; a shared tensor belongs to both sides.

    A side with LoRA's factors trains these and what started at random, and nothing else. Raises `UserError` when
    nothing would be left to train, or there is no such part.
    """
    if part == "encoder" and model.reads_prefix:
        raise UserError("training.freeze", part, "a decoder alone has no encoder")
    named = dict(model.named_parameters())
    started = set(model.config.fresh_parameters)
    fresh = {id(each) for name, each in named.items() if name in started or is_factor(name)}
    frozen = {id(each) for each in getattr(model, part).parameters()} if part in ("encoder", "decoder") else set()
    if part == "pretrained":
        frozen = {id(each) for each in named.values()} - fresh
    for side in model.composition.sides:
        own = model.sides[side.role]
        if factors(own):
            frozen |= {id(each) for each in own.parameters()} - fresh
        frozen |= {id(own.get_parameter(name)) for name in untrainable(side, own)}
    for parameter in named.values():
        parameter.requires_grad_(id(parameter) not in frozen)
    if not any(parameter.requires_grad for parameter in named.values()):
        raise UserError("training.freeze", part, "nothing would be left to train")
