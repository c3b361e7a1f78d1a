"""A decoder alone: against the plain language model on one row without padding, the slow and obvious way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from encdec_lightning.composition.assembly import rebuild
from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.prefix import PrefixDecoder
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.errors import UserError, UserErrors


@pytest.fixture(scope="module")
def model(files):
    torch.manual_seed(0)
    tokenizers = Tokenizers.from_pretrained(files.gpt2)
    return compose(None, files.gpt2, tokenizers=tokenizers).eval()


@pytest.fixture(scope="module")
def plain(files):
    return AutoModelForCausalLM.from_pretrained(files.gpt2)


def padded(lengths: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 320, (len(lengths), max(lengths)), generator=draw)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids, mask


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5), target=st.integers(1, 10), seed=st.integers(0, 99))
def test_logits_are_those_of_the_language_model_after_the_source(model, plain, lengths, target, seed):
    ids, mask = padded(lengths, seed)
    targets = torch.randint(1, 320, (len(lengths), target), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask, decoder_input_ids=targets).logits
        for row, length in enumerate(lengths):
            alone = plain(torch.cat([ids[row, :length], targets[row]])[None]).logits[0, length:]
            assert (found[row] - alone).abs().max() < 1e-5


def obvious(plain, ids: torch.Tensor, start: int, steps: int, ngram: int = 0) -> list[int]:
    """Greedy search without a cache; an n-gram of the target is never repeated, whatever the source holds."""
    written = [start]
    for _ in range(steps):
        with torch.no_grad():
            scores = plain(torch.cat([ids, torch.tensor(written)])[None]).logits[0, -1]
        if ngram:
            seen = [tuple(written[i : i + ngram]) for i in range(len(written) - ngram + 1)]
            for word in range(scores.shape[0]):
                if (*written[len(written) - ngram + 1 :], word) in seen:
                    scores[word] = -torch.inf
        written.append(int(scores.argmax()))
    return written


@pytest.mark.parametrize("ngram", [0, 2])
def test_greedy_generation_is_the_obvious_one(model, plain, ngram):
    lengths = [9, 3, 14]
    ids, mask = padded(lengths, 3)
    found = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=8, min_new_tokens=8, do_sample=False, no_repeat_ngram_size=ngram,
        eos_token_id=None,
    )  # fmt: skip
    for row, length in enumerate(lengths):
        assert found[row].tolist() == obvious(plain, ids[row, :length], model.config.decoder_start_token_id, 8, ngram)


def test_a_beam_is_no_worse_than_greedy_and_its_score_is_the_models(model, plain):
    lengths = [9, 3, 14]
    ids, mask = padded(lengths, 4)
    common = dict(input_ids=ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, eos_token_id=None)
    greedy = model.generate(**common, do_sample=False)
    beam = model.generate(**common, do_sample=False, num_beams=5, length_penalty=0.0, output_scores=True,
                          return_dict_in_generate=True)  # fmt: skip

    def score(row: int, sequence: torch.Tensor) -> float:
        whole = torch.cat([ids[row, : lengths[row]], sequence])[None]
        with torch.no_grad():
            logs = plain(whole).logits[0].log_softmax(-1)
        at = torch.arange(lengths[row], whole.shape[1] - 1)
        return float(logs[at, whole[0, 1:][at]].sum())

    for row in range(3):
        assert beam.sequences_scores[row] == pytest.approx(score(row, beam.sequences[row]), abs=1e-4)
        assert score(row, beam.sequences[row]) >= score(row, greedy[row]) - 1e-5


def test_it_exports_a_plain_gpt2(files, model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("gpt2", ["GPT2LMHeadModel"])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(plain).__name__ == "GPT2LMHeadModel"
    assert plain.generation_config.pad_token_id == model.generation_config.pad_token_id is not None
    expected = model.decoder.state_dict()
    assert expected.keys() == plain.state_dict().keys()
    assert all(torch.equal(value, expected[name]) for name, value in plain.state_dict().items())


def test_it_comes_back_with_its_special_tokens_and_its_composition(files, model, tmp_path):
    model.save_pretrained(tmp_path)
    again = PrefixDecoder.from_pretrained(tmp_path)
    assert again.composition == model.composition
    assert again.config.fresh_parameters == model.config.fresh_parameters == []
    for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(again.generation_config, name) == getattr(model.generation_config, name) is not None
        assert getattr(again.config, name) == getattr(model.config, name)
    ids, mask = padded([5, 9], 1)
    arguments = dict(input_ids=ids, attention_mask=mask, max_new_tokens=5, do_sample=False)
    assert torch.equal(again.generate(**arguments), model.generate(**arguments))


def test_any_language_model_can_be_opened(files):
    opened = PrefixDecoder.from_pretrained(files.gpt2)
    assert opened.composition.encoder is None and not opened.training


def test_the_rebuilt_model_has_the_same_parameters(model):
    again = rebuild(model.config.to_dict())
    again.load_state_dict(model.state_dict())
    again.eval()
    ids, mask = padded([5, 9], 1)
    with torch.no_grad():
        pair = [each(input_ids=ids, attention_mask=mask, decoder_input_ids=ids).logits for each in (again, model)]
    assert torch.equal(*pair)


def test_the_gradient_is_the_language_models(model, plain):
    ids, mask = padded([7], 2)
    targets = torch.randint(1, 320, (1, 5))
    model.zero_grad()
    model(input_ids=ids, attention_mask=mask, decoder_input_ids=targets).logits.square().sum().backward()
    plain(torch.cat([ids, targets], dim=1)).logits[:, 7:].square().sum().backward()
    for name, parameter in plain.named_parameters():
        own = model.decoder.get_parameter(name).grad
        assert torch.allclose(own, parameter.grad, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"weights": "tied"}, "weights"),
        ({"encoder_init": "random"}, "encoder_init"),
        ({"encoder_layers": 1}, "encoder_layers"),
        ({"encoder_vocabulary": "x"}, "encoder_vocabulary"),
        ({"encoder_bidirectional": True}, "encoder_bidirectional"),
    ],
)
def test_what_needs_an_encoder_is_refused(files, options, field):
    with pytest.raises(UserErrors, match=f"{field} is .*: without an encoder it stays"):
        compose(None, files.gpt2, **options)


def test_a_family_that_cannot_stand_alone(files):
    with pytest.raises(UserErrors, match="bert cannot stand alone, gpt2, gpt-sw3, bloom"):
        compose(None, files.bert)


def test_a_folder_that_lacks_tensors_is_refused(files, model, tmp_path):
    from safetensors.torch import load_file, save_file

    model.save_pretrained(tmp_path)
    file = Path(tmp_path) / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("transformer.h.0.ln_1.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="it lacks 1 tensors, such as transformer"):
        PrefixDecoder.from_pretrained(tmp_path)


def test_its_tokenizer_has_no_padding_and_pads_with_the_end(files):
    tokenizers = Tokenizers.from_pretrained(files.gpt2)
    assert AutoTokenizer.from_pretrained(files.gpt2).pad_token_id is None
    assert tokenizers.pad_id == tokenizers.end_id == tokenizers.start_id == 0
