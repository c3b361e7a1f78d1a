"""The text that all checkpoints are pretrained on: training sides of the tasks, and nothing of an evaluation text."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from encdec_lightning.cache.folder import cache_folder
from encdec_lightning.data.sources.pydoc import pydoc

RUN = 8
"""Words in a row that a text may not share with an evaluation text."""
HELD_OUT = 50
"""One text of so many is held out, to measure perplexity on."""
WORD = re.compile(r"\w+")
READ = (("debsum", "document"), ("debmt", "en"), ("debmt", "de"), ("wikifusion", "source"))
"""Tasks, and the column of their training rows that is read: never a summary or a fused sentence."""


@dataclass(frozen=True)
class Text:
    """Texts in an order that looks like chance and is always the same."""

    training: list[str]
    held_out: list[str]
    dropped: int  # texts that share words with an evaluation text or a text that is held out

    @property
    def sha256(self) -> str:
        """Of all texts."""
        return hashlib.sha256(json.dumps([self.training, self.held_out]).encode()).hexdigest()


def collect(data: Path) -> Text:
    """The text of the tasks in a folder, and of the embedded one."""
    embedded = pydoc("pydoc", cache_folder())
    parts = [embedded[part] for part in ("validation", "test")]
    evaluation = [text for part in parts for pair in part for text in (pair.source, pair.target)]
    read = [pair.source for pair in embedded["train"]]
    for task, column in READ:
        read += [row[column] for row in _rows(data / task / "train.jsonl.gz")]
    for task in {task for task, _ in READ}:
        for part in ("validation", "test"):
            evaluation += [text for row in _rows(data / task / f"{part}.jsonl.gz") for text in row.values()]
    distinct = sorted(set(read), key=_digest)
    allowed = list(without(distinct, evaluation))
    held_out = [text for number, text in enumerate(allowed) if number % HELD_OUT == 0]
    rest = [text for number, text in enumerate(allowed) if number % HELD_OUT]
    training = list(without(rest, held_out))
    return Text(training, held_out, len(distinct) - len(training) - len(held_out))


def task_texts(data: Path, task: str) -> list[str]:
    """Sources and targets of a task's training rows."""
    return [text for row in _rows(data / task / "train.jsonl.gz") for text in row.values()]


def without(texts: Iterable[str], evaluation: Iterable[str]) -> Iterator[str]:
    """The texts that are none of the evaluation texts and share no `RUN` words in a row with one, whatever the case."""
    seen = {run for text in evaluation for run in _runs(text)}
    return (text for text in texts if seen.isdisjoint(_runs(text)))


def _runs(text: str) -> set[tuple[str, ...]]:
    words = [word.lower() for word in WORD.findall(text)]
    return {tuple(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1))}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _rows(file: Path) -> list[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]
