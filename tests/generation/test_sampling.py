from __future__ import annotations

import pytest
import searches
import tiny
import torch

from encdec_lightning import Generation, compose
from encdec_lightning.generation.sampling import cut_to_nucleus


@pytest.fixture(scope="module")
def model(files: tiny.Files):
    torch.manual_seed(0)
    return searches.sharpen(compose(files.bert, files.bert), 2.0)


def sample(model, options, seed=0, count=1, length=6):
    generator = torch.Generator().manual_seed(seed)
    return searches.ours(model, searches.sources([9, 5] * count), options, length, places=300, generator=generator)


def test_a_generator_decides_alone(model):
    options = Generation(do_sample=True, num_return_sequences=3)
    before = torch.get_rng_state()
    first, again, other = sample(model, options), sample(model, options), sample(model, options, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again != other
    assert all(len(each) == 3 for each in first)


def test_without_a_generator_torchs_own_decides(model):
    options = Generation(do_sample=True)
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(searches.ours(model, searches.sources([9, 5]), options, 6))
    assert found[0] == found[1] != searches.ours(model, searches.sources([9, 5]), options, 6)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 4},
        {"top_p": 0.7},
        {"top_k": 6, "top_p": 0.6, "temperature": 1.5},
        {"top_k": 10_000},  # more than there are words
        {"top_k": 10_000, "top_p": 0.7},
    ],
)
def test_first_tokens_come_as_often_as_transformers_processors_say(model, more):
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    (text,) = searches.sources([9])
    options = Generation(do_sample=True, num_return_sequences=4000, min_length=1, **more)
    engine_draws = searches.ours(model, [text], options, 1, places=1, generator=torch.Generator().manual_seed(0))[0]
    with torch.no_grad():
        logits = model(input_ids=text[None], decoder_input_ids=torch.tensor([[searches.START]])).logits[:, -1]
    logits[:, searches.END] = -torch.inf
    made = [TemperatureLogitsWarper(options.temperature)]
    made += [TopKLogitsWarper(options.top_k)] if options.top_k else []
    made += [TopPLogitsWarper(options.top_p)] if options.top_p < 1 else []
    for each in made:
        logits = each(None, logits)
    expected = logits.softmax(-1)[0]
    counted = torch.bincount(torch.tensor([each.tokens[0] for each in engine_draws]), minlength=len(expected)) / 4000
    assert (counted[expected == 0] == 0).all()
    assert (counted - expected).abs().max() < 0.035


def test_scores_are_the_sum_of_log_probabilities(model):
    texts = searches.sources([9, 5])
    for options in (Generation(), Generation(do_sample=True, top_k=3)):
        for (best,), text in zip(searches.ours(model, texts, options, 6), texts, strict=True):
            ids = torch.tensor([[searches.START, *best.tokens]])
            with torch.no_grad():
                logs = model(input_ids=text[None], decoder_input_ids=ids[:, :-1]).logits.log_softmax(-1)
            assert abs(logs[0].gather(1, ids[0, 1:, None]).sum().item() - best.score) < 1e-4


def test_a_nucleus_by_hand():
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    assert torch.isfinite(cut_to_nucleus(logits, 0.74)).tolist() == [[False, True, False, True]]
    assert torch.isfinite(cut_to_nucleus(logits, 0.4)).tolist() == [[False, True, False, False]]
    assert torch.isfinite(cut_to_nucleus(logits, 0.8)).tolist() == [[False, True, True, True]]
