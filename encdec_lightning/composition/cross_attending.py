"""The config of a language model that cross-attention was added to: the model's own, with what was added.

It has one `model_type` for all families, which transformers alone does not know, so that it refuses such a folder
instead of opening it without its cross-attention.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

MODEL_TYPE = "cross_attending_lm"
LANGUAGE_MODEL = "language_model"
MODELS = "encdec_lightning.composition.adapter.decoder"
"""The module of the classes of models, which imports this one and is imported when the first config is made."""


class CrossAttendingConfig(PretrainedConfig):  # type: ignore[misc]
    """What was added. Made of values that name the family, it is the config of that family's class."""

    model_type = MODEL_TYPE
    language_model: str = ""
    """The language model's own `model_type`."""
    cross_attention_place: str = "between"
    cross_attention_every: int = 1
    cross_attention_kind: str = "separate"
    cross_attention_gate: str = "none"
    cross_attention_hidden_size: int | None = None
    """How wide the states are that it reads; None: as wide as its own."""
    is_decoder: bool = True
    add_cross_attention: bool = True

    def __new__(cls, *args: Any, **values: Any) -> Any:
        """An object of the family's class."""
        family = values.get(LANGUAGE_MODEL)
        return super().__new__(config_class(family) if cls is CrossAttendingConfig and family else cls)


@cache
def config_class(family: str) -> type[CrossAttendingConfig]:
    """The class of such configs whose language models are of this family; models of it are known to transformers."""
    own = CONFIG_MAPPING[family]
    name = f"CrossAttending{own.__name__}"
    values: dict[str, Any] = {
        "__module__": __name__,
        "__qualname__": name,
        "model_type": MODEL_TYPE,
        LANGUAGE_MODEL: family,
    }
    values["__annotations__"] = {LANGUAGE_MODEL: str}
    made: type[CrossAttendingConfig] = type(name, (CrossAttendingConfig, own), values)
    globals()[name] = made
    importlib.import_module(MODELS).register_model(made)
    return made


def with_cross_attention(config: PretrainedConfig, **added: Any) -> CrossAttendingConfig:
    """A language model's config with what is added to it."""
    values = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    made: CrossAttendingConfig = config_class(config.model_type)(**values, **added)
    return made


def family(config: PretrainedConfig) -> str:
    """A config's family: its `model_type`, or that of the language model in it."""
    return str(getattr(config, LANGUAGE_MODEL) if config.model_type == MODEL_TYPE else config.model_type)


AutoConfig.register(MODEL_TYPE, CrossAttendingConfig, exist_ok=True)
