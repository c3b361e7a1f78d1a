"""Rows with several right targets: a column with a list, further columns, and what becomes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
import tiny
from pyarrow import parquet

from encdec_lightning import Loading, Pair, Seq2SeqDataModule, Task, Tokenizers
from encdec_lightning.cli.train import main
from encdec_lightning.errors import UserError
from encdec_lightning.run import Run

ROWS = [
    {"s": "the cat sat", "t": ["a cat", "the cat", "a cat"], "r1": "cat", "r2": None},
    {"s": "a dog ran", "t": ["a dog"], "r1": "", "r2": ["dog", "the dog"]},
]


def written(folder: Path, format: str, rows: list[dict]) -> str:
    path = folder / f"rows{format}"
    if format == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pairs(files: tiny.Files, path: str, **options) -> list[Pair]:
    task = Task(train=path, validation=path, source="s", **{"target": "t", **options})
    examples = Seq2SeqDataModule(task, Tokenizers.from_pretrained(files.bert), Loading()).examples("train")
    return [examples.pair(number) for number in range(len(examples.lengths))]


@pytest.mark.parametrize("format", [".jsonl", ".parquet"])
def test_lists_and_further_columns(format, files, tmp_path):
    found = pairs(files, written(tmp_path, format, ROWS), references=["r1", "r2"])
    assert [(each.target, each.other_targets) for each in found] == [
        ("a cat", ("the cat", "cat")),
        ("a dog", ("dog", "the dog")),
    ]


def test_a_list_alone(files, tmp_path):
    found = pairs(files, written(tmp_path, ".jsonl", ROWS))
    assert [each.other_targets for each in found] == [("the cat",), ()]


def test_preprocessing_sees_each_target_by_itself(files, tmp_path, monkeypatch):
    (tmp_path / "several_mine.py").write_text(
        "from dataclasses import replace\n"
        "def shorter(pair):\n"
        "    assert pair.other_targets == ()\n"
        "    words = pair.target.split()[1:]\n"
        "    return replace(pair, target=' '.join(words)) if words else None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = written(tmp_path, ".jsonl", ROWS)
    found = pairs(files, path, references=["r1", "r2"], preprocess=["several_mine.shorter"])
    assert [(each.target, each.other_targets) for each in found] == [("cat", ("cat",)), ("dog", ("dog",))]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"t": []}, "train line 1 column t is []: a list of texts must hold at least one"),
        ({"t": ["a", " "]}, "column t is ' ': it must be a text that is not empty"),
        ({"t": ["a", 3]}, "column t is 3: it must be a text"),
        ({"r1": 7}, "column r1 is 7: it must be a text"),
    ],
)
def test_what_is_no_text_is_said(change, sentence, files, tmp_path):
    path = written(tmp_path, ".jsonl", [{**ROWS[0], **change}])
    with pytest.raises(UserError) as caught:
        pairs(files, path, references=["r1"])
    assert sentence in str(caught.value)


def test_a_column_that_is_not_there(files, tmp_path):
    with pytest.raises(UserError, match=r"task.references is 'r3': .* has no such column"):
        pairs(files, written(tmp_path, ".jsonl", ROWS), references=["r3"])


def test_a_run_scores_with_all_references(files, in_tmp, capsys):
    rows = [json.loads(line) for line in Path(files.test).read_text().splitlines()]
    for row in rows:
        row["summary"] = [row["summary"], "something else"]
    Path("test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = files.overrides("trainer.max_steps=1", "export=false", "folder=run", "task.metrics=[exact_match,chrf]")
    assert main([*options, "task.test=test.jsonl"]) == 0, capsys.readouterr().err
    predictions = Run("run").predictions()
    assert all(each.references == (each.reference, "something else") for each in predictions)
    line = json.loads(Path("run/predictions/test.jsonl").read_text().splitlines()[0])
    assert line["references"][1] == "something else"
    assert {"test/exact", "test/chrf"} <= Run("run").metrics().keys()
