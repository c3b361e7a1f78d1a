"""Batches, against padding written the obvious slow way."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.batches.batch import collate
from encdec_lightning.data.examples.examples import InMemory, tokenize
from encdec_lightning.records import Pair

START, PAD, SOURCE_PAD = 7, 3, 0
CONTRACT = SimpleNamespace(start_id=START, pad_id=PAD, source_pad_id=SOURCE_PAD)
# The ids of start, padding and end occur in the texts as well.
IDS = st.lists(st.integers(0, 9), min_size=1, max_size=8)


def made(rows, indices, update_tokens=5):
    pairs = [Pair(str(number), "source", "target") for number in range(len(rows))]
    examples = InMemory(pairs, [source for source, _ in rows], [target for _, target in rows])
    return collate(examples, indices, CONTRACT, update_tokens)


@settings(deadline=None)
@given(data=st.data(), rows=st.lists(st.tuples(IDS, IDS), min_size=1, max_size=6))
def test_against_the_obvious_slow_way(data, rows):
    indices = data.draw(st.permutations(range(len(rows))))[: data.draw(st.integers(1, len(rows)))]
    batch = made(rows, indices, update_tokens=99)
    width = max(len(rows[index][0]) for index in indices)
    length = max(len(rows[index][1]) for index in indices)
    assert batch.source_ids.shape == batch.source_mask.shape == (len(indices), width)
    assert batch.target_ids.shape == batch.decoder_input_ids.shape == batch.target_mask.shape == (len(indices), length)
    for row, index in enumerate(indices):
        source, target = rows[index]
        assert batch.pairs[row].id == str(index)
        assert batch.source_lengths[row] == len(source)
        assert batch.target_lengths[row] == len(target)
        for column in range(width):
            real = column < len(source)
            assert batch.source_ids[row, column] == (source[column] if real else SOURCE_PAD)
            assert batch.source_mask[row, column] == int(real)
        for column in range(length):
            real = column < len(target)
            assert batch.target_ids[row, column] == (target[column] if real else PAD)
            assert bool(batch.target_mask[row, column]) is real
            if real:
                assert batch.decoder_input_ids[row, column] == (target[column - 1] if column else START)
    assert batch.tokens == sum(len(rows[index][0]) + len(rows[index][1]) for index in indices)
    assert batch.examples == len(indices)
    assert batch.update_tokens == 99
    for name in ("source_ids", "decoder_input_ids", "target_ids", "source_mask", "source_lengths", "target_lengths"):
        assert getattr(batch, name).dtype == torch.int64
    assert batch.target_mask.dtype == torch.bool


def test_masks_do_not_look_at_ids():
    batch = made([([0, 0, 0], [3, 3]), ([0], [3, 3, 3])], [0, 1])  # nothing but padding ids
    assert batch.source_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.target_mask.tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize("kind", ["wordpiece", "gpt2"])
def test_with_tokenizers_whose_padding_may_be_the_end(kind):
    tokenizers = Tokenizers(tiny.wordpiece(), tiny.byte_pairs(roberta=False) if kind == "gpt2" else None)
    assert (tokenizers.pad_id == tokenizers.end_id) is (kind == "gpt2")
    pairs = [Pair(row["key"], row["document"], row["summary"]) for row in tiny.pairs(4)]
    examples = tokenize(pairs, tokenizers, 30, 10)
    batch = collate(examples, range(4), tokenizers, 1)
    last = batch.target_lengths - 1
    assert batch.target_ids.gather(1, last[:, None]).flatten().tolist() == [tokenizers.end_id] * 4
    assert batch.decoder_input_ids[:, 0].tolist() == [tokenizers.start_id] * 4
    assert batch.target_mask.sum(1).tolist() == examples.lengths[:, 1].tolist()
    assert torch.equal(batch.source_mask.sum(1), batch.source_lengths)


def test_on_another_device():
    batch = made([([1, 2], [3]), ([4], [5, 6])], [0, 1])
    moved = batch.to("meta")
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    assert len(tensors) == 7
    for name, value in tensors.items():
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).shape == value.shape
        assert value.device.type == "cpu"
    assert moved.source_mask.device.type == moved.target_mask.device.type == "meta"
    assert (moved.pairs, moved.tokens, moved.update_tokens) == (batch.pairs, batch.tokens, batch.update_tokens)
    with pytest.raises(AttributeError):
        batch.tokens = 3


def test_a_batch_of_no_examples_has_one_row_without_a_target():
    batch = made([([1, 2], [3])], [], update_tokens=9)
    assert (batch.examples, batch.pairs, batch.tokens, batch.update_tokens) == (0, (), 0, 9)
    assert batch.source_ids.tolist() == [[SOURCE_PAD]]
    assert batch.source_mask.tolist() == [[1]]  # something to attend to
    assert batch.decoder_input_ids.tolist() == [[START]]
    assert batch.target_mask.tolist() == [[False]]


def test_texts_only_where_they_are_wanted():
    examples = InMemory([Pair("1", "a", "b")], [[1, 2]], [[3]])
    assert collate(examples, [0], CONTRACT, 1, with_pairs=False).pairs == ()
    assert collate(examples, [0], CONTRACT, 1).pairs == (Pair("1", "a", "b"),)
