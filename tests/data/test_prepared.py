"""The cache of tokenized examples: built once, found again, never half, never stale."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from tokenizers import normalizers

from encdec_lightning import Loading, Seq2SeqDataModule, Task, Tokenizers
from encdec_lightning.cache import fingerprints
from encdec_lightning.composition.bulk_tokenizer import BulkTokenizer
from encdec_lightning.data.examples import building
from encdec_lightning.data.examples import prepared as module
from encdec_lightning.data.examples.prepared import prepared
from encdec_lightning.errors import UserError

BERT, ROBERTA = Tokenizers(tiny.wordpiece()), Tokenizers(tiny.byte_pairs(roberta=True))


@pytest.fixture
def task(tmp_path):
    file = str(tiny.write_rows(tmp_path / "train.jsonl", tiny.pairs(3000)))
    return Task(train=file, validation=file, source="document", target="summary", id="key")


@pytest.fixture
def loading(tmp_path):
    return Loading(cache=str(tmp_path / "cache"))


def folders(loading):
    return sorted(path.name for path in (Path(loading.cache) / "examples").iterdir() if not path.name.endswith(".lock"))


def test_what_is_stored_is_what_the_tokenizers_give(task, loading):
    both = Tokenizers(tiny.wordpiece(), tiny.byte_pairs(roberta=False))
    task = replace(task, max_source_length=20, max_target_length=6)
    examples = prepared(task, loading, "train", both)
    rows = tiny.pairs(3000)
    assert len(examples.lengths) == 3000
    sources = both.encode_sources([row["document"] for row in rows], 20)
    targets = both.encode_targets([row["summary"] for row in rows], 6)
    whole = both.encode_sources([row["document"] for row in rows], 999)
    for number in (0, 1, 999, 1000, 2999):
        assert [ids.tolist() for ids in examples.ids(number)] == [sources[number], targets[number]]
        assert examples.lengths[number].tolist() == [len(sources[number]), len(targets[number])]
        assert examples.pair(number).id == rows[number]["key"]
        assert (examples.pair(number).source, examples.pair(number).target) == (
            rows[number]["document"],
            rows[number]["summary"],
        )
    assert examples.column("whole_lengths")[:, 0].tolist() == [len(ids) for ids in whole]
    assert examples.meta["truncated"][0] == sum(len(ids) > 20 for ids in whole) > 0
    assert examples.column("rows").tolist() == list(range(1, 3001))


def test_large_vocabularies_take_wider_numbers(task, loading, monkeypatch):
    monkeypatch.setattr(Tokenizers, "vocabulary_sizes", (2**16 + 1, 2**16))
    examples = prepared(replace(task, train_examples=5), loading, "train", BERT)
    assert (examples.meta["source_type"], examples.meta["target_type"]) == ("uint32", "uint16")
    assert examples.ids(3)[0].tolist() == BERT.encode_sources([tiny.pairs(4)[3]["document"]], 512)[0]


def test_a_second_time_nothing_is_tokenized(task, loading, monkeypatch):
    first = prepared(task, loading, "train", BERT)
    monkeypatch.setattr(module, "build", None)
    assert prepared(task, loading, "train", BERT).folder == first.folder
    same = Tokenizers(tiny.wordpiece())  # another object
    assert prepared(task, loading, "train", same).folder == first.folder
    assert prepared(replace(task, metrics=["rouge"], monitor="val/loss"), loading, "train", BERT).folder == first.folder
    assert prepared(task, replace(loading, batch_tokens=77, seed=3), "train", BERT).folder == first.folder


@pytest.mark.parametrize(
    "changes",
    [
        *({name: 9} for name in ("max_source_length", "max_target_length", "train_examples")),
        *({name: "summary"} for name in ("source",)),
        {"id": None},
        {"train_share": 0.5},
        {"too_long": "drop"},
        {"preprocess": ["encdec_lightning.data.preprocessing.lower_case"]},
    ],
    ids=str,
)
def test_what_changes_the_examples_makes_new_ones(changes, task, loading):
    first = prepared(task, loading, "train", BERT)
    assert prepared(replace(task, **changes), loading, "train", BERT).folder != first.folder


def test_other_tokenizers_data_and_code_make_new_ones(task, loading, monkeypatch, tmp_path):
    first = prepared(task, loading, "train", BERT).folder
    found = {first, prepared(task, loading, "train", ROBERTA).folder}
    found.add(prepared(task, loading, "train", Tokenizers(tiny.wordpiece(), tiny.byte_pairs(roberta=True))).folder)
    monkeypatch.setattr(module, "VERSION", -1)
    found.add(prepared(task, loading, "train", BERT).folder)
    monkeypatch.undo()
    monkeypatch.setattr(fingerprints, "SETTLED", -1.0)  # hashes are remembered at once
    content = Path(task.train).read_bytes()
    Path(task.train).write_bytes(content.replace(b"matrix", b"matrox", 1))  # same size, at once
    found.add(prepared(task, loading, "train", BERT).folder)
    assert len(found) == 5
    Path(task.train).write_bytes(content)
    assert prepared(task, loading, "train", BERT).folder == first
    os.utime(task.train, (1e9, 1e9))  # long ago: its hash may be remembered
    assert prepared(task, loading, "train", BERT).folder == first
    Path(task.train).write_bytes(content.replace(b"matrix", b"matrox", 1))
    assert prepared(task, loading, "train", BERT).folder in found - {first}


def test_a_changed_preprocessing_function_makes_new_ones(task, loading, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two files of one second and one size look alike
    file = tmp_path / "my_cleaning.py"
    found = []
    for sign in ("!", "?"):
        file.write_text(
            f"from dataclasses import replace\n\ndef end(pair):\n    return replace(pair, target=pair.target + '{sign}')\n"
        )
        sys.modules.pop("my_cleaning", None)
        examples = prepared(replace(task, preprocess=["my_cleaning.end"]), loading, "train", BERT)
        found.append((examples.folder, examples.pair(0).target[-1]))
    assert found[0][0] != found[1][0]
    assert [sign for _, sign in found] == ["!", "?"]


def test_a_cache_that_cannot_be_made(task, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data.cache is .*file': it cannot be written \(.*\): a file is where a"):
        prepared(task, Loading(cache=str(tmp_path / "file")), "train", BERT)


def test_skipped_rows_are_counted_and_listed(task, loading):
    with Path(task.train).open("a", encoding="utf-8") as stream:
        stream.write('{"key": "bad", "document": "", "summary": "s"}\nno json\n')
    with pytest.raises(UserError, match=r"task.train line 3001 column document is ''"):
        prepared(task, loading, "train", BERT)
    examples = prepared(task, replace(loading, on_bad_row="skip"), "train", BERT)
    assert (len(examples.lengths), examples.meta["skipped"]) == (3000, 2)
    listed = [json.loads(line) for line in (examples.folder / building.SKIPPED).read_text().splitlines()]
    assert [each["row"] for each in listed] == [3001, 3002]
    assert "must be one JSON object" in listed[1]["problem"]
    with pytest.raises(
        UserError, match=r"it holds no example: 3,002 rows were skipped, the first because task.source is 'x'"
    ):
        prepared(replace(task, source="x"), replace(loading, on_bad_row="skip"), "train", BERT)


def test_too_long_pairs_by_their_rule(task, loading):
    lengths = np.array([len(ids) for ids in BERT.encode_sources([row["document"] for row in tiny.pairs(3000)], 999)])
    limit = int(np.median(lengths))
    options = {"max_source_length": limit}
    cut = prepared(replace(task, **options), loading, "train", BERT)
    assert (len(cut.lengths), cut.lengths[:, 0].max(), cut.meta["too_long_dropped"]) == (3000, limit, 0)
    dropped = prepared(replace(task, **options, too_long="drop"), loading, "train", BERT)
    assert len(dropped.lengths) == (lengths <= limit).sum() == 3000 - dropped.meta["too_long_dropped"]
    assert dropped.column("rows").tolist() == (np.flatnonzero(lengths <= limit) + 1).tolist()
    assert dropped.pair(5).id == f"row-0-{np.flatnonzero(lengths <= limit)[5]}"  # ids do not shift
    assert dropped.meta["truncated"] == [0, 0]
    first = int(np.flatnonzero(lengths > limit)[0])
    sentence = f"task.train row {first + 1} is '{lengths[first]} tokens': it must not exceed task.max_source_length \\({limit}\\)"
    with pytest.raises(UserError, match=sentence):
        prepared(replace(task, **options, too_long="error"), loading, "train", BERT)
    with pytest.raises(UserError, match=r"task.max_target_length \(3\)"):
        prepared(replace(task, max_target_length=3, too_long="error"), loading, "train", BERT)
    for rule in ("drop", "error"):  # of training alone: a test set stays whole
        assert len(prepared(replace(task, **options, too_long=rule), loading, "test", BERT).lengths) == 3000


def test_everything_too_long(task, loading):
    with pytest.raises(UserError, match=r"it holds no example"):
        prepared(replace(task, max_source_length=3, too_long="drop"), loading, "train", BERT)


def test_unknown_tokens_are_counted(tmp_path, loading):
    rows = [
        {"source": "matrix 文 tensor 文", "target": "graph"},
        {"source": "graph", "target": "文"},
        {"source": "path", "target": "文 文"},
    ]
    file = str(tiny.write_rows(tmp_path / "unknown.jsonl", rows))
    meta = prepared(Task(train=file, validation=file), loading, "train", BERT).meta
    assert (meta["unknown_tokens"], meta["with_unknown_tokens"]) == ([2, 3], [1, 2])


def test_a_text_without_tokens_is_a_bad_row(tmp_path, loading):
    """Where a tokenizer drops signs and adds no special tokens, nothing may be left."""
    gpt2 = tiny.byte_pairs(roberta=False)
    gpt2.backend_tokenizer.normalizer = normalizers.Replace("~", "")
    rows = [{"source": "one", "target": "one"}, {"source": "~~", "target": "two"}, {"source": "two", "target": "~"}]
    file = str(tiny.write_rows(tmp_path / "rows.jsonl", rows))
    task, tokenizers = Task(train=file, validation=file), Tokenizers(gpt2)
    with pytest.raises(UserError, match=r"task.train row 2 is '~~': the tokenizer makes no token of this source"):
        prepared(task, loading, "train", tokenizers)
    examples = prepared(task, replace(loading, on_bad_row="skip"), "train", tokenizers)
    assert (len(examples.lengths), examples.meta["skipped"]) == (1, 2)
    assert "no token of this target" in (examples.folder / building.SKIPPED).read_text()


def test_the_same_id_twice_is_found_however_far_apart(task, loading):
    with Path(task.train).open("a", encoding="utf-8") as stream:
        stream.write('{"key": "row-0-7", "document": "d", "summary": "s"}\n')
    with pytest.raises(UserError, match=r"task.train row 3001 is 'row-0-7': an example before has the same id"):
        prepared(task, loading, "train", BERT)
    assert folders(loading) == []


def test_a_whole_epoch_from_the_disk(task, loading):
    data = Seq2SeqDataModule(task, BERT, replace(loading, batch_tokens=2000))
    assert sum(batch.examples for batch in data.train_dataloader()) == 3000


def test_texts_that_are_too_long_for_a_tokenizer_are_bad_rows(task, loading, monkeypatch):
    """They would take minutes; a function that cuts them makes good ones of them."""
    monkeypatch.setattr(building, "LONGEST_TEXT", 2000)
    rows = [{"key": "one", "document": "graph " * 1000, "summary": "s"}, *tiny.pairs(3)]
    file = str(tiny.write_rows(Path(task.train), rows))
    sentence = r"task.train row 1 is 'graph .*\.\.\.': the source has 6,000 characters, and at most 2,000 are tokenized"
    with pytest.raises(UserError, match=sentence) as caught:
        prepared(task, loading, "train", BERT)
    assert len(str(caught.value)) < 200
    examples = prepared(task, replace(loading, on_bad_row="skip"), "train", BERT)
    assert (len(examples.lengths), examples.meta["skipped"], examples.pair(0).id) == (3, 1, "row-0-0")
    swapped = replace(task, preprocess=["encdec_lightning.data.preprocessing.swap"], train=file)
    with pytest.raises(UserError, match="the target has 6,000 characters"):
        prepared(swapped, loading, "train", BERT)


def test_calls_of_the_tokenizer_are_bounded_by_characters_too(task, loading, monkeypatch):
    """So that memory does not grow with the texts; what is stored does not depend on it."""
    before = prepared(task, loading, "train", BERT)
    monkeypatch.setattr(building, "CHARACTERS", 500)
    monkeypatch.setattr(module, "VERSION", -1)
    sizes, encode = [], BulkTokenizer.__call__
    monkeypatch.setattr(
        BulkTokenizer, "__call__", lambda self, texts: (sizes.append(len(texts)), encode(self, texts))[1]
    )
    assert prepared(task, loading, "train", BERT).meta == before.meta
    assert max(sizes) < 100 and sum(sizes) == 2 * 3000


def test_without_a_test_file_validation_is_prepared_once(task, loading):
    found = {prepared(task, loading, split, BERT).folder for split in ("validation", "test")}
    assert len(found) == 1
    rule = ["encdec_lightning.data.preprocessing.target_of_50_words"]
    with pytest.raises(UserError, match=r"task.test is .*: it holds no example: 3,000 rows were left out"):
        prepared(replace(task, test_preprocess=rule), loading, "test", BERT)
