"""Files of predictions in, `Prediction`s out: this package's, other people's JSON, or plain text beside references."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from encdec_lightning.errors import UserError
from encdec_lightning.records import Prediction

OWN = ("prediction", "predictions", "hypothesis", "output", "generated", "summary_generated")
RIGHT = ("references", "reference", "targets", "target", "summary", "gold")
READ = ("source", "document", "input", "text")
"""Names that a record's fields have in files from elsewhere; the first one that is there is taken."""
TABLES = (".csv", ".tsv", ".parquet", ".xlsx", ".zst")
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def read_predictions(
    path: Path,
    references: Sequence[Path] = (),
    sources: Path | None = None,
    sentence_mark: str | None = None,
    alone: bool = True,
) -> list[Prediction]:
    """The predictions of a file; where a sentence mark is given, their sentences are lines.

    `.jsonl` has a record a line, `.json` a list of records, or of pairs of target and prediction; any other file a text
    a line; `.gz`, `.bz2` and `.xz` files are unpacked. References (one file for each) and sources of texts, and of
    records that have none, are in files of as many lines. A record without an id has its number. Raises `UserError` for
    an empty file, naming the line that is no prediction, and for references that no record needs, unless the file is
    not `alone`: another one may need them.
    """
    found = _read(path, references, sources, alone)
    if sentence_mark is None:
        return found
    if not sentence_mark.strip():
        raise UserError("sentence_mark", sentence_mark, "it must be a text between sentences, such as <q>")

    def lines(text: str) -> str:
        return "\n".join(each.strip() for each in text.split(sentence_mark))

    return [
        Prediction(
            each.id, lines(each.source), lines(each.reference), lines(each.prediction),
            tuple(map(lines, each.other_references)),
        )
        for each in found
    ]  # fmt: skip


def _read(path: Path, references: Sequence[Path], sources: Path | None, alone: bool) -> list[Prediction]:
    option, kind = "predictions", _kind(path)
    if kind in TABLES:
        expected = "no table is read: make a .jsonl file of it, with a prediction and a reference in each record"
        raise UserError(option, str(path), expected)
    if kind == ".jsonl":
        records = [_parsed(option, path, number, line) for number, line in _lines(option, path) if line.strip()]
    elif kind == ".json":
        records = _parsed(option, path, None, _text(option, path))
        if not isinstance(records, list):
            raise UserError(option, str(path), "it must hold a list of records")
    else:
        if not references:
            expected = f"{path} holds texts alone: give the file of their references too, such as references=test.txt"
            raise UserError("references", None, expected)
        records = [{"prediction": text} for _, text in _lines(option, path)]
    if references and alone and records and all(_has_references(record) for record in records):
        raise UserError("references", str(references[0]), f"{path} has references of its own: leave it away")
    needed = [*([] if all(map(_has_references, records)) else (("references", file) for file in references))]
    read = [*_columns(path, len(records), needed)]
    [texts] = _columns(path, len(records), [("sources", sources)]) if sources is not None else [[""] * len(records)]
    found = [
        _prediction(option, path, number, record, [column[number - 1] for column in read], texts[number - 1])
        for number, record in enumerate(records, start=1)
    ]
    return _some(option, path, found)


def _columns(path: Path, count: int, files: Sequence[tuple[str, Path]]) -> Iterator[list[str]]:
    """The lines of files that must have as many as `path` has predictions."""
    for option, file in files:
        column = [text for _, text in _lines(option, file)]
        if len(column) != count:
            raise UserError(option, str(file), f"it has {len(column):,} lines, and {path} has {count:,}")
        yield column


def _has_references(record: Any) -> bool:
    return isinstance(record, list) or (isinstance(record, dict) and any(name in record for name in RIGHT))


def _some(option: str, path: Path, found: list[Prediction]) -> list[Prediction]:
    if not found:
        raise UserError(option, str(path), "it holds no prediction")
    return found


def _prediction(option: str, path: Path, number: int, record: Any, references: list[str], read: str) -> Prediction:
    """The prediction of a record; `references` and `read`, its source, count where it has none."""
    place = f"{option} {path} record {number}"
    if isinstance(record, list) and len(record) == 2:
        record = {"target": record[0], "prediction": record[1]}
    if not isinstance(record, dict):
        raise UserError(place, record, "it must be a record with a prediction and a reference")
    if references and not _has_references(record):
        record = {**record, RIGHT[0]: references}
    own, right = (_first(place, record, names) for names in (OWN, RIGHT))
    texts = right if isinstance(right, list) else [right]
    if not texts or not all(isinstance(each, str) for each in [own, *texts]):
        raise UserError(place, record, "its prediction must be a text, and its reference a text or a list of some")
    source = next((record[name] for name in READ if isinstance(record.get(name), str)), read)
    own_id = record.get("id")
    return Prediction(str(number if own_id is None else own_id), source, texts[0], own, tuple(texts[1:]))


def _first(place: str, record: dict[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if name in record:
            return record[name]
    expected = f"it has none of the fields {', '.join(names)}, but {', '.join(record) or 'none'}"
    raise UserError(place, None, expected)


def _parsed(option: str, path: Path, number: int | None, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        place = option if number is None else f"{option} {path} line {number}"
        raise UserError(place, str(path) if number is None else text[:60], f"it is no JSON ({error})") from error


def _lines(option: str, path: Path) -> Iterator[tuple[int, str]]:
    text = _text(option, path)
    lines = text.split("\n")
    return enumerate(lines[:-1] if lines[-1] == "" else lines, start=1)


def _kind(path: Path) -> str:
    """The ending that tells a file's format, before that of its compression."""
    endings = [each.lower() for each in path.suffixes]
    return next(iter(endings[-2:-1] if endings[-1:] and endings[-1] in OPENERS else endings[-1:]), "")


def _text(option: str, path: Path) -> str:
    opener = OPENERS.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as stream:
            content = bytes(stream.read())
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(option, str(path), f"it must be UTF-8 ({error.reason} at byte {error.start:,})") from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        told = getattr(error, "strerror", None) or "it is broken off or damaged"
        raise UserError(option, str(path), f"it cannot be read ({told})") from error
