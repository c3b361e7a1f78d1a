from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import searches
import tiny
import torch

from encdec_lightning import Generation, Tokenizers, UserError, compose, generate
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.generation import generate as generating
from encdec_lightning.generation.engine import Engine
from encdec_lightning.generation.generate import stream
from encdec_lightning.generation.memory import ElasticStreamer


@pytest.fixture(scope="module")
def model(files: tiny.Files):
    torch.manual_seed(0)
    return searches.sharpen(compose(files.bert, files.gpt2))


@pytest.fixture(scope="module")
def prefix(files: tiny.Files):
    return searches.sharpen(compose(None, files.gpt2))


def test_a_stream_without_end_takes_only_what_is_under_way(model):
    taken = 0

    def endless():
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield number, searches.sources([3 + number % 7], number)[0]

    found = stream(model, endless(), Generation(num_beams=2), max_target_length=8, targets=6)
    keys = [next(found)[0] for _ in range(40)]
    assert len(set(keys)) == 40 and taken <= 40 + 3 + 3
    texts = [searches.sources([3 + number % 7], number)[0] for number in range(20)]
    expected = searches.theirs(model, texts, Generation(num_beams=2), 8)
    again = dict(stream(model, enumerate(texts), Generation(num_beams=2), max_target_length=8, targets=6))
    assert [again[number][0].tokens for number in range(20)] == [best.tokens for (best,) in expected]


def test_nothing_of_the_model_or_of_torch_changes(model):
    model.train()
    before, names = torch.get_rng_state(), [config_of(each) for each in (model.encoder, model.decoder)]
    values = copy.deepcopy(model.state_dict())
    list(stream(model, enumerate(searches.sources([5, 9])), Generation(num_beams=3), max_target_length=8))
    assert all(module.training for module in model.modules())
    assert [config_of(each) for each in (model.encoder, model.decoder)] == names
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in values.items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    model.eval()


def config_of(part) -> str:
    return part.config._attn_implementation


def test_under_autocast_the_weights_are_cast_once(model):
    texts = searches.sources([5, 9, 12])
    with torch.autocast("cpu", torch.bfloat16):
        found = dict(stream(model, enumerate(texts), Generation(num_beams=3), max_target_length=8))
    cast = copy.deepcopy(model).bfloat16()
    expected = dict(stream(cast, enumerate(texts), Generation(num_beams=3), max_target_length=8))
    assert found == expected


def test_weights_that_change_between_two_streams_are_seen(model):
    texts = searches.sources([5, 9, 12])
    other = copy.deepcopy(model)
    for cast in (other, copy.deepcopy(model).bfloat16()):
        found = []
        for _ in range(2):  # as two validations
            with torch.autocast("cpu", torch.bfloat16):
                found.append(dict(stream(cast, enumerate(texts), Generation(), max_target_length=8)))
            fresh = copy.deepcopy(cast)
            with torch.autocast("cpu", torch.bfloat16):
                assert found[-1] == dict(stream(fresh, enumerate(texts), Generation(), max_target_length=8))
            with torch.no_grad():
                for parameter in cast.parameters():
                    parameter.mul_(-1)
        assert found[0] != found[1]


def test_a_batch_in_its_order(model, files):
    from encdec_lightning import Loading, Seq2SeqDataModule, Task, Tokenizers

    tokenizers = Tokenizers.from_pretrained(files.bert, files.gpt2)
    tokenizers.configure(model)
    task = Task(train=files.train, validation=files.validation, source="document", target="summary", id="key",
                max_source_length=40, max_target_length=10)  # fmt: skip
    batch = next(iter(Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=500)).test_dataloader()))
    options = Generation(num_beams=2, num_return_sequences=2, max_length=6)
    found = generate(model, batch, options)
    sequences = model.generate(input_ids=batch.source_ids, attention_mask=batch.source_mask, **options.arguments(6))
    for row, (best, _) in zip(sequences[::2].tolist(), found, strict=True):
        assert row[1 : 1 + len(best.tokens)] == best.tokens
    searches.sharpen(model, 1.0)


def batch_of(texts: list[torch.Tensor]) -> Batch:
    """Sources alone; the targets are of no account."""
    lengths, ones = torch.tensor([len(text) for text in texts]), torch.ones(len(texts), 1, dtype=torch.long)
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    return Batch((), len(texts), ids, lengths, ones, ones, ones[:, 0], update_tokens=0, tokens=0)


@pytest.mark.parametrize("examples", [1, 3, 80])
def test_a_batch_takes_memory_for_its_own_examples_alone(model, examples, monkeypatch):
    made = []

    class Noted(Engine):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            made.append(self.runner.cache.sources)

    texts = searches.sources([3 + number % 5 for number in range(examples)])
    options = Generation(num_beams=4, max_length=6)
    expected = searches.theirs(model, texts, options, 6)
    monkeypatch.setattr(generating, "Engine", Noted)
    found = generate(model, batch_of(texts), options)
    assert [best.tokens for (best,) in found] == [best.tokens for (best,) in expected]
    assert made == [min(examples, 256 // 4)]


@pytest.mark.parametrize("beams", [1, 3])
def test_without_a_limit_the_longest_prefix_leaves_the_rest_of_the_positions(prefix, beams):
    texts, options = searches.sources([9, 5, 12]), Generation(num_beams=beams)
    found = generate(prefix, batch_of(texts), options)
    expected = searches.theirs(prefix, texts, options, tiny.POSITIONS - 12)
    assert [[each.tokens for each in one] for one in found] == [[each.tokens for each in one] for one in expected]
    assert dict(ElasticStreamer(prefix, options, longest_source=12)([*enumerate(texts)])) == dict(enumerate(found))


def test_a_prefix_without_room_or_without_a_limit_is_one_sentence(prefix):
    with pytest.raises(UserError, match=r"tokens of source 0 is 64: the model reads 63 at most, cut it"):
        generate(prefix, batch_of(searches.sources([64])))
    shared = "max_length is None: source and target share the decoder's 64 positions, so one must be given"
    with pytest.raises(UserError, match=shared):
        list(stream(prefix, enumerate(searches.sources([4])), Generation()))


@pytest.mark.parametrize(
    ("sources", "options", "sentence"),
    [
        ([3, 0], {}, "source 1 is '': it is empty, it needs a token at least."),
        ([65], {}, r"tokens of source 0 is 65: the model reads 64 at most, cut it"),
        ([3], {"max_length": 65}, "max_length is 65: the decoder has 64 positions, use at most so many."),
        ([3], {"min_length": 20}, "min_length is 20: it must be at most the maximum length, 8."),
    ],
)
def test_bad_input_is_one_sentence(model, sources, options, sentence):
    with pytest.raises(UserError, match=sentence):
        list(stream(model, enumerate(searches.sources(sources)), Generation(**options), max_target_length=8))


def test_a_prefix_leaves_room_for_the_target(prefix):
    options = Generation(num_beams=2, max_length=20, min_length=20)
    list(stream(prefix, enumerate(searches.sources([44])), options))
    with pytest.raises(UserError, match="the model reads 44 at most"):
        list(stream(prefix, enumerate(searches.sources([45])), options))


def test_a_model_without_a_start_token(model):
    other = copy.deepcopy(model)
    other.generation_config.decoder_start_token_id = None
    with pytest.raises(UserError, match="decoder_start_token_id is None: the model needs one"):
        list(stream(other, enumerate(searches.sources([4])), Generation(), max_target_length=8))


def test_without_a_limit_the_positions_are_one(model):
    ((_, (best,)),) = stream(model, enumerate(searches.sources([4])), Generation(min_length=64))
    assert len(best.tokens) == 64


@pytest.mark.parametrize("options", [{"num_beams": 3, "num_return_sequences": 3}, {"do_sample": True}, {}])
def test_scores_are_summed_in_fp32_whatever_the_default_dtype_is(files: tiny.Files, options: dict[str, Any]) -> None:
    """Lightning's is bf16 where weights are: beams ended in an error, and sums would lose their last digits."""
    torch.manual_seed(0)
    model = compose(files.bert, files.bert, tokenizers=Tokenizers.from_pretrained(files.bert)).bfloat16().eval()
    sources = [torch.tensor([2, 7, 8, 9, 3]), torch.tensor([2, 11, 3])]

    def found() -> list[Any]:
        drawn = torch.Generator().manual_seed(1) if "do_sample" in options else None
        return sorted(stream(model, enumerate(sources), Generation(max_length=8, **options), generator=drawn))

    expected = found()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert found() == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_padding_token_below_zero_is_none(files: tiny.Files) -> None:
    """As configs of older llamas have it."""
    torch.manual_seed(0)
    model = searches.sharpen(compose(None, files.llama))
    texts, options = searches.sources([5, 3]), Generation(max_length=6)
    expected = generate(model, batch_of(texts), options)
    model.config.decoder.pad_token_id = -1
    assert model.source_pad_id == 0 and generate(model, batch_of(texts), options) == expected
