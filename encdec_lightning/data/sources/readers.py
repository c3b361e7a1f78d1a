"""Rows of every format, as they stand in the file: what is wrong with one is handed on beside it."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import IO, TYPE_CHECKING, Any, cast

import pyarrow
from pyarrow import parquet

from encdec_lightning.data.sources.lines import Row, excerpt, filled_lines, lines_of
from encdec_lightning.data.sources.locations import FORMATS, File
from encdec_lightning.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from _csv import Reader

ROWS = 1000  # of a parquet file, read at once
LONGEST_FIELD = 1 << 30  # characters of a csv field

_UNDECODED = re.compile("[\udc80-\udcff]")


def read_rows(name: str, files: tuple[File, ...], columns: list[str] | None, wanted: list[str]) -> Iterator[Row]:
    """The rows of a file, of several ones after another, or of two text files side by side.

    `name` is the option that names the file. `columns` are the names of a csv or tsv file's columns; without them its
    first line names them. `wanted` are the columns that will be asked for, source and target first, which is what the
    lines of text files are called: of two, or of one that holds sources alone. Empty lines of jsonl files, and of csv
    and tsv files that have several columns, are passed over. Raises `UserError` for a file that cannot be read on.
    """
    if len(files) > 1 and files[0].format in FORMATS:
        yield from _in_parts(name, files, columns, wanted)
        return
    if len(files) == 2:
        yield from _parallel(name, files, wanted)
        return
    (file,) = files
    if file.format == ".parquet":
        yield from _parquet(name, file, wanted)
        return
    with file.open(name) as stream:
        yield from stream_rows(name, stream, file.format, columns, wanted)


def _in_parts(name: str, files: tuple[File, ...], columns: list[str] | None, wanted: list[str]) -> Iterator[Row]:
    """The rows of files that are parts of one; their numbers go on from file to file."""
    before = 0
    for file in files:
        last = 0
        for row in read_rows(f"{name} {file.path.name}", (file,), columns, wanted):
            last = row.number
            yield replace(row, number=before + last)
        before += last


def stream_rows(
    name: str, stream: IO[bytes] | Iterable[bytes], kind: str, columns: list[str] | None, wanted: list[str]
) -> Iterator[Row]:
    """The same of a stream of bytes, which is text where `kind`, the ending, tells no format; of lines but for csv."""
    if kind == ".csv":
        yield from _comma_separated(name, cast(IO[bytes], stream), columns)
    elif kind == ".tsv":
        yield from _tab_separated(name, stream, columns)
    elif kind == ".json" and cast(Any, stream).peek(64).lstrip(codecs.BOM_UTF8 + b" \t\r\n").startswith(b"["):
        yield from _json(name, cast(IO[bytes], stream))
    elif kind in (".jsonl", ".json"):
        yield from _jsonl(name, stream)
    else:
        yield from _plain(name, stream, wanted[0])


def _plain(name: str, stream: Iterable[bytes], side: str) -> Iterator[Row]:
    for row, line in lines_of(name, stream):
        problem = row.problem
        if problem is None and not line.strip():
            problem = UserError(row.place, line[:60], "it must be a text that is not empty")
        yield Row(row.number, row.place, {side: line}, problem)


def _jsonl(name: str, stream: Iterable[bytes]) -> Iterator[Row]:
    for row, line in filled_lines(name, stream):
        if row.problem:
            yield row
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            yield _no_object(row, line, f" ({error.msg})")
            continue
        except (ValueError, RecursionError, MemoryError):  # a number of thousands of digits, thousands of brackets
            yield _no_object(row, line, " that Python can read")
            continue
        yield Row(row.number, row.place, values) if isinstance(values, dict) else _no_object(row, line)


def _json(name: str, stream: IO[bytes]) -> Iterator[Row]:
    """The objects of an array, which is read as a whole."""
    try:
        found = json.loads(stream.read().removeprefix(codecs.BOM_UTF8))
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(name, "[", f"it must be a JSON array of objects ({str(error)[:100]})") from error
    for number, values in enumerate(found, start=1):
        row = Row(number, f"{name} record {number}")
        right = isinstance(values, dict)
        yield Row(number, row.place, values) if right else _no_object(row, json.dumps(values))


def _no_object(row: Row, line: str, why: str = "") -> Row:
    problem = UserError(row.place, line[:60].rstrip(), f"it must be one JSON object{why}")
    return Row(row.number, row.place, problem=problem)


def _tab_separated(name: str, stream: Iterable[bytes], columns: list[str] | None) -> Iterator[Row]:
    """Fields between tabs. Quotes are text, as in the data sets of the papers."""
    for row, line in lines_of(name, stream):
        fields = line.split("\t")
        if fields == [""] and not row.problem and (columns is None or len(columns) > 1):
            continue
        if columns is None:
            if row.problem:
                raise row.problem
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
            if "unexpected end" in str(error):  # a quote that is never closed: the rest of the file is lost
                raise UserError(
                    row.place, '"', "a quote is opened here that the rest of the file does not close"
                ) from error
            yield Row(number, row.place, problem=UserError(row.place, str(error), "it must be a row of csv"))
            continue
        if not fields and (columns is None or len(columns) > 1):
            continue
        if columns is None:
            columns = _header(row.place, fields)
        elif any(_UNDECODED.search(each) for each in fields):
            bad = ",".join(fields).encode(errors="surrogateescape")
            yield Row(number, row.place, problem=UserError(row.place, excerpt(bad), "it must be UTF-8"))
        else:
            yield _of_fields(row, columns, fields)


def _header(place: str, fields: list[str]) -> list[str]:
    if any(_UNDECODED.search(each) for each in fields):
        line = ",".join(fields).encode(errors="surrogateescape")
        found = ", and is UTF-16" if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""
        raise UserError(place, excerpt(line), f"it must be UTF-8{found}")
    if len(set(fields)) < len(fields):
        raise UserError(place, ", ".join(fields), "it must name the columns, each once (or give task.columns)")
    return fields


def _of_fields(row: Row, columns: list[str], fields: list[str]) -> Row:
    if len(fields) != len(columns):
        expected = f"it has {len(fields)} fields, but the columns are {', '.join(columns)}"
        problem = UserError(row.place, "\t".join(fields)[:60], expected)
        return Row(row.number, row.place, problem=problem)
    return Row(row.number, row.place, dict(zip(columns, fields, strict=True)))


def _parallel(name: str, files: tuple[File, ...], sides: list[str]) -> Iterator[Row]:
    def lines(file: File) -> Iterator[tuple[Row, str]]:
        with file.open(name) as stream:
            yield from lines_of(name, stream)

    first, second = files
    for number, (one, other) in enumerate(zip_longest(lines(first), lines(second)), start=1):
        if one is None or other is None:
            short, long = (first, second) if one is None else (second, first)
            expected = f"it has {number - 1} lines, {long.member or long.path} has more; they must be parallel"
            raise UserError(name, short.member or str(short.path), expected)
        values = {sides[0]: one[1], sides[1]: other[1]}
        yield Row(number, f"{name} line {number}", values, one[0].problem or other[0].problem)


def _parquet(name: str, file: File, wanted: list[str]) -> Iterator[Row]:
    if file.member is not None or file.compression:
        raise UserError(name, str(file.path), "a parquet file is read as it is: unpack it first")
    try:
        with parquet.ParquetFile(file.path) as content:
            columns = wanted_columns(content.schema_arrow.names, wanted)
            yield from table_rows(name, content.iter_batches(ROWS, columns=columns))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(name, str(file.path), "the parquet file is broken off or damaged") from error


def wanted_columns(names: list[str], wanted: list[str]) -> list[str]:
    """Those of a table's columns that will be asked for; all, if one is lacking, so that the error can name them."""
    needed = {
        path if path in names else part for path in wanted for part in ([path] if path in names else _roots(path))
    }
    return [name for name in names if name in needed] if needed <= set(names) else names


def _roots(path: str) -> list[str]:
    """The columns in which the parts of `a.b+c` lie."""
    return [part.partition(".")[0] for part in path.split("+")]


def table_rows(name: str, batches: Iterable[Any]) -> Iterator[Row]:
    """Rows of a table's batches, by number; a value that Python cannot take is said with its row."""
    number = 0
    for batch in batches:
        try:
            found = batch.to_pylist()
        except (ValueError, OverflowError):
            found = [_row_of(batch.slice(at, 1)) for at in range(len(batch))]
        for values in found:
            number += 1
            place = f"{name} row {number}"
            if isinstance(values, dict):
                yield Row(number, place, values)
            else:
                yield Row(number, place, problem=UserError(place, str(values)[:60], "its values must be UTF-8 texts"))


def _row_of(batch: Any) -> dict[str, Any] | Exception:
    try:
        (values,) = batch.to_pylist()
    except (ValueError, OverflowError) as error:
        return error
    return values  # type: ignore[no-any-return]


def column(option: str, place: str, values: dict[str, Any], path: str) -> object:
    """A value of a row by its column's name, or `a.b`: the field b of column a. Raises `UserError` if there is none."""
    if path in values:
        return values[path]
    name, dot, rest = path.partition(".")
    if dot and isinstance(values.get(name), dict):
        return column(option, f"{place} column {name}", values[name], rest)
    expected = f"{place} has no such column, but {', '.join(map(str, values)) or 'none'}{did_you_mean(path, values)}"
    raise UserError(option, path, expected)
