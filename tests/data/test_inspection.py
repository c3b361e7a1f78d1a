"""Statistics of splits, against counting by hand."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import tiny

from encdec_lightning import Loading, Task, Tokenizers
from encdec_lightning.data.examples.prepared import prepared
from encdec_lightning.data.inspection import edges, histogram, inspect

TOKENIZERS = Tokenizers(tiny.wordpiece())
TRAIN = [("graph a list", "one"), ("Graph  A list", "two"), ("file", "one"), ("file", "one"), ("path 文 file", "x")]
TEST = [("FILE", "one"), ("matrix", "one"), ("matrix", "nine"), ("graph a list", "new")]


@pytest.fixture
def splits(tmp_path):
    files = {}
    for split, rows in (("train", TRAIN), ("validation", TEST[:1]), ("test", TEST)):
        rows = [{"source": source, "target": target} for source, target in rows]
        files[split] = str(tiny.write_rows(tmp_path / f"{split}.jsonl", rows))
    task, loading = Task(**files, max_source_length=4), Loading(cache=str(tmp_path))
    return {split: prepared(task, loading, split, TOKENIZERS) for split in files}


def test_counts(splits):
    found = inspect(splits)
    train, test = found["train"], found["test"]
    assert (train.examples, train.repeated, train.in_training) == (5, 1, 0)
    assert (train.source.repeated, train.target.repeated) == (2, 2)
    assert (test.examples, test.repeated, test.in_training) == (4, 0, 1)
    assert (test.source.repeated, test.source.in_training, test.target.in_training) == (1, 2, 2)
    whole = [len(ids) for ids in TOKENIZERS.encode_sources([source for source, _ in TRAIN], 99)]
    assert train.source.mean == pytest.approx(np.mean(whole))
    assert (train.source.longest, train.source.limit) == (max(whole), 4)
    assert train.source.truncated == sum(length > 4 for length in whole) > 0
    assert train.source.tokens == sum(min(length, 4) for length in whole)
    assert train.source.percentiles[0] == sorted(whole)[2]
    assert (train.source.unknown_tokens, train.source.with_unknown_tokens) == (1, 1)
    assert found["validation"].in_training == 1
    assert (train.skipped, train.dropped, train.too_long) == (0, 0, 0)


def test_histograms_hold_every_text_and_share_their_limits(splits):
    for side in range(2):
        limits = edges(splits.values(), side, 3)
        assert len(set(np.diff(limits))) == 1
        for examples in splits.values():
            counts = histogram(examples, side, limits)
            lengths = examples.column("whole_lengths")[:, side]
            assert counts.sum() == len(lengths)
            assert counts[0] == sum(lengths < limits[1])


def test_what_became_of_rows(tmp_path, monkeypatch):
    (tmp_path / "drops.py").write_text("def drop(pair):\n    return None if 'drop' in pair.source else pair\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "drops", raising=False)
    texts = [("path", "x"), ("path", "one file path"), ("", "bad"), ("drop it", "a"), ("drop", "a")]
    texts += [("file " * 9, "a"), ("path " * 9, "a"), ("list " * 9, "a")]
    file = str(tiny.write_rows(tmp_path / "a.jsonl", [{"source": one, "target": other} for one, other in texts]))
    limits = {"max_source_length": 6, "max_target_length": 3, "too_long": "drop"}
    task = Task(train=file, validation=file, preprocess=["drops.drop"], **limits)
    train = prepared(task, Loading(cache=str(tmp_path), on_bad_row="skip"), "train", TOKENIZERS)
    found = inspect({"train": train})["train"]
    assert (found.skipped, found.dropped, found.too_long, found.examples) == (1, 2, 4, 1)


def test_each_side_has_its_own_lengths_and_limit(tmp_path):
    texts = [("graph a list", "one file path"), ("文 文 文", "x"), ("file " * 9, "a"), ("path", "a matrix of lists")]
    file = str(tiny.write_rows(tmp_path / "a.jsonl", [{"source": one, "target": other} for one, other in texts]))
    task = Task(train=file, validation=file, max_source_length=6, max_target_length=3)
    test = prepared(task, Loading(cache=str(tmp_path)), "test", TOKENIZERS)
    found = inspect({"test": test})["test"]
    for side, limit, lengths in zip((found.source, found.target), (6, 3), test.column("whole_lengths").T, strict=True):
        assert (side.limit, side.truncated) == (limit, sum(lengths > limit))
        places = [math.ceil(percent / 100 * (len(lengths) - 1)) for percent in (50, 95, 99)]
        assert side.percentiles == tuple(sorted(lengths)[place] for place in places)
    assert (found.source.unknown_tokens, found.source.with_unknown_tokens) == (3, 1)
