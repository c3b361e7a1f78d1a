"""The sources of a user's own, read as the run's training pairs were: formats, columns, ids and preprocessing alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from encdec_lightning.data.examples.building import LONGEST_TEXT
from encdec_lightning.data.options import Task
from encdec_lightning.data.preprocessing import Preprocess
from encdec_lightning.data.sources.lines import Row
from encdec_lightning.data.sources.locations import FORMATS, File, Location, locate
from encdec_lightning.data.sources.pairs import applied, functions, identity_of, source_of, targets_of
from encdec_lightning.data.sources.pydoc import DATA_SETS
from encdec_lightning.data.sources.readers import stream_rows
from encdec_lightning.data.sources.source import Rows, source_at
from encdec_lightning.errors import UserError
from encdec_lightning.files import kind_of
from encdec_lightning.records import Pair

GIVEN_FORMATS = {"text": ".txt", "jsonl": ".jsonl", "csv": ".csv", "tsv": ".tsv"}
STAND_INS = "a text", "another text of more words"
"""Targets that preprocessing sees in turn where an input has none."""


def find_input(text: str, task: Task, cache: Path, given: str | None = None) -> Rows:
    """The rows of the input that a text names: what `task.test` may name, or a text file with a source a line.

    `given` is the format of a file, one of `GIVEN_FORMATS`, where its name does not tell it. Raises `UserError` for
    what does not exist, and for what is certainly no text.
    """
    place: Location = (File(Path(text)),) if is_pipe(text) else locate("input", text, cache, plain=True)
    if not isinstance(place, tuple) or len(place) > 1:
        if given is not None:
            raise UserError("format", given, f"it is for one file, and input is {text!r}")
        return source_at("input", place, task, "test", cache).rows
    (file,) = place
    if given is not None:
        return source_at("input", (replace(file, kind=GIVEN_FORMATS[given]),), task, "test", cache).rows
    rows = source_at("input", place, task, "test", cache).rows
    return rows if file.format in FORMATS else _no_objects(rows, task.source)


def is_pipe(text: str) -> bool:
    """Whether an input is a pipe or the like, which can be read only once."""
    return text not in DATA_SETS and kind_of(text) == "other"


def input_rows(stream: IO[bytes] | Iterable[bytes], task: Task, given: str | None = None) -> Rows:
    """The same of a stream, which is text if no other format is given."""
    rows = stream_rows("input", stream, GIVEN_FORMATS[given or "text"], task.columns, [task.source])
    return _no_objects(rows, task.source) if given is None else rows


def _no_objects(rows: Rows, side: str) -> Iterator[Row | tuple[int, Pair]]:
    """The rows of a text; raises `UserError` where its first line is a JSON object, and nobody has said what it is."""
    for number, row in enumerate(rows):
        if number == 0 and isinstance(row, Row):
            line = row.values.get(side, "").strip()
            if line.startswith("{") and _is_object(line):
                expected = "it is a JSON object in a text: give format=jsonl, or format=text if that is the source"
                raise UserError(row.place, line[:60], expected)
        yield row


def _bounded(row: Row | tuple[int, Pair], pair: Pair) -> Pair:
    """The pair; raises `UserError` for a source that is longer than what training tokenizes."""
    if len(pair.source) > LONGEST_TEXT:
        place = row.place if isinstance(row, Row) else f"input row {row[0]}"
        expected = f"the source has {len(pair.source):,} characters, and at most {LONGEST_TEXT:,} are tokenized"
        raise UserError(place, f"{pair.source[:60]}...", expected)
    return pair


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


class InputReader:
    """Makes the sources of rows: a pair for each row, in order, its target empty where the input has none.

    Functions of `task.preprocess` work as in training, except that none leaves a source out: where one drops a pair,
    the pair goes on as it was before that function, and `kept` counts it. Where a row has no target a function sees
    texts in its place, and must make the same source beside each.

    With `skip_bad_rows` what is no source becomes an empty one; `skipped` counts these.
    """

    def __init__(self, task: Task, skip_bad_rows: bool = False) -> None:
        self.skipped = self.kept = 0
        self.first_problem: UserError | None = None
        self._task, self._skips = task, skip_bad_rows
        self._functions = functions(task, "train")

    def read(self, rows: Rows) -> Iterator[Pair]:
        """A pair for each row. Raises `UserError` for a row without a source, unless such are skipped."""
        for row in rows:
            try:
                pair = _bounded(row, self._made(row))
            except UserError as problem:
                if not self._skips:
                    raise
                self.skipped += 1
                self.first_problem = self.first_problem or problem
                pair = Pair(str(row.number if isinstance(row, Row) else row[0]), "", "")
            yield pair

    def _made(self, row: Row | tuple[int, Pair]) -> Pair:
        if isinstance(row, tuple):
            return self._preprocessed(row[1])
        if row.problem is not None:
            raise row.problem
        source = source_of(row, self._task.source)
        return self._preprocessed(Pair(self._identity(row), source, self._target(row)), row.place)

    def _identity(self, row: Row) -> str:
        """The task's, where the row has one, else the row's number."""
        try:
            return str(row.number) if self._task.id is None else identity_of(row, self._task.id)
        except UserError:
            return str(row.number)

    def _target(self, row: Row) -> str:
        """The row's target, if it has one."""
        try:
            return targets_of(row, self._task)[0]
        except UserError:
            return ""

    def _preprocessed(self, pair: Pair, place: str = "") -> Pair:
        dropped = False
        for name, function in self._functions:
            targets = [pair.target] if pair.target else STAND_INS
            made = [self._applied(name, function, pair, target) for target in targets]
            kept = [each for each in made if each is not None]
            if len({each.source for each in kept}) > 1:
                without = f"{place} has none (column {self._task.target!r})"
                raise UserError(
                    "task.preprocess", name, f"the source that it makes depends on the target, and {without}"
                )
            dropped = dropped or not kept
            if kept:
                pair = kept[0] if pair.target else replace(pair, source=kept[0].source)
        self.kept += dropped
        return pair

    def _applied(self, name: str, function: Preprocess, pair: Pair, target: str) -> Pair | None:
        try:
            return applied(name, function, replace(pair, target=target))
        except UserError as error:
            if pair.target:
                raise
            expected = f"{error.expected}; the input has no target, it was given {target!r}"
            raise UserError(error.field, error.value, expected) from error
