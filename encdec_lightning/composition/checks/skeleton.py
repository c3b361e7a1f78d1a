"""The composed model without values, which shows what can be known before any weight is loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import PretrainedConfig, PreTrainedModel

from encdec_lightning.composition.assembly import assemble
from encdec_lightning.composition.checkpoints import one_line
from encdec_lightning.composition.checks.family import family_problems
from encdec_lightning.composition.checks.pair import refuse_unlike
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.options import Composition, Side
from encdec_lightning.composition.parameters import expected_fresh
from encdec_lightning.composition.sides.config import checkpoint_config, side_config
from encdec_lightning.composition.sides.origins import origins
from encdec_lightning.composition.sides.random_values import random_side
from encdec_lightning.errors import UserError, UserErrors


def skeleton(composition: Composition) -> ComposedModel:
    """The composed model on the meta device: its names, shapes and what is fresh; raises what hinders it."""
    problems = [problem for side in composition.sides for problem in family_problems(side, composition)]
    if problems:
        raise UserErrors(problems)
    configs = [side_config(side) for side in composition.sides]
    with torch.device("meta"), _Undrawn():
        models = [_built(side, config) for side, config in zip(composition.sides, configs, strict=True)]
        if len(models) == 2:
            refuse_unlike(composition, *models)
        model = assemble(models, composition)
    model.config.fresh_parameters = expected_fresh(model)
    return model


class _Undrawn(TorchFunctionMode):
    """Leave parameters as they are where they would be drawn, which takes its time even without values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _built(side: Side, config: PretrainedConfig) -> PreTrainedModel:
    """The side without values; raises `UserError` where no model, or not these layers of it, can be built."""
    try:
        model = random_side(side, config)
    except Exception as error:  # whatever the model's constructor trips over
        expected = f"no model can be built from its config.json ({type(error).__name__}: {one_line(error)})"
        raise UserError(side.role, side.checkpoint, expected) from error
    if side.layers is not None:
        whole = {
            name for name, _ in random_side(side, checkpoint_config(side)).named_parameters(remove_duplicate=False)
        }
        if not whole.issuperset(origins(side, model).values()):
            expected = f"the layers of {config.model_type} are not alike, they cannot be chosen"
            raise UserError(f"{side.role}_layers", side.layers, expected)
    return model
