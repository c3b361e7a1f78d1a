"""Rows in, `Pair`s out. An example's id is born here, once."""

from __future__ import annotations

import gzip
import importlib
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from encdec_lightning.cache import cache_folder
from encdec_lightning.data.options import Loading, Task
from encdec_lightning.data.pydoc import DATA_SETS, pydoc
from encdec_lightning.errors import UserError, did_you_mean
from encdec_lightning.records import Pair

Split = Literal["train", "validation", "test"]
Preprocess = Callable[[Pair], Pair | None]

_SURROGATE = re.compile("[\ud800-\udfff]")


def read_split(task: Task, loading: Loading, split: Split) -> list[Pair]:
    """All pairs of a split, preprocessed; raises `UserError` naming the file and the row that is wrong."""
    path, field = task.path(split), f"task.{split}"
    if path in DATA_SETS:
        pairs = pydoc(path, cache_folder(loading.cache))[split]
    else:
        pairs = list(read_jsonl(field, path, task))
    for name in task.preprocess or []:
        function = preprocessing(name)
        pairs = [made for pair in pairs if (made := _checked(name, pair, function(pair))) is not None]
    pairs = pairs[: getattr(task, f"{split}_examples")]
    if not pairs:
        raise UserError(field, path, "it holds no example")
    return pairs


def read_jsonl(field: str, path: str, task: Task) -> Iterator[Pair]:
    """The pairs of a jsonl file, compressed if its name ends in .gz, one JSON object a line, none empty."""
    file = Path(path)
    if not file.is_file():
        raise UserError(field, path, f"there is no such file; give a jsonl file, or {' or '.join(DATA_SETS)}")
    seen: set[str] = set()
    opened = gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # noqa: SIM115
    try:
        with opened as stream:
            for number, line in enumerate(stream, start=1):
                pair = _pair(task, f"{field} line {number}", line, number)
                if pair.id in seen:
                    raise UserError(f"{field} line {number}", pair.id, "an example before has the same id")
                seen.add(pair.id)
                yield pair
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(field, path, "the gzip file is broken off or damaged") from error


def _pair(task: Task, place: str, line: bytes, number: int) -> Pair:
    """The pair of one line; `place` names the line in errors. A byte-order mark may open the file."""
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(place, _excerpt(line), "it must be UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(place, _excerpt(line), f"it must be one JSON object ({error.msg})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise UserError(place, _excerpt(line), "it must be one JSON object that Python can read") from error
    if not isinstance(row, dict):
        raise UserError(place, _excerpt(line), "it must be one JSON object")
    identity = str(number) if task.id is None else _identity(place, row, task.id)
    source, target = (_text(f"task.{role}", place, row, getattr(task, role)) for role in ("source", "target"))
    return Pair(identity, source, target)


def _column(option: str, place: str, row: dict[str, object], column: str) -> object:
    if column not in row:
        expected = f"{place} has no such column, but {', '.join(row) or 'none'}{did_you_mean(column, row)}"
        raise UserError(option, column, expected)
    return row[column]


def _identity(place: str, row: dict[str, object], column: str) -> str:
    value = _column("task.id", place, row, column)
    return str(value) if type(value) is int else _text("task.id", place, row, column)


def _text(option: str, place: str, row: dict[str, object], column: str) -> str:
    value = _column(option, place, row, column)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place} column {column}", _shortened(value), "it must be a text that is not empty")
    if _SURROGATE.search(value):
        raise UserError(f"{place} column {column}", _shortened(value), "it must be text: half a surrogate pair is none")
    return value


def preprocessing(path: str) -> Preprocess:
    """The function at a dotted path; raises `UserError` when there is none."""
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        expected = f"it must be the dotted path of a function Pair -> Pair | None ({error})"
        raise UserError("task.preprocess", path, expected) from error
    if not callable(function):
        raise UserError("task.preprocess", path, "it is not a function")
    return function  # type: ignore[no-any-return]


def _checked(name: str, pair: Pair, made: object) -> Pair | None:
    """What the preprocessing function `name` made of `pair`, if it is what such a function may return."""
    if made is None or (isinstance(made, Pair) and made.source.strip() and made.target.strip()):
        return made
    expected = f"for the example {pair.id} it must return a Pair with texts that are not empty, or None"
    raise UserError("task.preprocess", name, expected)


def _shortened(value: object) -> object:
    return value if len(repr(value)) <= 60 else f"{str(value)[:60]}..."


def _excerpt(line: bytes) -> str:
    return line[:60].decode("utf-8", errors="replace").rstrip()
