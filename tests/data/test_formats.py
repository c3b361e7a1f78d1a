"""Every format gives the same pairs, and what is wrong with a row is said with its place."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import zipfile

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from task_files import ROWS, TEXT, WRITERS, jsonl, read, table, tsv

from encdec_lightning.data.options import Task
from encdec_lightning.data.sources.source import find_source
from encdec_lightning.errors import UserError
from encdec_lightning.records import Pair

PAIRS = [Pair(str(number), *row) for number, row in enumerate(ROWS, start=1)]


def refused(location, cache, **options):
    with pytest.raises(UserError) as caught:
        read(location, cache, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 500
    return sentence


FIRST_ROW = {".jsonl": 1, ".csv": 2, ".tsv": 2, ".parquet": 1}  # a header is line 1
PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("ending", WRITERS)
def test_formats(ending, tmp_path):
    file = tmp_path / f"rows{ending}"
    file.write_bytes(WRITERS[ending](ROWS))
    first = FIRST_ROW[ending]
    assert read(file, tmp_path) == [Pair(str(number), *row) for number, row in enumerate(ROWS, start=first)]
    upper = tmp_path / f"ROWS{ending.upper()}"
    upper.write_bytes(WRITERS[ending](ROWS))
    assert len(read(upper, tmp_path)) == 2


@pytest.mark.parametrize("ending", WRITERS)
def test_files_of_one_name_are_one_after_the_other(ending, tmp_path):
    for number in (2, 1, 10):
        (tmp_path / f"part-{number:02}{ending}").write_bytes(WRITERS[ending]([(f"{a} {number}", b) for a, b in ROWS]))
    (tmp_path / f"other{ending}").write_bytes(b"")
    found = read(tmp_path / f"part-*{ending}", tmp_path)
    assert [pair.source for pair in found] == [f"{a} {number}" for number in (1, 2, 10) for a, _ in ROWS]
    ids = [int(pair.id) for pair in found]
    assert ids == sorted(set(ids)) and ids[0] == FIRST_ROW[ending]
    assert "there is no file with such a name" in refused(tmp_path / f"parts-*{ending}", tmp_path)
    (tmp_path / "part-11.txt").write_bytes(b"")
    assert "its files must have one of the endings" in refused(tmp_path / "part-*", tmp_path)


def test_json_is_an_array_or_an_object_a_line(tmp_path):
    objects = [{"source": source, "target": target} for source, target in ROWS]
    for name, content in (("lines", jsonl(ROWS)), ("array", json.dumps(objects, indent=1).encode()),
                          ("marked", codecs.BOM_UTF8 + json.dumps(objects).encode())):  # fmt: skip
        (tmp_path / f"{name}.json").write_bytes(content)
        assert read(tmp_path / f"{name}.json", tmp_path) == PAIRS
        (tmp_path / f"{name}.json.gz").write_bytes(gzip.compress(content))
        assert read(tmp_path / f"{name}.json.gz", tmp_path) == PAIRS
    (tmp_path / "broken.json").write_bytes(b'[{"source": 1')
    assert "it must be a JSON array of objects" in refused(tmp_path / "broken.json", tmp_path)
    (tmp_path / "numbers.json").write_bytes(b"[1, 2]")
    assert "task.train record 1 is '1': it must be one JSON object" in refused(tmp_path / "numbers.json", tmp_path)


def test_parallel_text_files(tmp_path):
    for end in (b"\n", b"\r\n"):
        for name, column in (("a.en", 0), ("a.de", 1)):
            (tmp_path / name).write_bytes(codecs.BOM_UTF8 + b"".join(row[column].encode() + end for row in ROWS))
        assert read(f"{tmp_path / 'a.en'}+{tmp_path / 'a.de'}", tmp_path) == PAIRS
    (tmp_path / "a.de").write_bytes(b"1\n2\n3\n")
    sentence = refused(f"{tmp_path / 'a.en'}+{tmp_path / 'a.de'}", tmp_path)
    assert "a.en': it has 2 lines" in sentence and "a.de has more; they must be parallel" in sentence
    assert "a.en': it has 2 lines" in refused(f"{tmp_path / 'a.de'}+{tmp_path / 'a.en'}", tmp_path)
    assert "not more" in refused("a+b+c", tmp_path)
    assert "no such file" in refused(f"{tmp_path / 'a.en'}+nowhere", tmp_path)


def test_a_plus_in_a_name_is_no_pair(tmp_path):
    (tmp_path / "c++").mkdir()
    file = tmp_path / "c++" / "c++.jsonl"
    file.write_bytes(jsonl(ROWS))
    assert read(file, tmp_path) == PAIRS
    with zipfile.ZipFile(tmp_path / "c++" / "x.zip", "w") as archive:
        archive.writestr("rows.jsonl", jsonl(ROWS))
    assert read(tmp_path / "c++" / "x.zip" / "rows.jsonl", tmp_path) == PAIRS
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS))
    location = f"{tmp_path / 'a.jsonl'}+{tmp_path / 'a.jsonl'}"
    assert "only plain text files are read side by side" in refused(location, tmp_path)


def test_of_two_files_the_damaged_one_is_named(tmp_path):
    whole, broken = tmp_path / "whole.gz", tmp_path / "broken.gz"
    lines = b"".join(b"%d\n" % (number * 7919) for number in range(20000))
    whole.write_bytes(gzip.compress(lines))
    broken.write_bytes(gzip.compress(lines)[:20000])
    for location in (f"{whole}+{broken}", f"{broken}+{whole}"):
        assert f"task.train is '{broken}': the gz file is broken off" in refused(location, tmp_path)


def test_the_format_belongs_to_the_content(tmp_path):
    """The same bytes are other rows in another format."""
    for ending in (".csv", ".tsv"):
        (tmp_path / f"rows{ending}").write_bytes(b"a\tb,c\n")
    found = {find_source(Task(train=str(tmp_path / f"rows{ending}"), validation="-"), "train", tmp_path).content(tmp_path) for ending in (".csv", ".tsv")}  # fmt: skip
    assert len(found) == 2


@pytest.mark.parametrize("packer", [*PACKERS, ".zst"])
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv"])
def test_compressed_files_whole_and_broken_off(packer, ending, tmp_path):
    content = WRITERS[ending]([(f"{number * 7919 % 1000003:x} words", "t") for number in range(3000)])
    file = tmp_path / f"rows{ending}{packer}"
    if packer == ".zst":
        with pyarrow.CompressedOutputStream(str(file), "zstd") as stream:
            stream.write(content)
    else:
        file.write_bytes(PACKERS[packer](content))
    assert len(read(file, tmp_path)) == 3000
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 40] = b"\xff" * 40
    for broken in (whole[: len(whole) // 2], whole[:-3], b"no such format"):
        file.write_bytes(broken)
        assert f"the {packer[1:]} file is broken off or damaged" in refused(file, tmp_path)
    if packer != ".zst":  # which has no sum that would tell
        file.write_bytes(bytes(damaged))
        refused(file, tmp_path)


def test_archives(tmp_path):
    file = tmp_path / "one.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("rows.jsonl", jsonl(ROWS))
    assert read(file, tmp_path) == read(f"{file}/rows.jsonl", tmp_path) == PAIRS
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("sub/rows.tsv.gz", gzip.compress(tsv(ROWS)))
        archive.writestr("sub/x.txt", "1\n2\n")
        archive.writestr("rows.parquet", table(ROWS))
    assert read(f"{file}/sub/rows.tsv.gz", tmp_path) == [Pair(str(n), *row) for n, row in enumerate(ROWS, start=2)]
    assert read(f"{file}/sub/x.txt+{file}/sub/x.txt", tmp_path) == [Pair("1", "1", "1"), Pair("2", "2", "2")]
    assert "name a file inside the archive: rows.jsonl, sub/rows.tsv.gz" in refused(file, tmp_path)
    assert "name a file inside the archive" in refused(f"{file}/nothing.jsonl", tmp_path)
    assert "unpack it first" in refused(f"{file}/rows.parquet", tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:50])
    assert "the zip file is broken off or damaged" in refused(f"{file}/rows.jsonl", tmp_path)


def test_parquet_files_that_are_broken(tmp_path):
    file = tmp_path / "rows.parquet"
    whole = table([(f"source {number}", "t") for number in range(3000)])
    for broken in (whole[: len(whole) // 2], whole[:3], b"", b"no such format at all"):
        file.write_bytes(broken)
        assert "the parquet file is broken off or damaged" in refused(file, tmp_path)


def test_names_that_tell_no_format(tmp_path):
    for name in ("rows.txt", "rows", "rows.xml", "rows.gz"):
        (tmp_path / name).write_bytes(jsonl(ROWS))
        assert "its name does not tell a format that can be read; give a .jsonl" in refused(tmp_path / name, tmp_path)


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_columns_named_in_the_options_or_in_the_first_line(ending, tmp_path):
    file = tmp_path / f"rows{ending}"
    file.write_bytes(WRITERS[ending](ROWS[1:], header=ROWS[0]))
    assert read(file, tmp_path, columns=["source", "target"]) == PAIRS
    assert "has no such column, but eins, zwei, a" in refused(file, tmp_path)
    file.write_bytes(WRITERS[ending](ROWS, header=("source", "source")))
    assert "it must name the columns, each once" in refused(file, tmp_path)


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_rows_with_other_numbers_of_fields(ending, tmp_path):
    file = tmp_path / f"rows{ending}"
    comma = "," if ending == ".csv" else "\t"
    for bad, count in (("a", 1), (f"a{comma}b{comma}c", 3)):
        file.write_bytes(WRITERS[ending](ROWS[:1]) + f"{bad}\n".encode())
        sentence = refused(file, tmp_path)
        assert sentence.startswith("task.train line 3 is ")
        assert f"it has {count} fields, but the columns are source, target" in sentence


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv"])
def test_bytes_that_are_no_utf8(ending, tmp_path):
    file = tmp_path / f"rows{ending}"
    good, number = WRITERS[ending](ROWS[:1]), FIRST_ROW[ending] + 1
    bad = WRITERS[ending]([("kaputt\u00ff", "t")]).replace("\u00ff".encode(), b"\xff").splitlines(keepends=True)[-1]
    file.write_bytes(good + bad)
    sentence = refused(file, tmp_path)
    assert sentence.startswith(f"task.train line {number} is ") and sentence.endswith("it must be UTF-8.")


def test_csv_with_quotes_and_lines_inside(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes(codecs.BOM_UTF8 + b'source,target\r\n"a, ""b""\r\nc",t\r\nd,u\r\n')
    assert read(file, tmp_path) == [Pair("2", 'a, "b"\r\nc', "t"), Pair("4", "d", "u")]
    file.write_bytes(b'source,target\na,b\n"x"y,t\n')
    assert "line 3" in refused(file, tmp_path)
    file.write_bytes(b'source,target\na,b\n"never closed,t\n' + b"c,d\n" * 1000)
    with pytest.raises(UserError, match=r"line 3 is .*: a quote is opened here"):
        read(file, tmp_path, skip=lambda row, problem: None)  # it would be a thousand rows


def test_tables_with_values_that_are_no_texts(tmp_path):
    file = tmp_path / "rows.parquet"
    for value in (None, 3, 1.5, [1], {"a": "b"}, ""):
        table_ = pyarrow.Table.from_pylist([{"source": value, "target": "t"}])
        parquet.write_table(table_, file)
        assert refused(file, tmp_path).startswith("task.train row 1 column source is ")


def test_nested_and_joined_columns(tmp_path):
    file = tmp_path / "rows.jsonl"
    row = {
        "t": {"en": "house", "de": {"x": "Haus"}},
        "a": "one",
        "b": "",
        "c": None,
        "d": "two",
        "a+d": "whole",
        "e.f": "dot",
    }
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")

    def texts(**options):
        (pair,) = read(file, tmp_path, **options)
        return pair.source, pair.target

    assert texts(source="t.en", target="t.de.x") == ("house", "Haus")
    assert texts(source="a+b+c+d", target="a+d") == ("one two", "whole")
    assert texts(source="e.f", target="d") == ("dot", "two")
    assert "column b+c is ''" in refused(file, tmp_path, source="b+c", target="a")
    assert "line 1 column t has no such column, but en, de" in refused(file, tmp_path, source="t.fr", target="a")
    assert "task.source is 'x.y'" in refused(file, tmp_path, source="x.y", target="a")
    assert "task.source is 'z'" in refused(file, tmp_path, source="a+z", target="a")


def test_bad_rows_are_skipped_where_that_is_wanted(tmp_path):
    file = tmp_path / "rows.jsonl"
    bad = [
        b"{\n",
        b'{"source": "", "target": "t"}\n',
        b"\xff\n",
        b'{"target": "t"}\n',
        b'{"source": 1, "target": "t"}\n',
    ]
    file.write_bytes(jsonl(ROWS[:1]) + b"".join(bad) + jsonl(ROWS[1:]))
    listed = []
    assert [pair.id for pair in read(file, tmp_path, skip=lambda row, problem: listed.append((row, str(problem))))] == [
        "1",
        "7",
    ]
    assert [row for row, _ in listed] == [2, 3, 4, 5, 6]
    assert all(f"line {row}" in sentence for row, sentence in listed)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
@pytest.mark.parametrize("ending", WRITERS)
def test_any_text_survives(rows, ending, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / f"rows{ending}").write_bytes(WRITERS[ending](rows))
    found = read(folder / f"rows{ending}", folder)
    assert [(pair.source, pair.target) for pair in found] == rows


def test_tables_with_texts_that_are_no_utf8(tmp_path):
    file = tmp_path / "rows.parquet"
    texts = pyarrow.array([b"good", b"\xff\xfe", b"fine"]).view(pyarrow.binary()).cast(pyarrow.binary())
    strings = pyarrow.StringArray.from_buffers(3, texts.buffers()[1], texts.buffers()[2])
    times = pyarrow.array([2**40] * 3, pyarrow.timestamp("s"))  # beyond what Python knows, and not asked for
    parquet.write_table(pyarrow.table({"source": strings, "target": ["t"] * 3, "when": times}), file)
    assert refused(file, tmp_path).startswith("task.train row 2 is ")
    listed = []
    found = read(file, tmp_path, skip=lambda row, problem: listed.append(row))
    assert [pair.id for pair in found] == ["1", "3"]
    assert listed == [2]
