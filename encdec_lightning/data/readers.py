"""Rows of every format, as they stand in the file: what is wrong with one is handed on beside it."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import pyarrow
from pyarrow import parquet

from encdec_lightning.data.locations import File
from encdec_lightning.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from _csv import Reader

ROWS = 1000  # of a parquet file, read at once
LONGEST_FIELD = 1 << 30  # characters of a csv field


@dataclass(frozen=True, slots=True)
class Row:
    """A row: its number in the file, counted from 1, and its values by column, or why it has none."""

    number: int
    place: str
    """Words that name it in a sentence: task.train line 7."""
    values: dict[str, Any] = field(default_factory=dict)
    problem: UserError | None = None


def read_rows(name: str, files: tuple[File, ...], columns: list[str] | None, sides: tuple[str, str]) -> Iterator[Row]:
    """The rows of a file, or of two text files side by side, whose lines then are the columns `sides`.

    `name` is the option that names the file. `columns` are the names of a csv or tsv file's columns; without them its
    first line names them. Raises `UserError` for a file that cannot be read on.
    """
    if len(files) == 2:
        yield from _parallel(name, files, sides)
        return
    (file,) = files
    if file.format == ".parquet":
        yield from _parquet(name, file)
        return
    read = {".jsonl": _jsonl, ".csv": _comma_separated, ".tsv": _tab_separated}[file.format]
    with file.open(name) as stream:
        yield from read(name, stream, columns)


def _lines(name: str, stream: IO[bytes]) -> Iterator[tuple[Row, str]]:
    """Each line as an empty row and its text, ended by LF or CR LF alone: no other sign ends a line."""
    for number, line in enumerate(stream, start=1):
        place = f"{name} line {number}"
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        try:
            yield Row(number, place), line.decode()
        except UnicodeDecodeError:
            yield Row(number, place, problem=UserError(place, excerpt(line), "it must be UTF-8")), ""


def _jsonl(name: str, stream: IO[bytes], columns: list[str] | None) -> Iterator[Row]:
    for row, line in _lines(name, stream):
        if row.problem:
            yield row
            continue
        try:
            values = json.loads(line)
            reason = "" if isinstance(values, dict) else " "
        except json.JSONDecodeError as error:
            values, reason = None, f" ({error.msg})"
        except (ValueError, RecursionError):  # a number of thousands of digits, thousands of brackets
            values, reason = None, " that Python can read"
        if reason:
            problem = UserError(row.place, line[:60].rstrip(), f"it must be one JSON object{reason.rstrip()}")
            yield Row(row.number, row.place, problem=problem)
        else:
            yield Row(row.number, row.place, values)


def _tab_separated(name: str, stream: IO[bytes], columns: list[str] | None) -> Iterator[Row]:
    """Fields between tabs. Quotes are text, as in the data sets of the papers."""
    for row, line in _lines(name, stream):
        fields = line.split("\t")
        if columns is None and row.problem is None:
            columns = _header(row.place, fields)
        else:
            yield row if row.problem else _of_fields(row, columns or [], fields)


def _comma_separated(name: str, stream: IO[bytes], columns: list[str] | None) -> Iterator[Row]:
    """Fields between commas, in double quotes where they hold commas, quotes or line ends (RFC 4180)."""
    csv.field_size_limit(LONGEST_FIELD)
    # A byte that is no UTF-8 becomes half a surrogate pair, which is found in its field.
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        yield from _csv_rows(name, csv.reader(text, strict=True), columns)


def _csv_rows(name: str, reader: Reader, columns: list[str] | None) -> Iterator[Row]:
    while True:
        number = reader.line_num + 1
        row = Row(number, f"{name} line {number}")
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(number, row.place, problem=UserError(row.place, str(error), "it must be a row of csv"))
            continue
        if columns is None:
            columns = _header(row.place, fields)
        elif any("\udc80" <= sign <= "\udcff" for each in fields for sign in each):
            bad = ",".join(fields).encode(errors="surrogateescape")
            yield Row(number, row.place, problem=UserError(row.place, excerpt(bad), "it must be UTF-8"))
        else:
            yield _of_fields(row, columns, fields)


def _header(place: str, fields: list[str]) -> list[str]:
    if len(set(fields)) < len(fields):
        raise UserError(place, ", ".join(fields), "it must name the columns, each once (or give task.columns)")
    return fields


def _of_fields(row: Row, columns: list[str], fields: list[str]) -> Row:
    if len(fields) != len(columns):
        expected = f"it has {len(fields)} fields, but the columns are {', '.join(columns)}"
        problem = UserError(row.place, "\t".join(fields)[:60], expected)
        return Row(row.number, row.place, problem=problem)
    return Row(row.number, row.place, dict(zip(columns, fields, strict=True)))


def _parallel(name: str, files: tuple[File, ...], sides: tuple[str, str]) -> Iterator[Row]:
    with files[0].open(name) as first, files[1].open(name) as second:
        lines = [_lines(name, first), _lines(name, second)]
        number = 0
        while True:
            pair = [next(each, None) for each in lines]
            if pair[0] is None and pair[1] is None:
                return
            if pair[0] is None or pair[1] is None:
                short, long = (files[pair[0] is not None], files[pair[0] is None])
                expected = f"it has {number} lines, {long.member or long.path} has more; they must be parallel"
                raise UserError(name, short.member or str(short.path), expected)
            number += 1
            problem = pair[0][0].problem or pair[1][0].problem
            yield Row(number, f"{name} line {number}", dict(zip(sides, (pair[0][1], pair[1][1]), strict=True)), problem)


def _parquet(name: str, file: File) -> Iterator[Row]:
    if file.member is not None or file.compression:
        raise UserError(name, str(file.path), "a parquet file is read as it is: unpack it first")
    try:
        with parquet.ParquetFile(file.path) as content:
            yield from table_rows(name, (row for batch in content.iter_batches(ROWS) for row in batch.to_pylist()))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(name, str(file.path), "the parquet file is broken off or damaged") from error


def table_rows(name: str, values: Iterable[dict[str, Any]]) -> Iterator[Row]:
    """Rows of a table, by number."""
    for number, each in enumerate(values, start=1):
        yield Row(number, f"{name} row {number}", each)


def column(option: str, place: str, values: dict[str, Any], path: str) -> object:
    """A value of a row by its column's name, or `a.b`: the field b of column a. Raises `UserError` if there is none."""
    if path in values:
        return values[path]
    name, dot, rest = path.partition(".")
    if dot and isinstance(values.get(name), dict):
        return column(option, f"{place} column {name}", values[name], rest)
    expected = f"{place} has no such column, but {', '.join(map(str, values)) or 'none'}{did_you_mean(path, values)}"
    raise UserError(option, path, expected)


def excerpt(line: bytes) -> str:
    """The start of a line, legible."""
    return line[:60].decode("utf-8", errors="replace").rstrip()
