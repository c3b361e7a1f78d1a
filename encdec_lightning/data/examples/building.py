"""Rows of a split in, its store on disk out: read, tokenized in chunks, cut, counted, written, in one pass."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.composition.bulk_tokenizer import Ids
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.examples.sentence_labels import SentenceLabels
from encdec_lightning.data.examples.store import SIDES, OnDisk, StoreWriter
from encdec_lightning.data.options import Task
from encdec_lightning.data.sources.pairs import PairReader, Split
from encdec_lightning.data.sources.source import Rows
from encdec_lightning.errors import UserError
from encdec_lightning.progress import Progress
from encdec_lightning.records import Pair

CHUNK = 1000  # pairs tokenized together
CHARACTERS = 8_000_000  # of texts tokenized in one call, the last one's aside: what bounds the memory of long ones
LONGEST_TEXT = 5_000_000  # characters: more than the Bible has, and seconds of a tokenizer's work
SKIPPED = "skipped.jsonl"

Given = TypeVar("Given")
Made = TypeVar("Made")


def build(
    folder: Path, task: Task, split: Split, tokenizers: Tokenizers, labels: SentenceLabels | None, rows: Rows,
    skip_bad_rows: bool,
) -> None:  # fmt: skip
    """Write the examples of a split into a new folder, and beside them a list of the rows that were skipped.

    With `labels` a target is not what the tokenizer makes of its text, but these. Raises `UserError` naming the first
    row that is wrong, unless such are skipped, or saying that there is no example.
    """
    name, location = f"task.{split}", task.path(split)
    sizes = tokenizers.vocabulary_sizes
    writer = StoreWriter(folder, sizes if labels is None else (sizes[0], labels.vocabulary_size))
    with (folder / SKIPPED).open("w", encoding="utf-8") as listed:

        def skip(row: int, problem: UserError) -> None:
            listed.write(json.dumps({"row": row, "problem": str(problem)}) + "\n")

        reader = PairReader(task, split, skip if skip_bad_rows else None)
        keeper = _Keeper(task, split, tokenizers, labels, reader)
        try:
            pairs = reader.read(rows)
            if split == "train" and task.train_target == "drawn":
                pairs = _one_for_each_target(pairs)
            chunks = _chunks(_bounded(pairs, name, reader), f"{name}: tokenizing {location}")
            for (numbers, some), whole in _ahead(lambda chunk: (chunk, keeper.encoded(chunk[1])), chunks):
                keeper.keep(numbers, some, whole, writer)
        finally:
            writer.abandon()
            if labels is not None:
                labels.close()
    if writer.count == 0:
        raise reader.no_example(location)
    writer.close(location=location, labels=labels is not None, **keeper.counts())
    repeated = OnDisk(folder).repeated_id() if task.id is not None else None
    if repeated is not None:
        raise UserError(f"{name} row {repeated[0]}", repeated[1], "an example before has the same id")


class _Keeper:
    """Tokenizes pairs, applies the rules of length, and counts what happens."""

    def __init__(
        self, task: Task, split: Split, tokenizers: Tokenizers, labels: SentenceLabels | None, reader: PairReader
    ) -> None:
        self._name, self._reader = f"task.{split}", reader
        self._too_long = task.too_long if split == "train" else "truncate"
        self._source = tokenizers.source_in_bulk
        self._target = tokenizers.target_in_bulk if labels is None else labels
        # As many sentences as a source has tokens do no harm.
        self._limits = np.array([task.max_source_length, task.max_target_length if labels is None else LONGEST_TEXT])
        self._truncated, self._unknown, self._with_unknown = (np.zeros(2, dtype=np.int64) for _ in range(3))
        self._dropped = 0

    def encoded(self, pairs: list[Pair]) -> list[list[Ids]]:
        """Ids of all sources and of all targets, whole."""
        sources = [ids for part in _calls([pair.source for pair in pairs]) for ids in self._source(part)]
        if isinstance(self._target, SentenceLabels):
            return [sources, self._target(pairs)]
        return [sources, [ids for part in _calls([pair.target for pair in pairs]) for ids in self._target(part)]]

    def keep(self, rows: list[int], pairs: list[Pair], whole: list[list[Ids]], writer: StoreWriter) -> None:
        """Write those pairs that the rules of length let through, cut."""
        lengths = np.array([[len(ids) for ids in side] for side in whole], dtype=np.int32).T
        over = lengths > self._limits
        if self._too_long == "error" and over.any():
            number, side = np.argwhere(over)[0]
            expected = f"it must not exceed task.max_{SIDES[side]}_length ({self._limits[side]}); see task.too_long"
            raise UserError(f"{self._name} row {rows[number]}", f"{lengths[number, side]} tokens", expected)
        fits = ~over.any(axis=1) | (self._too_long != "drop")
        self._dropped += int((~fits).sum())
        kept = [
            number
            for number in np.flatnonzero(fits).tolist()
            if self._has_tokens(rows[number], pairs[number], lengths[number])
        ]
        if not kept:
            return
        cut = self._cut([[side[number] for number in kept] for side in whole])
        self._truncated += over[kept].sum(axis=0)
        for side, (tokenizer, ids) in enumerate(zip((self._source, self._target), cut, strict=True)):
            found = _occurrences(tokenizer.unknown_id, ids)
            self._unknown[side] += found.sum()
            self._with_unknown[side] += np.count_nonzero(found)
        writer.extend([rows[each] for each in kept], [pairs[each] for each in kept], cut, lengths[kept])

    def _cut(self, whole: list[list[Ids]]) -> list[list[Ids]]:
        """Ids of both sides, within the limits."""
        sources = [self._source.cut(ids, int(self._limits[0])) for ids in whole[0]]
        if isinstance(self._target, SentenceLabels):
            return [sources, list(map(self._target.cut, whole[1], sources))]
        return [sources, [self._target.cut(ids, int(self._limits[1])) for ids in whole[1]]]

    def _has_tokens(self, row: int, pair: Pair, lengths: NDArray[np.int32]) -> bool:
        """Whether the tokenizers make anything of both texts."""
        texts = pair.source, pair.target
        for tokenizer, name, text, length in zip((self._source, self._target), SIDES, texts, lengths, strict=True):
            if length <= len(tokenizer.prefix) + len(tokenizer.suffix):
                expected = f"the tokenizer makes no token of this {name}"
                self._reader.refuse(row, UserError(f"{self._name} row {row}", text[:60], expected))
                return False
        return True

    def counts(self) -> dict[str, object]:
        """What became of all rows."""
        return {
            "skipped": self._reader.skipped,
            "dropped_by_preprocessing": self._reader.dropped,
            "not_drawn": self._reader.not_drawn,
            "too_long_dropped": self._dropped,
            "limits": [limit if limit < LONGEST_TEXT else None for limit in self._limits.tolist()],
            "truncated": self._truncated.tolist(),
            "unknown_tokens": self._unknown.tolist(),
            "with_unknown_tokens": self._with_unknown.tolist(),
        }


def _one_for_each_target(pairs: Iterable[tuple[int, Pair]]) -> Iterator[tuple[int, Pair]]:
    for row, pair in pairs:
        for target in (pair.target, *pair.other_targets):
            yield row, Pair(pair.id, pair.source, target)


def _bounded(pairs: Iterable[tuple[int, Pair]], name: str, reader: PairReader) -> Iterator[tuple[int, Pair]]:
    """The pairs without those that have a text of more than `LONGEST_TEXT` characters, which are bad rows."""
    for row, pair in pairs:
        for side, text in zip(SIDES, (pair.source, pair.target), strict=True):
            if len(text) > LONGEST_TEXT:
                expected = f"the {side} has {len(text):,} characters, and at most {LONGEST_TEXT:,} are tokenized"
                reader.refuse(row, UserError(f"{name} row {row}", f"{text[:60]}...", expected))
                break
        else:
            yield row, pair


def _chunks(pairs: Iterable[tuple[int, Pair]], description: str) -> Iterator[tuple[list[int], list[Pair]]]:
    """Chunks of rows' numbers and pairs, with a sign of life."""
    with Progress(description, unit="examples") as progress:
        remaining = iter(pairs)
        while chunk := list(islice(remaining, CHUNK)):
            yield [number for number, _ in chunk], [pair for _, pair in chunk]
            progress.advance(len(chunk))


def _calls(texts: list[str]) -> Iterator[list[str]]:
    """The texts in lists of not much more than `CHARACTERS`."""
    start = characters = 0
    for end, text in enumerate(texts, start=1):
        characters += len(text)
        if characters >= CHARACTERS or end == len(texts):
            yield texts[start:end]
            start, characters = end, 0


def _ahead(work: Callable[[Given], Made], given: Iterable[Given]) -> Iterator[Made]:
    """What `work` makes of each, in order, done ahead in a thread: tokenizers in Rust leave Python free meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: deque[Future[Made]] = deque()
        for each in given:
            waiting.append(pool.submit(work, each))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _occurrences(token: int | None, texts: list[Ids]) -> NDArray[np.int64]:
    """How often a token occurs in each of some texts, none of them empty."""
    if token is None:
        return np.zeros(len(texts), dtype=np.int64)
    starts = np.cumsum([0, *(len(ids) for ids in texts[:-1])])
    return np.add.reduceat(np.concatenate(texts) == token, starts, dtype=np.int64)
