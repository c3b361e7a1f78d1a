"""`Tokenizers`: one or two tokenizers and the one special-token contract of training, generation and export."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from encdec_lightning.errors import UserError

DECODER_FOLDER = "decoder_tokenizer"


class Tokenizers:
    """The tokenizer of the sources and that of the targets, the same object when one checkpoint serves both.

    The contract: a source is what its tokenizer makes of it, special tokens included. A target is `tokens + [end_id]`,
    read by the decoder as `[start_id] + tokens`. `start_id` is the target tokenizer's [CLS], else its beginning of
    sequence; `end_id` its [SEP], else its end of sequence; a tokenizer without padding pads with `end_id`, which is
    safe because masks come from lengths, never from ids.
    """

    def __init__(self, source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase | None = None) -> None:
        self.source = source
        self.target = source if target is None else target
        self.start_id = _first(self.target, "cls_token_id", "bos_token_id")
        self.end_id = _first(self.target, "sep_token_id", "eos_token_id")
        self.pad_id = _first(self.target, "pad_token_id", "sep_token_id", "eos_token_id")
        self.source_pad_id = _first(self.source, "pad_token_id", "sep_token_id", "eos_token_id")

    @classmethod
    def from_pretrained(cls, source: str, target: str | None = None) -> Tokenizers:
        """Load from Hub ids or folders; `target` defaults to `source`. Raises `UserError` if there is none."""
        first = _load("encoder", source)
        return cls(first) if target in (None, source) else cls(first, _load("decoder", target))

    @classmethod
    def load(cls, folder: Path) -> Tokenizers:
        """What `save_pretrained` wrote."""
        second = folder / DECODER_FOLDER
        return cls(_load("folder", str(folder)), _load("folder", str(second)) if second.is_dir() else None)

    def save_pretrained(self, folder: Path) -> None:
        """Write the source tokenizer into `folder` and a second one into `folder/decoder_tokenizer`."""
        self.source.save_pretrained(folder)
        shutil.rmtree(folder / DECODER_FOLDER, ignore_errors=True)  # `load` would take an earlier one for a second
        if self.target is not self.source:
            self.target.save_pretrained(folder / DECODER_FOLDER)

    def configure(self, model: PreTrainedModel) -> None:
        """Write start, end and pad into the model's config and generation config: one first step for all."""
        for config in (model.config, model.generation_config):
            config.decoder_start_token_id = self.start_id
            config.eos_token_id = self.end_id
            config.pad_token_id = self.pad_id
        model.generation_config.bos_token_id = self.start_id

    def encode_sources(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """Ids of each source, cut to `max_length` tokens with the special ones."""
        encoded = self.source(list(texts), truncation=True, max_length=max_length, return_attention_mask=False)
        return list(encoded["input_ids"])

    def encode_targets(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """Ids of each target, cut to `max_length` tokens with the end token that is always last."""
        encoded = self.target(
            list(texts),
            add_special_tokens=False,
            truncation=True,
            max_length=max_length - 1,
            return_attention_mask=False,
        )
        return [[*ids, self.end_id] for ids in encoded["input_ids"]]

    def decode(self, ids: torch.Tensor) -> list[str]:
        """The texts of generated sequences (B, T), without special tokens."""
        return [text.strip() for text in self.target.batch_decode(ids, skip_special_tokens=True)]


def _load(field: str, checkpoint: str) -> PreTrainedTokenizerBase:
    missing = UserError(field, checkpoint, "no tokenizer of it can be loaded")
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    except (OSError, ValueError, KeyError) as error:
        raise missing from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes of a folder without its files
        raise missing
    return tokenizer


def _first(tokenizer: PreTrainedTokenizerBase, *names: str) -> int:
    """The first of these special tokens that the tokenizer has."""
    for name in names:
        value = getattr(tokenizer, name)
        if value is not None:
            return int(value)
    words = " or ".join(name.removesuffix("_id") for name in names)
    raise UserError("tokenizer", tokenizer.name_or_path, f"it needs a {words}")
