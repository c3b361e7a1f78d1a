"""Rows become pairs, and what is wrong with a row is said in one sentence that names it."""

import codecs
import gzip
import json
import sys
import types

import pytest
import tiny

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.examples.prepared import prepared
from encdec_lightning.data.options import Loading, Task
from encdec_lightning.errors import UserError
from encdec_lightning.records import Pair

TOKENIZERS = Tokenizers(tiny.byte_pairs(roberta=True))
GOOD = [{"source": "one text", "target": "one"}, {"source": "zwei Wörter 文", "target": "zwei"}]


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def read_split(task, loading, split):
    """All pairs of a split, through the cache."""
    examples = prepared(task, loading, split, TOKENIZERS)
    return [examples.pair(number) for number in range(len(examples.lengths))]


@pytest.fixture
def read(tmp_path):
    """Write bytes into a file and read them as a split."""

    def read(content, name="rows.jsonl", split="train", **options):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        files = {"train": str(path), "validation": str(path)} | options
        return read_split(Task(**files), Loading(cache=str(tmp_path / "cache")), split)

    return read


@pytest.fixture
def refused(read):
    """The sentence with which content is refused."""

    def refused(content, name="rows.jsonl", **options):
        with pytest.raises(UserError) as caught:
            read(content, name, **options)
        sentence = str(caught.value)
        assert "\n" not in sentence
        assert sentence.endswith(".")
        return sentence

    return refused


def test_rows_become_pairs_with_the_line_as_id(read):
    expected = [Pair("1", "one text", "one"), Pair("2", "zwei Wörter 文", "zwei")]
    assert read(lines(*GOOD)) == expected
    assert read(lines(*GOOD).rstrip()) == expected  # no line end at the end
    assert read(lines(*GOOD).replace(b"\n", b"\r\n")) == expected
    assert read(json.dumps(GOOD[0]).encode() + b"\n" + json.dumps(GOOD[1]).encode()) == expected  # escaped
    assert read(gzip.compress(lines(*GOOD)), "rows.jsonl.gz") == expected


def test_a_byte_order_mark_at_the_start_is_no_text(read, refused):
    assert read(codecs.BOM_UTF8 + lines(*GOOD)) == read(lines(*GOOD))
    assert "line 2 is" in refused(lines(GOOD[0]) + codecs.BOM_UTF8 + lines(GOOD[1]))


def test_line_ends_inside_a_text_are_no_line_ends(read):
    text = "a\u2028b\x85c\u000bd"
    assert read(lines({"source": text, "target": "t"}))[0].source == text


def test_columns_by_name_and_more_columns_than_needed(read):
    row = {"text": "read", "title": "written", "key": "k-1", "other": None}
    assert read(lines(row), source="text", target="title", id="key") == [Pair("k-1", "read", "written")]
    assert read(lines(row | {"key": 7}), source="text", target="title", id="key")[0].id == "7"


def test_each_split_has_its_file_and_its_limit(tmp_path):
    files = {}
    for split, count in (("train", 5), ("validation", 4), ("test", 3)):
        rows = [{"source": f"{split} {number}", "target": "t"} for number in range(count)]
        files[split] = str(tiny.write_rows(tmp_path / f"{split}.jsonl", rows))
    limits = {"train_examples": 3, "validation_examples": 2, "test_examples": 99}
    for split, count in (("train", 3), ("validation", 2), ("test", 3)):
        found = read_split(Task(**files, **limits), Loading(), split)
        assert [pair.source for pair in found] == [f"{split} {number}" for number in range(count)]
    del files["test"], limits["test_examples"]
    assert len(read_split(Task(**files, **limits), Loading(), "test")) == 4  # validation, without its limit


@pytest.mark.parametrize(
    ("content", "place", "said"),
    [
        (b"", "task.train is", "it holds no example"),
        (b"{\n", "line 1 is '{'", "one JSON object"),
        (b"not json\n", "line 1 is 'not json'", "one JSON object"),
        (b"[1, 2]\n", "line 1 is '[1, 2]'", "one JSON object"),
        (b"null\n", "line 1 is 'null'", "one JSON object"),
        (b"\n", "task.train is", "it holds no example"),
        (b"[" * 100_000 + b"\n", "line 1", "one JSON object"),
        (b'{"source": ' + b"1" * 5000 + b"}\n", "line 1", "one JSON object"),
        (b'{"source": "\xff\xfe", "target": "t"}\n', "line 1", "UTF-8"),
        (b'{"source": "\xed\xa0\x80", "target": "t"}\n', "line 1", "UTF-8"),
        (b'{"source": "\xc3\n', "line 1", "UTF-8"),
        ("{}\n".encode("utf-16"), "line 1", "UTF-8"),
        (b'{"source": "half \\ud800 a pair", "target": "t"}\n', "line 1 column source", "half a surrogate pair"),
    ],
)
def test_lines_that_are_no_rows(refused, content, place, said):
    for before in (0, 2):
        if not content or (before and place.startswith("task")):
            continue
        sentence = refused(lines(*GOOD[:before]) + content)
        assert place.replace("line 1", f"line {1 + before}") in sentence
        assert said in sentence
        assert len(sentence) < 250


def test_an_empty_file_holds_no_example(refused):
    for content, name in ((b"", "a.jsonl"), (gzip.compress(b""), "a.jsonl.gz"), (codecs.BOM_UTF8[:0], "b.jsonl")):
        assert refused(content, name).endswith(f"{name}': it holds no example.")


@pytest.mark.parametrize("column", ["source", "target"])
@pytest.mark.parametrize("value", [None, 3, 1.5, True, ["a"], {"a": "b"}, "", "  \n\t", ["sentence"] * 500])
def test_values_that_are_no_text(refused, column, value):
    if isinstance(value, list):
        value = [*value, 3]  # a list of texts would be several targets, or the sentences of a source
    sentence = refused(lines(*GOOD, GOOD[0] | {column: value}))
    assert sentence.startswith(f"task.train line 3 column {column} is ")
    assert sentence.endswith("it must be a text that is not empty.")
    assert len(sentence) < 200


@pytest.mark.parametrize("value", [None, "", " ", 1.5, True, ["a"]])
def test_values_that_are_no_id(refused, value):
    assert refused(lines(GOOD[0] | {"key": value}), id="key").startswith("task.train line 1 column key is ")


def test_the_same_id_twice(refused):
    rows = [row | {"key": key} for row, key in zip([*GOOD, GOOD[0]], ("a", "7", 7), strict=True)]
    assert refused(lines(*rows), id="key") == "task.train row 3 is '7': an example before has the same id."


def test_missing_columns_are_named_with_a_suggestion(refused):
    row = {"sources": "a", "target": "b"}
    sentence = refused(lines(*GOOD, row))
    assert sentence == (
        "task.source is 'source': task.train line 3 has no such column, but sources, target (did you mean 'sources'?)."
    )
    assert "task.target is 'summary'" in refused(lines(GOOD[0]), target="summary")
    assert "task.id is 'key'" in refused(lines(GOOD[0]), id="key")
    assert "did you mean" not in refused(lines(GOOD[0]), id="key")
    assert refused(b"{}\n").endswith("task.train line 1 has no such column, but none.")


def test_no_such_file(refused, tmp_path):
    sentence = refused(None, "missing.jsonl")
    assert "there is no such file; give a .jsonl, .json, .csv, .tsv, .parquet file" in sentence
    assert sentence.endswith("or pydoc or pydoc_names.")
    assert "there is no such file" in refused(lines(*GOOD), train=str(tmp_path))
    assert refused(lines(*GOOD), split="test", test="nowhere.jsonl").startswith("task.test is 'nowhere.jsonl'")


def test_gzip_files_that_are_broken(refused):
    noise = [{"source": f"{number * 7919 % 1000003:x} words", "target": "t"} for number in range(3000)]
    whole = gzip.compress(lines(*noise))
    damaged = bytearray(whole)
    damaged[20:70] = b"\xff" * 50
    for content in (whole[: len(whole) // 2], whole[:-4], whole[:5], bytes(damaged), lines(*GOOD), whole + b"trailing"):
        assert "gz file is broken off or damaged" in refused(content, "rows.jsonl.gz")


@pytest.fixture
def functions(monkeypatch):
    """A module of preprocessing functions, as a user would have one."""
    module = types.ModuleType("my_functions")
    module.upper = lambda pair: Pair(pair.id, pair.source.upper(), pair.target)
    module.short = lambda pair: pair if len(pair.source) < 10 else None
    module.exclaim = lambda pair: Pair(pair.id, pair.source + "!", pair.target)
    module.text = lambda pair: pair.source
    module.emptied = lambda pair: Pair(pair.id, pair.source, " ")
    module.nothing = lambda pair: None
    module.number = 3
    module.fails = lambda pair: {}["key"]
    module.half = lambda pair: Pair(pair.id, "\ud800", pair.target)
    module.numbers = lambda pair: Pair(pair.id, 3, pair.target)
    module.renamed = lambda pair: Pair("x", pair.source, pair.target)
    monkeypatch.setitem(sys.modules, "my_functions", module)


@pytest.mark.usefixtures("functions")
def test_preprocessing_in_order_and_before_the_limit(read):
    rows = lines({"source": "much too long", "target": "t"}, {"source": "short", "target": "t"}, GOOD[0])
    steps = ["my_functions.short", "my_functions.exclaim", "my_functions.upper"]
    assert [pair.source for pair in read(rows, preprocess=steps)] == ["SHORT!", "ONE TEXT!"]
    assert [pair.source for pair in read(rows, preprocess=steps[1:] + steps[:1])] == ["SHORT!", "ONE TEXT!"]
    assert [pair.id for pair in read(rows, preprocess=steps, train_examples=1)] == ["2"]


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("my_functions.uper", "dotted path"),
        ("no_such_module_x.function", "dotted path"),
        ("upper", "dotted path"),
        ("", "dotted path"),
        (".upper", "dotted path"),
        ("..upper", "dotted path"),
        ("my_functions.", "dotted path"),
        ("my_functions.number", "it is not a function"),
        ("my_functions.text", "the example 1 it must return a Pair"),
        ("my_functions.emptied", "the example 1 it must return a Pair"),
        ("my_functions.half", "the example 1 it must return a Pair"),
        ("my_functions.numbers", "the example 1 it must return a Pair"),
        ("my_functions.fails", "it fails for the example 1 (KeyError: 'key')"),
    ],
)
def test_preprocessing_that_is_no_such_function(refused, path, said):
    sentence = refused(lines(*GOOD), preprocess=[path])
    assert sentence.startswith(f"task.preprocess is {path!r}: ")
    assert said in sentence


@pytest.mark.usefixtures("functions")
def test_preprocessing_that_drops_everything(refused):
    sentence = refused(lines(*GOOD), preprocess=["my_functions.nothing"])
    assert sentence.endswith("it holds no example: 2 rows were left out by preprocessing.")
    assert "outside task.train_share" in refused(lines(*GOOD), train_share=1e-9)


@pytest.mark.parametrize("name", ["pydoc", "pydoc_names"])
def test_embedded_data_come_from_the_chosen_cache(monkeypatch, tmp_path, name):
    asked = []
    parts = {split: [Pair(split, "source", "target")] for split in ("train", "validation", "test")}
    monkeypatch.setattr("encdec_lightning.data.sources.source.pydoc", lambda *args: asked.append(args) or parts)
    task = Task(train=name, validation=name, test=name)
    for split, members in parts.items():
        assert read_split(task, Loading(cache=str(tmp_path)), split) == members
    assert asked == [(name, tmp_path)] * 3


@pytest.mark.usefixtures("functions")
def test_a_function_may_come_twice_and_changes_no_id(read):
    twice = read(lines(GOOD[0]), preprocess=["my_functions.exclaim", "my_functions.upper", "my_functions.exclaim"])
    assert twice == [Pair("1", "ONE TEXT!!", "one")]
    swap = "encdec_lightning.data.preprocessing.swap"
    assert read(lines(GOOD[0]), split="test", preprocess=[swap], test_preprocess=[swap]) == [
        Pair("1", "one text", "one")
    ]
    assert [pair.id for pair in read(lines(*GOOD), preprocess=["my_functions.renamed"])] == ["1", "2"]


@pytest.mark.parametrize("ids", [["a", "A", "a"], ["a", "b", "c", "a"]])
def test_ids_are_compared_as_they_are(ids, refused, read):
    rows = [row | {"key": key} for row, key in zip([*GOOD, *GOOD], ids, strict=False)]
    assert refused(lines(*rows), id="key") == f"task.train row {len(ids)} is 'a': an example before has the same id."
    assert [pair.id for pair in read(lines(*rows[:2]), id="key")] == ids[:2]


def test_a_row_with_half_a_surrogate_pair_as_a_column_is_skipped(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"\\ud800": 1}\n' + lines(GOOD[0]))
    task = Task(train=str(tmp_path / "rows.jsonl"), validation="-")
    examples = prepared(task, Loading(cache=str(tmp_path), on_bad_row="skip"), "train", TOKENIZERS)
    assert examples.meta["skipped"] == 1


def test_paths_that_no_system_takes(refused, tmp_path):
    assert "there is no such file" in refused(None, train="x" * 300 + ".jsonl")
    assert "there is no such file" in refused(None, train="a\0b.jsonl")
    assert "it is no URL" in refused(None, train="http://[::1/x.jsonl")
    assert "is no csv or tsv file, its columns have names" in refused(lines(*GOOD), columns=["source", "target"])
