"""What LoRA is added to, as the options of a training say."""

from __future__ import annotations

from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.lora import adapt, attention_layers, factors, shared_with_others
from encdec_lightning.composition.options import Role
from encdec_lightning.errors import UserError
from encdec_lightning.training.options import Lora


def add_lora(model: ComposedModel, lora: Lora) -> None:
    """Add LoRA's factors to a model, if the options say so; they are trained beside weights that `freeze` takes out.

    Raises `UserError` where there is nothing to add them to, the other side would get them too, or they are too wide.
    """
    if lora.rank is None:
        return
    if factors(model):
        raise UserError("training.lora.rank", lora.rank, "the model has LoRA's factors already, compose a new one")
    layers = []
    for role in _roles(model, lora):
        found = attention_layers(model, role)
        if not found:
            expected = f"no linear layer of the {role}'s attention starts as a checkpoint has it"
            raise UserError("training.lora.sides", lora.sides, expected)
        layers += found
    if shared_with_others(model, layers):
        expected = f"the sides share what it is added to (model.weights={model.composition.weights}), it must be both"
        raise UserError("training.lora.sides", lora.sides, expected)
    widest = max(min(model.get_parameter(f"{name}.weight").shape) for name in layers)
    if lora.rank > widest:
        raise UserError("training.lora.rank", lora.rank, f"a weight that it is added to has rank {widest} at most")
    adapt(model, layers, lora.rank, lora.alpha / lora.rank, lora.dropout)


def _roles(model: ComposedModel, lora: Lora) -> tuple[Role, ...]:
    if lora.sides == "both":
        return model.roles
    if lora.sides not in model.roles:
        alone = "an encoder" if model.scores_sentences else "a decoder"
        raise UserError("training.lora.sides", lora.sides, f"{alone} alone has no {lora.sides}")
    return (lora.sides,)
