"""Rows in every format of a task's files, and how they are read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow
from hypothesis import strategies as st
from pyarrow import parquet

from encdec_lightning.data.options import Task
from encdec_lightning.data.sources.pairs import PairReader
from encdec_lightning.data.sources.source import find_source

ROWS = [("eins, zwei", 'a "b"'), ("Wörter\u2028文 \x85 x", "t 2")]
TEXT = st.text(st.characters(exclude_characters="\n\r\t\0", exclude_categories=("Cs",)), min_size=1).filter(str.strip)


def read(location, cache, skip=None, **options):
    task = Task(train=str(location), validation="-", **options)
    return [pair for _, pair in PairReader(task, "train", skip).read(find_source(task, "train", Path(cache)).rows)]


def jsonl(rows, header=("source", "target")):
    return "".join(json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows, header=("source", "target")):
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([header, *rows])
    return stream.getvalue().encode()


def tsv(rows, header=("source", "target")):
    return "".join("\t".join(row) + "\n" for row in (header, *rows)).encode()


def table(rows, header=("source", "target")):
    stream = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([dict(zip(header, row, strict=True)) for row in rows]), stream)
    return stream.getvalue()


WRITERS = {".jsonl": jsonl, ".csv": as_csv, ".tsv": tsv, ".parquet": table}
