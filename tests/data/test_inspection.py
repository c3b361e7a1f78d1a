"""Statistics of splits, against counting by hand."""

from __future__ import annotations

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
