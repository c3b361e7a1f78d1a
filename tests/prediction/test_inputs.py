"""An input of encdec-predict is read as training reads the same file."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_files import ROWS, TEXT, WRITERS, read

from encdec_lightning.data.options import Task
from encdec_lightning.errors import UserError
from encdec_lightning.prediction.inputs import InputReader, find_input, input_rows
from encdec_lightning.records import Pair

TASK = Task(train="-", validation="-")


def sources(location, cache, kind=None, **options):
    task = replace(TASK, **options)
    return list(InputReader(task).read(find_input(str(location), task, Path(cache), kind)))


@settings(deadline=None, max_examples=30)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
@pytest.mark.parametrize("ending", WRITERS)
def test_pairs_are_those_of_training(rows, ending, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    file = folder / f"rows{ending}"
    file.write_bytes(WRITERS[ending](rows))
    assert sources(file, folder) == read(file, folder)
    assert sources(file, folder, source="target", target="nothing", id="source") == [
        Pair(source, target, "") for source, target in rows
    ]


def test_pairs_of_parallel_text_are_those_of_training(tmp_path):
    for name, column in (("a.en", 0), ("a.de", 1)):
        (tmp_path / name).write_text("\n".join(row[column] for row in ROWS), encoding="utf-8")
    location = f"{tmp_path / 'a.en'}+{tmp_path / 'a.de'}"
    assert sources(location, tmp_path, source="a+b") == read(location, tmp_path, source="a+b")
    alone = [Pair(str(number), source, "") for number, (source, _) in enumerate(ROWS, start=1)]
    assert sources(tmp_path / "a.en", tmp_path, source="a.b") == alone


def test_a_folder_like_a_data_set_of_the_hub(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "test.jsonl").write_bytes(WRITERS[".jsonl"](ROWS))
    assert sources(f"hub:{tmp_path / 'set'}::test", tmp_path) == [
        Pair(str(number), *row) for number, row in enumerate(ROWS, start=1)
    ]


def test_a_pipe_is_text(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("one\ntwo\n",))
    writer.start()
    assert [pair.source for pair in sources(pipe, tmp_path)] == ["one", "two"]
    writer.join()


def test_a_target_that_is_no_text_is_none(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("source,target\na,\nb,c\n")
    assert sources(file, tmp_path) == [Pair("2", "a", ""), Pair("3", "b", "c")]


def short_target(pair: Pair) -> Pair | None:
    """A filter of training pairs: neither of the targets that stand in passes it."""
    return pair if len(pair.target) < 3 else None


def long_target(pair: Pair) -> Pair | None:
    return pair if len(pair.target) > 10 else None


def short_source(pair: Pair) -> Pair | None:
    return replace(pair, source=pair.source.upper()) if len(pair.source) < 4 else None


def both(pair: Pair) -> Pair:
    return replace(pair, source=f"{pair.source} {pair.target[:3]}")


def number(pair: Pair) -> Pair:
    return replace(pair, source=f"{pair.source} {int(pair.target)}")


def preprocessed(functions, *texts, **columns):
    task = replace(TASK, preprocess=[f"{each.__module__}.{each.__name__}" for each in functions], **columns)
    reader = InputReader(task)
    lines = b"".join(text.encode() + b"\n" for text in texts)
    return reader, reader.read(input_rows(lines.splitlines(keepends=True), task))


def test_functions_that_drop_keep_the_source_as_it_was():
    reader, found = preprocessed([short_target, short_source, long_target], "abc", "abcd")
    assert [pair.source for pair in found] == ["ABC", "abcd"] and reader.kept == 2
    reader, found = preprocessed([long_target, short_source], "abc", "abcd")
    assert [pair.source for pair in found] == ["ABC", "abcd"] and reader.kept == 1


def test_functions_that_read_the_target():
    for function, says in ((both, "the source that it makes depends on the target, and input line 1 has none"),
                           (number, "the input has no target, it was given 'a text'")):  # fmt: skip
        with pytest.raises(UserError, match=says):
            list(preprocessed([function], "abc")[1])


def test_pairs_that_are_none_of_a_file_go_through_the_functions_too():
    """As those of an embedded data set, which have targets."""
    task = replace(TASK, preprocess=[f"{both.__module__}.{both.__name__}"])
    (pair,) = InputReader(task).read([(1, Pair("name", "abc", "defg"))])
    assert pair == Pair("name", "abc def", "defg")
