"""Parameters that a fit leaves as they are."""

from __future__ import annotations

from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.sides.names import untrainable
from encdec_lightning.errors import UserError
from encdec_lightning.training.options import Freeze


def freeze(model: ComposedModel, part: Freeze | None) -> None:
    """Take a part of the model out of training, and everything else in; a shared tensor belongs to both sides.

    Raises `UserError` when nothing would be left to train, or there is no such part.
    """
    fresh = set(model.config.fresh_parameters)
    if part == "encoder" and model.reads_prefix:
        raise UserError("training.freeze", part, "a decoder alone has no encoder")
    frozen = {id(each) for each in getattr(model, part).parameters()} if part in ("encoder", "decoder") else set()
    for side in model.composition.sides:
        own = model.sides[side.role]
        frozen |= {id(own.get_parameter(name)) for name in untrainable(side, own)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(id(parameter) not in frozen and (part != "pretrained" or name in fresh))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("training.freeze", part, "nothing would be left to train")
