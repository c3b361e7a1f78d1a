"""Rows in, `Pair`s out. An example's id is born here, once, and what is no example is said, or counted and listed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Literal

from encdec_lightning.data.options import Task
from encdec_lightning.data.preprocessing import Preprocess, preprocessing
from encdec_lightning.data.sources.lines import Row
from encdec_lightning.data.sources.readers import column
from encdec_lightning.errors import UserError
from encdec_lightning.records import Pair

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_SURROGATE = re.compile("[\ud800-\udfff]")


class PairReader:
    """Makes the pairs of one split: columns, ids, checks, preprocessing, the share and the number wanted.

    `skip` takes the rows that are no examples; without it the first one is an error. `skipped` counts them, `dropped`
    the pairs that preprocessing left out, and `not_drawn` those outside the share.
    """

    def __init__(self, task: Task, split: Split, skip: Callable[[int, UserError], None] | None = None) -> None:
        self.skipped = self.dropped = self.not_drawn = 0
        self.functions = functions(task, split)
        self._task, self._skip, self._name = task, skip, f"task.{split}"
        self._first_problem: UserError | None = None
        self._share = task.train_share if split == "train" else 1.0
        self._limit: int | None = getattr(task, f"{split}_examples")

    def read(self, rows: Iterable[Row | tuple[int, Pair]]) -> Iterator[tuple[int, Pair]]:
        """(row's number, pair) of each example. Raises `UserError` for a row that is none, unless such are skipped."""
        count = 0
        for row in rows:
            if count == self._limit:
                return
            number = row.number if isinstance(row, Row) else row[0]
            try:
                pair = pair_of(row, self._task) if isinstance(row, Row) else row[1]
                if self._share < 1 and not drawn(pair.id, self._share):
                    self.not_drawn += 1
                    continue
                made = self._preprocessed(pair)
            except UserError as problem:
                self.refuse(number, problem)
                continue
            if made is None:
                self.dropped += 1
            else:
                count += 1
                yield number, made

    def refuse(self, row: int, problem: UserError) -> None:
        """Skip a row for a reason, or raise it where nothing may be skipped."""
        if self._skip is None:
            raise problem
        self._skip(row, problem)
        self._first_problem = self._first_problem or problem
        self.skipped += 1

    def no_example(self, location: str) -> UserError:
        """The mistake of a split without examples: what became of its rows."""
        told = {
            f"skipped, the first because {str(self._first_problem).rstrip('.')}": self.skipped,
            "left out by preprocessing": self.dropped,
            "outside task.train_share": self.not_drawn,
        }
        fates = "; ".join(f"{count:,} rows were {fate}" for fate, count in told.items() if count)
        return UserError(self._name, location, "it holds no example" + (f": {fates}" if fates else ""))

    def _preprocessed(self, pair: Pair) -> Pair | None:
        """What the functions make of a pair, which keeps its id; they see each of several targets by itself."""
        for name, function in self.functions:
            first, *others = (
                applied(name, function, replace(pair, target=target, other_targets=()))
                for target in (pair.target, *pair.other_targets)
            )
            if first is None:
                return None
            pair = replace(first, other_targets=tuple(each.target for each in others if each is not None))
        return pair


def applied(name: str, function: Preprocess, pair: Pair) -> Pair | None:
    """What a function of `task.preprocess` makes of a pair, which keeps its id. Raises `UserError` where it fails."""
    try:
        made: object = function(pair)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError("task.preprocess", name, f"it fails for the example {pair.id} ({reason})") from error
    if made is None:
        return None
    if not isinstance(made, Pair) or not all(_is_text(text) for text in (made.source, made.target)):
        expected = f"for the example {pair.id} it must return a Pair with texts that are not empty, or None"
        raise UserError("task.preprocess", name, expected)
    return Pair(pair.id, made.source, made.target)


def functions(task: Task, split: Split) -> list[tuple[str, Preprocess]]:
    """The functions of a split and their names, in their order."""
    found = [(name, preprocessing("task.preprocess", name)) for name in task.preprocess or []]
    if split == "test":
        found += [(name, preprocessing("task.test_preprocess", name)) for name in task.test_preprocess or []]
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not _SURROGATE.search(value)


def drawn(identity: str, share: float) -> bool:
    """Whether an id belongs to a random share of all ids; a smaller share lies inside a larger one."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest()) < share * 2**64


def pair_of(row: Row, task: Task) -> Pair:
    """The pair of a row. Raises `UserError` for what is wrong with the row."""
    if row.problem is not None:
        raise row.problem
    identity = str(row.number) if task.id is None else identity_of(row, task.id)
    target, *others = targets_of(row, task)
    return Pair(identity, source_of(row, task.source), target, tuple(others))


def source_of(row: Row, path: str) -> str:
    """The text of the source's column; a list of sentences is a text with a line for each that is not blank."""
    value = column("task.source", row.place, row.values, path) if path in row.values or "+" not in path else None
    if not isinstance(value, list):
        return text_of("task.source", row, path)
    lines = [" ".join(_checked(row, path, each).split()) for each in value if not _is_blank(each)]
    return "\n".join(lines) if lines else _checked(row, path, "")


def identity_of(row: Row, path: str) -> str:
    """The id in a column: a text, or a whole number."""
    value = column("task.id", row.place, row.values, path)
    return str(value) if type(value) is int else _checked(row, path, value)


def text_of(option: str, row: Row, path: str) -> str:
    """The text of a column, or of several ones `a+b`, joined by a space; some of those may be empty."""
    if path in row.values or "+" not in path:
        return _checked(row, path, column(option, row.place, row.values, path))
    names = path.split("+")
    values = [column(option, row.place, row.values, name) for name in names]
    kept = [_checked(row, name, value) for name, value in zip(names, values, strict=True) if value not in ("", None)]
    return " ".join(kept) if kept else _checked(row, path, "")


def targets_of(row: Row, task: Task) -> list[str]:
    """All texts that are right for a row, each once, at least one: of the target's column and of the references'."""
    found = _texts("task.target", row, task.target)
    for path in task.references or []:
        value = column("task.references", row.place, row.values, path)
        found += [] if value in (None, "", []) else _texts("task.references", row, path)
    return list(dict.fromkeys(found))


def _texts(option: str, row: Row, path: str) -> list[str]:
    """The texts of a column that holds one or a list of them."""
    value = column(option, row.place, row.values, path) if path in row.values or "+" not in path else None
    if not isinstance(value, list):
        return [text_of(option, row, path)]
    if not value:
        raise UserError(f"{row.place} column {path}", value, "a list of texts must hold at least one")
    return [_checked(row, path, each) for each in value]


def _checked(row: Row, path: str, value: object) -> str:
    place = f"{row.place} column {path}"
    if not isinstance(value, str) or not value.strip():
        raise UserError(place, _shortened(value), "it must be a text that is not empty")
    if _SURROGATE.search(value):
        raise UserError(place, _shortened(value), "it must be text: half a surrogate pair is none")
    return value


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _shortened(value: object) -> object:
    return value if len(repr(value)) <= 60 else f"{str(value)[:60]}..."
