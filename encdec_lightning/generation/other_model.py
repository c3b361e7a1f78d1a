"""A model that is not ours: whatever sequence-to-sequence or language model transformers opens, texts in, texts out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

from encdec_lightning.composition.architectures import known_architecture, length_limit
from encdec_lightning.composition.checkpoints import load_config, load_tokenizer, load_weights
from encdec_lightning.composition.tokenizers import DECODER_FOLDER
from encdec_lightning.errors import UserError, ran_out

FIELD = "model"
SOURCE = "{source}"
"""Stands in a prompt for the source."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How such a model is given a source."""

    prompt: str = SOURCE
    """What the model reads, `{source}` in it being the source."""
    source_language: str | None = None
    """The code of the source's language, for a tokenizer of several languages."""
    target_language: str | None = None
    """The code of the language that the model is to write."""
    max_source_length: int = 512
    """Most tokens of a prompt with its source, special ones included; longer sources are cut at their end."""


class OtherModel:
    """A model, its tokenizer, how it reads a source, and the tokenizer of what it writes."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        reading: Reading,
        causal: bool,
        writer: PreTrainedTokenizerBase,
    ) -> None:
        self._model, self._words, self._reading, self._causal = model, tokenizer, reading, causal
        self._writer = writer

    @classmethod
    def open(
        cls, checkpoint: str, reading: Reading, device: torch.device | str = "cpu", dtype: str = "float32"
    ) -> Self:
        """The model of a folder or a Hub id; raises `UserError` for one that does not write texts, or is not whole."""
        config = load_config(FIELD, checkpoint)
        causal = type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
        if causal and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            expected = f"its family {config.model_type} writes no texts from texts, as transformers knows it"
            raise UserError(FIELD, checkpoint, expected)
        if causal and _is_for_encoding(config):
            expected = f"its architecture {config.architectures[0]} is an encoder's: it has not learned to write texts"
            raise UserError(FIELD, checkpoint, expected)
        _check_export(config, checkpoint)
        tokenizer = load_tokenizer(FIELD, checkpoint)
        _check_reading(tokenizer, reading)
        _check_length(config, reading)
        auto = AutoModelForCausalLM if causal else AutoModelForSeq2SeqLM
        model, report = load_weights(auto, FIELD, checkpoint, config, dtype=DTYPES[dtype])
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            expected = f"{len(missing):,} of its weights are not in the checkpoint, such as {missing[0]}"
            raise UserError(FIELD, checkpoint, expected)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        tokenizer.padding_side = "left" if causal else "right"
        if reading.source_language is not None:
            tokenizer.src_lang = reading.source_language
        second = Path(checkpoint) / DECODER_FOLDER
        writer = load_tokenizer(FIELD, str(second)) if second.is_dir() and not causal else tokenizer
        return cls(model.eval().to(device), tokenizer, reading, causal, writer)

    @property
    def parameters(self) -> int:
        """How many numbers are in the weights."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def arguments(self, given: dict[str, Any], longest: int) -> dict[str, Any]:
        """Keyword arguments of `generate`: those `given`, the rest as the model's own generation config says.

        Texts end at `longest` tokens where neither says it.
        """
        own = self._model.generation_config
        arguments = dict(given)
        if own.max_length is None and own.max_new_tokens is None:
            arguments.setdefault("max_new_tokens", longest)
        if self._reading.target_language is not None:
            arguments["forced_bos_token_id"] = _language_id(self._words, self._reading.target_language)
        if own.pad_token_id is None:
            arguments["pad_token_id"] = self._words.pad_token_id
        self._check_positions(arguments)
        return arguments

    def _check_positions(self, arguments: dict[str, Any]) -> None:
        """Raise `UserError` where a text may be longer than the positions of the side that writes it."""
        own, config = self._model.generation_config, self._model.config
        source = self._reading.max_source_length if self._causal else 0
        new = arguments.get("max_new_tokens") or own.max_new_tokens
        longest = source + new if new else arguments.get("max_length") or own.max_length or 0
        limit = _positions(config, "decoder")
        if limit is not None and longest > limit:
            room = f"the model has {limit} positions" + (f", of which a source takes up to {source}" if source else "")
            raise UserError("task.max_target_length", new or longest, room)

    def texts(
        self, sources: Iterable[tuple[Key, str]], arguments: dict[str, Any], budget: int
    ) -> Iterator[tuple[Key, str]]:
        """(key, the text written) for each (key, source), the longest sources first.

        A batch has at most `budget` tokens, each beam's for itself and those that may be written included; where the
        memory does not hold it, it is done in halves.
        """
        encoded = [(key, self.ids(source)) for key, source in sources]
        encoded.sort(key=lambda each: -len(each[1]))
        own = self._model.generation_config
        more = arguments.get("max_new_tokens") or own.max_new_tokens or own.max_length or 0
        beams = arguments.get("num_beams") or own.num_beams or 1
        while encoded:
            size = max(1, budget // (beams * (len(encoded[0][1]) + more)))
            batch, encoded = encoded[:size], encoded[size:]
            yield from self._written(batch, arguments)

    def ids(self, source: str) -> list[int]:
        """The tokens that the model reads for a source.

        What is too long is cut at its end, as by the tokenizer's own `truncation`; where a prompt goes on behind the
        source, the source alone is cut.
        """
        longest = self._reading.max_source_length
        ids = self._prompted(source)
        if len(ids) <= longest:
            return ids
        if self._reading.prompt.endswith(SOURCE):
            found: list[int] = self._words(self._filled(source), truncation=True, max_length=longest)["input_ids"]
            return found
        kept = bisect_right(range(len(source) + 1), longest, key=lambda end: len(self._prompted(source[:end]))) - 1
        return self._prompted(source[: max(0, kept)])

    def _prompted(self, source: str) -> list[int]:
        found: list[int] = self._words(self._filled(source), verbose=False)["input_ids"]
        return found

    def _filled(self, source: str) -> str:
        return self._reading.prompt.replace(SOURCE, source)

    def _written(self, batch: list[tuple[Key, list[int]]], arguments: dict[str, Any]) -> Iterator[tuple[Key, str]]:
        inputs = self._words.pad({"input_ids": [ids for _, ids in batch]}, return_tensors="pt")
        inputs = {name: inputs[name].to(self._model.device) for name in ("input_ids", "attention_mask")}
        found: torch.Tensor | None = None
        try:
            with torch.inference_mode():
                found = self._model.generate(**inputs, **arguments)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            if len(batch) == 1:
                expected = f"the memory of {self._model.device} does not hold the beams of one source"
                raise UserError("generation.num_beams", arguments.get("num_beams"), expected) from error
        if found is None:  # here the error, and all that it held, is gone
            half = len(batch) // 2
            yield from self._written(batch[:half], arguments)
            yield from self._written(batch[half:], arguments)
            return
        if self._causal:
            found = found[:, inputs["input_ids"].shape[1] :]
        texts = self._writer.batch_decode(found, skip_special_tokens=True)
        for (key, _), text in zip(batch, texts, strict=True):
            yield key, text.strip()


def _is_for_encoding(config: PretrainedConfig) -> bool:
    """Whether a checkpoint's architecture is one of the masked language models, which can be opened as a decoder."""
    names = getattr(config, "architectures", None) or []
    return any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in names) and not any(
        name.endswith(("LMHeadModel", "ForCausalLM")) for name in names
    )


def _check_export(config: PretrainedConfig, checkpoint: str) -> None:
    """Raise `UserError` for an export of this package whose sources its tokenizer alone does not make.

    Sources and targets with a tokenizer each are written as they should be, where both are at hand.
    """
    composition = getattr(config, "composition", None)
    if not isinstance(composition, dict):
        return
    run = "score it with run=, by its run's folder"
    if composition.get("encoder_sentences") is not None:
        expected = f"it reads marked sentences, which its tokenizer does not make: {run}"
        raise UserError(FIELD, checkpoint, expected)
    if "encoder" in composition and composition["encoder"] is None:
        expected = f"it reads a source and then a start token, which its tokenizer does not write: {run}"
        raise UserError(FIELD, checkpoint, expected)
    words = [composition.get(f"{role}_vocabulary") or composition.get(role) for role in ("encoder", "decoder")]
    if words[0] != words[1] and not Path(checkpoint).is_dir():
        expected = f"its texts need the tokenizer in its {DECODER_FOLDER}: download it, and give the folder"
        raise UserError(FIELD, checkpoint, expected)


def _check_reading(tokenizer: PreTrainedTokenizerBase, reading: Reading) -> None:
    if reading.prompt.count(SOURCE) != 1:
        raise UserError("prompt", reading.prompt, f"it must hold {SOURCE} once, where the source stands")
    for name, language in (("source_language", reading.source_language), ("target_language", reading.target_language)):
        if language is not None and _language_id(tokenizer, language) in (None, tokenizer.unk_token_id):
            raise UserError(name, language, "the model's tokenizer has no such language, such as en_XX or eng_Latn")


def _language_id(tokenizer: PreTrainedTokenizerBase, code: str) -> int | None:
    """The token of a language's code; M2M100's are called otherwise than their codes, and words may be called so."""
    tokens = getattr(tokenizer, "lang_code_to_token", None)
    if isinstance(tokens, dict):
        token = tokens.get(code)
        return None if token is None else tokenizer.convert_tokens_to_ids(token)
    found: int | None = tokenizer.convert_tokens_to_ids(code)
    return found


def _check_length(config: PretrainedConfig, reading: Reading) -> None:
    """Raise `UserError` for sources that are longer than the position table of the side that reads them."""
    limit = _positions(config, "encoder")
    if limit is not None and reading.max_source_length > limit:
        raise UserError("task.max_source_length", reading.max_source_length, f"the model has {limit} positions")


def _positions(config: PretrainedConfig, role: str) -> int | None:
    """How many positions a side has, or a model without sides, as far as its configuration tells."""
    side = getattr(config, role, None)
    if isinstance(side, PretrainedConfig) and known_architecture(side) is not None:
        return length_limit(side)
    side = side if isinstance(side, PretrainedConfig) else config
    names = (f"max_{role}_position_embeddings", "max_position_embeddings")
    return next((found for name in names if isinstance(found := getattr(side, name, None), int)), None)
