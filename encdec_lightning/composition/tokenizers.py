"""`Tokenizers`: one or two tokenizers and the one special-token contract of training, generation and export."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from encdec_lightning.composition.bulk_tokenizer import BulkTokenizer
from encdec_lightning.composition.checkpoints import load_tokenizer
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.options import Composition
from encdec_lightning.composition.sentence_tokenizer import SentenceTokenizer
from encdec_lightning.errors import UserError, UserErrors

DECODER_FOLDER = "decoder_tokenizer"
SENTENCES_FILE = "source_sentences.txt"
"""Holds `Composition.encoder_sentences`, where it is given."""


class Tokenizers:
    """The tokenizer of the sources and that of the targets, the same object when one checkpoint serves both.

    The contract: a source is what its tokenizer makes of it, special tokens included, or of each of its sentences where
    `sentences` says how they end (`Composition.encoder_sentences`). A target is `tokens + [end_id]`,
    read by the decoder as `[start_id] + tokens`. `start_id` is the target tokenizer's [CLS], else its beginning of
    sequence, else (Qwen's) its padding, else its end of sequence; `end_id` its [SEP], else its end of sequence; a
    tokenizer without padding pads with `end_id`, which is safe because masks come from lengths, never from ids.
    """

    def __init__(
        self,
        source: PreTrainedTokenizerBase,
        target: PreTrainedTokenizerBase | None = None,
        sentences: str | None = None,
    ) -> None:
        self.source, self.sentences = source, sentences
        self.target = source if target is None else target
        self.start_id = _first(self.target, "cls_token_id", "bos_token_id", "pad_token_id", "eos_token_id")
        self.end_id = _first(self.target, "sep_token_id", "eos_token_id")
        self.pad_id = _first(self.target, "pad_token_id", "sep_token_id", "eos_token_id")
        self.source_pad_id = _first(self.source, "pad_token_id", "sep_token_id", "eos_token_id")

    @classmethod
    def from_pretrained(
        cls, source: str, target: str | None = None, local_files_only: bool = False, sentences: str | None = None
    ) -> Tokenizers:
        """Load from Hub ids or folders; `target` defaults to `source`. Raises `UserError` if there is none."""
        first = load_tokenizer("encoder", source, local_files_only)
        if target is None or target == source:
            return cls(first, sentences=sentences)
        return cls(first, load_tokenizer("decoder", target, local_files_only), sentences)

    @classmethod
    def of(cls, composition: Composition, local_files_only: bool = False) -> Tokenizers:
        """Those of a composition; raises `UserError` as `from_pretrained`."""
        return Tokenizers.from_pretrained(*composition.vocabularies, local_files_only, composition.encoder_sentences)

    @classmethod
    def load(cls, folder: Path) -> Tokenizers:
        """What `save_pretrained` wrote."""
        second = folder / DECODER_FOLDER
        own = load_tokenizer("folder", str(folder))
        rule = folder / SENTENCES_FILE
        sentences = rule.read_text(encoding="utf-8").strip() if rule.is_file() else None
        return cls(own, load_tokenizer("folder", str(second)) if second.is_dir() else None, sentences)

    def save_pretrained(self, folder: Path) -> None:
        """Write the source tokenizer into `folder`, a second one into `folder/decoder_tokenizer`, and `sentences`."""
        self.source.save_pretrained(folder)
        shutil.rmtree(folder / DECODER_FOLDER, ignore_errors=True)  # `load` would take an earlier one for a second
        if self.target is not self.source:
            self.target.save_pretrained(folder / DECODER_FOLDER)
        (folder / SENTENCES_FILE).unlink(missing_ok=True)
        if self.sentences is not None:
            (folder / SENTENCES_FILE).write_text(f"{self.sentences}\n", encoding="utf-8")

    def problems(self, model: ComposedModel) -> list[UserError]:
        """Where these tokenizers and the model's vocabularies disagree."""
        found = []
        if self.sentences is not None:
            try:
                _ = self.source_in_bulk
            except UserError as problem:
                found.append(problem)
        configs = [("encoder", self.source, model.source_config)]
        if not model.scores_sentences:
            configs.append(("decoder", self.target, model.config.decoder))
        for role, tokenizer, config in configs:
            last = max(tokenizer.get_vocab().values())
            if last >= config.vocab_size:
                expected = (
                    f"its last token is {last}, but the {role}'s vocabulary has {config.vocab_size} words; after adding"
                    " tokens, call the checkpoint's resize_token_embeddings(len(tokenizer)) and save both"
                )
                found.append(UserError(f"tokenizer of the {role}", tokenizer.name_or_path, expected))
        if model.scores_sentences:
            return found
        words = model.get_input_embeddings().weight, model.decoder.get_input_embeddings().weight
        copied = model.composition.decoder_embeddings_init == "encoder"
        if (words[0] is words[1] or copied) and self.source.get_vocab() != self.target.get_vocab():
            same = "start with the same" if copied else "share their"
            expected = f"the sides {same} word embeddings, but {self.source.name_or_path} has other words"
            found.append(UserError("tokenizer of the decoder", self.target.name_or_path, expected))
        return found

    def configure(self, model: ComposedModel) -> None:
        """Write start, end and pad into the model's config and generation config: one first step for all.

        Families whose config forces the last token of the longest texts, or forbids a source's n-grams, do so for their
        own vocabulary: the last token becomes the end token, and n-grams are allowed.

        Raises `UserErrors` if these tokenizers do not fit the model's vocabularies.
        """
        found = self.problems(model)
        rule = model.composition.encoder_sentences
        if self.sentences != rule:
            expected = f"the model reads sentences as {rule!r} says: give that as sentences"
            found.append(UserError("tokenizers.sentences", self.sentences, expected))
        if found:
            raise UserErrors(found)
        for config in (model.config, model.generation_config):
            config.decoder_start_token_id = self.start_id
            config.eos_token_id = self.end_id
            config.pad_token_id = self.pad_id
        model.generation_config.bos_token_id = self.start_id
        if model.generation_config.forced_eos_token_id is not None:
            model.generation_config.forced_eos_token_id = self.end_id
        if not model.reads_prefix:  # a source's tokens are of another vocabulary: Blenderbot would forbid their like
            model.generation_config.encoder_no_repeat_ngram_size = None
        marks = self.source_in_bulk.prefix, self.source_in_bulk.suffix
        model.config.sentence_start_id, model.config.sentence_end_id = (
            None if self.sentences is None else int(each[0]) for each in marks
        )

    @functools.cached_property
    def source_in_bulk(self) -> BulkTokenizer | SentenceTokenizer:
        """What the source tokenizer makes of a text, special tokens included."""
        if self.sentences is not None:
            return SentenceTokenizer(self.source, self.sentences)
        return BulkTokenizer.with_special_tokens(self.source)

    @functools.cached_property
    def target_in_bulk(self) -> BulkTokenizer:
        """A target's tokens and the end token, which stays last when a target is cut."""
        return BulkTokenizer(self.target, [], [self.end_id])

    def encode_sources(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """Ids of each source, cut to `max_length` tokens with the special ones."""
        return [self.source_in_bulk.cut(ids, max_length).tolist() for ids in self.source_in_bulk(texts)]

    def encode_targets(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """Ids of each target, cut to `max_length` tokens with the end token that is always last."""
        return [self.target_in_bulk.cut(ids, max_length).tolist() for ids in self.target_in_bulk(texts)]

    @property
    def vocabulary_sizes(self) -> tuple[int, int]:
        """What every id of a source, and of a target, is less than."""
        source, target = (max(each.get_vocab().values()) + 1 for each in (self.source, self.target))
        return source, target

    def signature(self) -> str:
        """A hash of all that decides the ids of a pair."""
        return hashlib.sha256(
            f"{self.source_in_bulk.signature()}{self.target_in_bulk.signature()}".encode()
        ).hexdigest()

    def decode(self, ids: torch.Tensor | list[list[int]]) -> list[str]:
        """The texts of generated sequences (B, T), without special tokens."""
        return [text.strip() for text in self.target.batch_decode(ids, skip_special_tokens=True)]


def special_tokens(composition: Composition) -> dict[str, tuple[str, int]] | None:
    """{use of a special token: (its text, its id)} by the contract; None where a tokenizer is not on this machine."""
    try:
        tokenizers = Tokenizers.of(composition, local_files_only=True)
    except UserError:
        return None
    ids = {"start": tokenizers.start_id, "end": tokenizers.end_id, "pad": tokenizers.pad_id}
    return {name: (str(tokenizers.target.convert_ids_to_tokens(number)), number) for name, number in ids.items()}


def _first(tokenizer: PreTrainedTokenizerBase, *names: str) -> int:
    """The first of these special tokens that the tokenizer has."""
    for name in names:
        value = getattr(tokenizer, name)
        if value is not None:
            return int(value)
    words = " or ".join(name.removesuffix("_id") for name in names)
    raise UserError("tokenizer", tokenizer.name_or_path, f"it needs a {words}")
