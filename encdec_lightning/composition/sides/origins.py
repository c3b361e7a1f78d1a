"""Which parameter of a side starts as which of its checkpoint."""

from __future__ import annotations

from transformers import PreTrainedModel

from encdec_lightning.composition.architectures import architecture_of
from encdec_lightning.composition.options import Side
from encdec_lightning.composition.sides.config import checkpoint_config, layer_numbers
from encdec_lightning.composition.sides.cross_attention import is_cross_attention
from encdec_lightning.composition.sides.names import LAYER, base_prefix, parameter_names


def origins(side: Side, model: PreTrainedModel) -> dict[str, str]:
    """{parameter of a side: the checkpoint's parameter it starts as}; `model` may be on the meta device.

    What is not named starts at random, and so do parameters that the checkpoint turns out to lack: a head, and
    cross-attention.
    """
    if side.init == "random":
        return {}
    architecture, base = architecture_of(model.config), base_prefix(side, model)
    numbers = layer_numbers(side, checkpoint_config(side))
    found = {}
    of_vocabulary = _of_vocabulary(model) if side.vocabulary is not None else set()
    for name in parameter_names(side, model):
        in_embeddings = name.startswith(tuple(f"{base}{part}" for part in architecture.embeddings))
        if side.init != "pretrained" and in_embeddings != (side.init == "embeddings"):
            continue
        if is_cross_attention(name) and side.cross_attention != "pretrained":
            continue
        if name in of_vocabulary:
            continue
        found[name] = LAYER.sub(lambda match: f".{numbers[int(match[1])]}.", name, count=1)
    return found


def _of_vocabulary(model: PreTrainedModel) -> set[str]:
    """Names of the parameters that have a row for each word."""
    owners = [model.get_input_embeddings(), model.get_output_embeddings()]
    own = [parameter for owner in owners if owner is not None for parameter in owner.parameters()]
    size, head = model.config.vocab_size, f"{model.base_model_prefix}."
    return {
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if any(parameter is each for each in own)
        or (not name.startswith(head) and name.endswith("bias") and parameter.shape == (size,))
    }
