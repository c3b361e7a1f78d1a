"""What an export's `generation_config.json` says, so that transformers' own `generate` writes the same texts."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from encdec_lightning.composition.prefix import plain_settings
from encdec_lightning.generation.options import LACKING, Generation
from encdec_lightning.generation.support import target_limit

CHOSEN = {*(field.name for field in fields(Generation)), "max_new_tokens", "min_new_tokens"}
"""Settings that the options of generation decide, whatever the model's own config says."""


def stock_config(model: PreTrainedModel, generation: Generation, max_target_length: int) -> GenerationConfig:
    """The model's special tokens, and the options as transformers names them, for one target a source.

    Lengths count the start token, as those of transformers' encoder-decoders do. What transformers
    does not have (`LACKING`) is left out.
    """
    neutral: dict[str, Any] = {field: option.neutral for field, option in LACKING.items()}
    options = replace(generation, num_return_sequences=1, **neutral)
    settings = options.arguments(target_limit(model, generation, max_target_length))
    settings["max_length"] = settings.pop("max_new_tokens") + 1
    least = settings.pop("min_new_tokens")
    if least:
        settings["min_length"] = least + 1
    kept = {name: value for name, value in plain_settings(model.generation_config).items() if name not in CHOSEN}
    return GenerationConfig(**kept, **settings)
