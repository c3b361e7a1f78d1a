"""The options of a task (what is learned) and of loading (how it reaches the model)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from encdec_lightning.errors import require

Oracle = Literal["rouge2", "rouge1+rouge2"]
"""What a greedy oracle looks at (`evaluation/extraction.py`)."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learned: texts, columns, lengths, and how the result is judged."""

    train: str
    """Training pairs: a file (.jsonl, .csv, .tsv, .parquet; compressed, inside a .zip or at a URL too), two text files
    side by side (`a.en+a.de`), `hub:<id or folder>[@<revision>]:<configuration>:<split>`, or embedded: pydoc,
    pydoc_names."""
    validation: str
    """Validation pairs, as `train`; an embedded data set gives the part of its split that fits the role."""
    test: str | None = None
    """Test pairs, as `train`; null: `validation` is tested."""
    source: str = "source"
    """Column of the text that is read; `a.b` is the field b of column a, `a+b` two columns joined by a space. A list of
    sentences there is a text with a line for each."""
    target: str = "target"
    """Column of the text to be written, as `source`; it may hold a list of texts that are equally right."""
    references: list[str] | None = None
    """Further columns with texts or lists that are as right as `target`; a row may lack them. Metrics know every one,
    `train_target` says what training takes."""
    train_target: Literal["first", "drawn"] = "first"
    """Which of several targets a training pair has: the first of all, or one drawn anew for each epoch."""
    id: str | None = None
    """Column of the examples' ids; null: the number of the row."""
    columns: list[str] | None = None
    """Names of the columns of csv and tsv files whose first line is a row already; null: the first line names them."""
    preprocess: list[str] | None = None
    """Functions `Pair -> Pair | None` by dotted path, applied in this order; a None drops the pair."""
    test_preprocess: list[str] | None = None
    """Further functions, for test pairs alone."""
    max_source_length: int = 512
    """Longest source in tokens with the special ones."""
    max_target_length: int = 128
    """Longest target in tokens with the end token."""
    too_long: Literal["truncate", "drop", "error"] = "truncate"
    """What becomes of a longer training pair: it is cut, left out and counted, or an error. Others are always cut."""
    train_share: float = 1.0
    """Use only this share of the training pairs, chosen by a hash of their ids: the 1% lies inside the 10%."""
    train_examples: int | None = None
    """Use only the first so many training pairs; null: all."""
    validation_examples: int | None = None
    """Use only the first so many validation pairs; null: all."""
    test_examples: int | None = None
    """Use only the first so many test pairs; null: all."""
    validation_generate: int = 0
    """Generate for the first so many validation pairs at every validation, and log `val/rouge1` and the like."""
    metrics: list[str | dict[str, Any]] | None = None
    """Metrics: rouge, exact_match, sari, sari_standard, bleu, bleu_uncased, bleu_nltk, chrf, ter, length, novel_ngrams,
    repetition, bertscore, or the dotted path of a class of your own; {name: rouge, tokenizer: unicode} gives arguments;
    null: rouge."""
    baselines: list[str] | None = None
    """Baselines in the final table: lead_sentence, lead_2_sentences, lead_3_sentences, lead_8_words, lead_12_words,
    copy, and oracle_1_sentence, oracle_3_sentences, which know the target; null: no baseline."""
    monitor: str = "val/loss"
    """What chooses the best checkpoint and stops early."""
    monitor_mode: Literal["min", "max"] | None = None
    """Whether less or more of `monitor` is better; null: as the metric says."""

    def __post_init__(self) -> None:
        require(
            ("max_source_length", self.max_source_length, self.max_source_length >= 3, "it must be at least 3"),
            ("max_target_length", self.max_target_length, self.max_target_length >= 2, "it must be at least 2"),
            ("train_share", self.train_share, 0 < self.train_share <= 1, "it must lie in (0, 1]"),
            ("validation_generate", self.validation_generate, self.validation_generate >= 0, "it must not be negative"),
            ("columns", self.columns, self.columns is None or _are_names(self.columns), "it must be a list of names"),
            *(
                (name, value, value is None or value >= 1, "it must be at least 1, or null for all")
                for name in ("train_examples", "validation_examples", "test_examples")
                for value in [getattr(self, name)]
            ),
        )

    @property
    def scored_with(self) -> Sequence[str | dict[str, Any]]:
        """The metrics that texts are scored with."""
        return self.metrics or ["rouge"]

    def path(self, split: Literal["train", "validation", "test"]) -> str:
        """Where the pairs of a split are."""
        return {"train": self.train, "validation": self.validation, "test": self.test or self.validation}[split]


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """How an encoder alone learns an extract, and makes one of the scores of sentences (`model.decoder=null`)."""

    sentences: int = 3
    """Sentences of an extract; a shorter source gives all of its own."""
    block_trigrams: bool = True
    """Pass over a sentence that has three words in a row of one that is in the extract already (Liu & Lapata,
    2019)."""
    oracle: Oracle = "rouge1+rouge2"
    """What the sentences that are right have most of together with a target: ROUGE-2, as the paper says, or the sum of
    ROUGE-1 and ROUGE-2, as its code has it. They are chosen one by one."""
    oracle_sentences: int = 3
    """Sentences of a source that are right, at most."""

    def __post_init__(self) -> None:
        require(
            ("sentences", self.sentences, self.sentences >= 1, "it must be at least 1"),
            ("oracle_sentences", self.oracle_sentences, self.oracle_sentences >= 1, "it must be at least 1"),
        )


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How examples become batches."""

    batch_tokens: int = 8000
    """Most tokens in a micro-batch, padding and both sides included."""
    evaluation_batch_tokens: int | None = None
    """The same for validation and generation; null: as `batch_tokens`."""
    accumulate: int = 1
    """Micro-batches on each device for one optimizer step; the loss stays exact per target token."""
    update_examples: int | None = None
    """Examples of one optimizer step on all devices together; `accumulate` then follows. null: as many as fit."""
    update_target_tokens: int | None = None
    """The same by target tokens: as many examples as have so many on average."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that is no example (no text, an empty one, not UTF-8, ...) is an error, or skipped, counted and listed."""
    workers: int = 0
    """Processes that prepare batches ahead; 0: the training process does. Results do not depend on it."""
    seed: int = 0
    """Seed of the order of the examples."""
    cache: str | None = None
    """Folder of cached data; null: $ENCDEC_LIGHTNING_CACHE, else the user's cache folder."""

    def __post_init__(self) -> None:
        budget = self.evaluation_batch_tokens
        examples, tokens = self.update_examples, self.update_target_tokens
        sized = examples is not None or tokens is not None
        follows = "it follows from update_examples or update_target_tokens, leave it away"
        require(
            ("update_examples", examples, examples is None or examples >= 1, "it must be at least 1"),
            ("update_target_tokens", tokens, tokens is None or tokens >= 1, "it must be at least 1"),
            ("update_target_tokens", tokens, None in (examples, tokens), "update_examples sets the size already"),
            ("accumulate", self.accumulate, not sized or self.accumulate == 1, follows),
            ("workers", self.workers, self.workers >= 0, "it must not be negative"),
            ("batch_tokens", self.batch_tokens, self.batch_tokens >= 1, "it must be at least 1"),
            ("evaluation_batch_tokens", budget, budget is None or budget >= 1, "it must be at least 1"),
            ("accumulate", self.accumulate, self.accumulate >= 1, "it must be at least 1"),
            ("seed", self.seed, self.seed >= 0, "it must not be negative"),
        )


def _are_names(columns: list[str]) -> bool:
    return bool(columns) and all(columns) and len(set(columns)) == len(columns)
