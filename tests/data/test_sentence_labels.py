"""Labels of sentences: those of the oracle, one for each sentence that the model sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tiny

from encdec_lightning import Extraction, ExtractiveDataModule, Loading, Task, Tokenizers, UserError
from encdec_lightning.composition.sentence_rules import split_sentences
from encdec_lightning.data.examples import sentence_labels
from encdec_lightning.data.examples.label_workers import Labellers
from encdec_lightning.data.examples.sentence_labels import SentenceLabels
from encdec_lightning.data.options import Oracle
from encdec_lightning.evaluation.extraction import Criterion, greedy_oracle
from encdec_lightning.records import Pair

ODD = {
    "no end": "the list is sorted by a key",
    "one": "The list is sorted.",
    "many": "The end. " * 1000 + "The list is sorted by a key. " + "The file. " * 999,
    "no match": "Return it. Write it.",
    "long": "the list " * 500 + ". The list is sorted.",
    "control": "The list.\n\x00\x01\nIt is sorted by a key.",
    "blank lines": "The list.\n\n   \nIt is sorted by a key.",
}
TARGET = "the list is sorted by a key"


def data(tmp_path: Path, rows: list[dict[str, object]], length: int = 64, rule: str = "lines", **options: object):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = Task(train=str(path), validation=str(path), max_source_length=length)
    tokenizers = Tokenizers(tiny.wordpiece(), sentences=rule)
    loading = Loading(cache=str(tmp_path / "cache"), batch_tokens=4000)
    return ExtractiveDataModule(task, tokenizers, loading, Extraction(**options))  # type: ignore[arg-type]


def test_labels_are_the_oracle_of_the_whole_document_as_far_as_it_is_read(tmp_path: Path):
    rows = [{"source": text, "target": TARGET} for text in ODD.values()]
    made = data(tmp_path, rows, rule="en", sentences=1)
    examples = made.examples("train")
    for number, (name, text) in enumerate(ODD.items()):
        source, labels = examples.ids(number)
        sentences = split_sentences(text.replace("\x00\x01", ""), "en")
        assert not any("\n" in each for each in sentences)  # a sentence is one line, wherever the text has breaks
        expected = np.zeros(len(sentences), dtype=int)
        expected[greedy_oracle(sentences, [TARGET])] = 1
        assert labels.tolist() == expected[: int((source == 2).sum())].tolist(), name
        assert len(source) <= 64 and len(labels) == examples.lengths[number][1]
        assert examples.pair(number).target == TARGET
    assert examples.ids(list(ODD).index("no match"))[1].sum() == 0  # no sentence is right, and that is learnt too
    many = list(ODD).index("many")
    assert examples.ids(many)[1].sum() == 0 and examples.column("whole_lengths")[many].tolist()[1] == 2000
    assert examples.meta["labels"] is True


def test_several_references_and_options_decide_the_labels(tmp_path: Path):
    source = "key by list sorted\nby key and a file"
    rows = [{"source": source, "target": ["sorted list by key", "no such words"]}, {"source": source, "target": "file"}]
    for most, oracle, expected in (
        (1, "rouge2", [0, 1]),  # "by key" are two words in a row of a target
        (1, "rouge1+rouge2", [1, 0]),  # all words of a target
        (3, "rouge1+rouge2", [1, 0]),
    ):
        made = data(tmp_path, rows, oracle_sentences=most, oracle=oracle)
        assert made.examples("train").ids(0)[1].tolist() == expected, (most, oracle)


def test_other_labels_are_other_entries_of_the_cache_and_texts_the_same_fingerprint(tmp_path: Path):
    rows = [{"source": "the list\nthe file", "target": "the file"}]
    one, same, other = (data(tmp_path, rows, **options) for options in ({}, {"sentences": 1}, {"oracle": "rouge2"}))
    folders = [each.examples("train").folder for each in (one, same, other)]
    assert folders[0] == folders[1] != folders[2]
    assert one.fingerprint("train") == other.fingerprint("train")


def test_a_batch_holds_labels_and_counts_sentences(tmp_path: Path):
    rows = [{"source": "the list\nthe file\nthe key", "target": "the file"}, {"source": "a list", "target": "a list"}]
    made = data(tmp_path, rows)
    (batch,) = list(made.test_dataloader())
    assert batch.target_tokens == 4
    by_id = {pair.id: labels[:length] for pair, labels, length in zip(
        batch.pairs, batch.target_ids.tolist(), batch.lengths[:, 1].tolist(), strict=True
    )}  # fmt: skip
    assert sorted(by_id.values()) == [[0, 1, 0], [1]]


def test_a_source_without_a_token_is_a_bad_row_and_plain_tokenizers_are_refused(tmp_path: Path):
    made = data(tmp_path, [{"source": "\x00 \x01", "target": "a list"}])
    with pytest.raises(UserError, match="makes no token of this source"):
        made.examples("train")
    with pytest.raises(UserError, match="where one ends"):
        SentenceLabels(Tokenizers(tiny.wordpiece()), Extraction())


def test_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = tiny.pairs(60) + [{"document": text, "summary": TARGET} for text in ODD.values()]
    tokenizers = Tokenizers(tiny.wordpiece(), sentences="en")
    pairs = [Pair(str(number), row["document"], row["summary"], ("é\u2028 \ud7ff",)) for number, row in enumerate(rows)]
    alone = SentenceLabels(tokenizers, Extraction())(pairs)
    monkeypatch.setattr(sentence_labels, "MANY", 1)
    several = SentenceLabels(tokenizers, Extraction())
    try:
        for _ in range(2):  # the processes stay
            found = several(pairs)
            assert [each.tolist() for each in found] == [each.tolist() for each in alone]
    finally:
        several.close()
    assert several([]) == []


def test_a_process_that_ends_is_said_and_not_waited_for():
    labellers = Labellers(2)
    try:
        for process in labellers._all:
            process.kill()
        with pytest.raises(UserError, match="a process that finds an oracle's sentences has ended"):
            labellers([(["a list"], ["a list"])] * 4, 1, "rouge2")
    finally:
        labellers.close()


def test_files_of_the_working_folder_take_no_module_s_place(in_tmp: Path):
    (in_tmp / "json.py").write_text("raise SystemExit(3)")
    labellers = Labellers(1)
    try:
        assert labellers([(["a list", "a file"], ["a file"])], 1, "rouge2") == [[1]]
    finally:
        labellers.close()


def test_the_option_names_what_the_oracle_knows():
    assert get_args(Oracle) == get_args(Criterion)


@pytest.mark.parametrize("options", [{"sentences": 0}, {"oracle_sentences": 0}])
def test_numbers_of_sentences_are_at_least_one(options: dict[str, int]):
    with pytest.raises(ValueError, match="at least 1"):
        Extraction(**options)
