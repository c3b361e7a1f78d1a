"""What a checkpoint's config.json chooses beside sizes: models obey it, their role overrides it, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from encdec_lightning.composition.compatibility import check
from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.prefix import PrefixDecoder
from encdec_lightning.errors import UserError, UserErrors

SOURCE = torch.randint(5, 100, (2, 30), generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(5, 100, (2, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """(family, its settings) -> a checkpoint with them."""

    def made(family: str, **settings: object) -> str:
        monkeypatch.setitem(tiny.PECULIAR, family, {**tiny.PECULIAR.get(family, {}), **settings})
        return tiny.family_checkpoint(tmp_path / family, family)

    return made


def say(checkpoint: str, **settings: object) -> str:
    """Write settings into a config.json, where its class would not take them."""
    file = Path(checkpoint) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}), encoding="utf-8")
    return checkpoint


@torch.no_grad()
def logits(model, target: torch.Tensor = TARGET) -> torch.Tensor:
    return model.eval()(input_ids=SOURCE, decoder_input_ids=target).logits


def sees_later_tokens(model) -> bool:
    changed = TARGET.clone()
    changed[:, -1] = 101
    return not torch.allclose(logits(model)[:, :-1], logits(model, changed)[:, :-1], atol=1e-5)


def test_a_decoder_from_a_saved_bidirectional_encoder_is_causal(files, tmp_path):
    bidirectional = compose(files.llama, files.llama, encoder_bidirectional=True).encoder
    causal = AutoModelForCausalLM.from_pretrained(files.llama)
    causal.config.is_causal = bidirectional.config.is_causal
    causal.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["is_causal"] is False
    checkpoint = str(tmp_path)
    for model in (
        compose(checkpoint, checkpoint, weights="tied"),
        compose(files.bert, checkpoint),
        PrefixDecoder.from_pretrained(checkpoint, dtype=torch.float32),
        compose(None, checkpoint),
    ):
        assert not sees_later_tokens(model)
        assert model.config.decoder.is_causal is True
    assert model.config.to_dict()["decoder"]["is_causal"] is True  # when it is opened again too
    assert compose(checkpoint, files.gpt2).config.encoder.is_causal is False


def test_an_embedding_gemma_as_a_decoder_is_a_causal_gemma(files, folder):
    sizes = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    checkpoint = folder("gemma3_text", use_bidirectional_attention=True, **sizes)
    alone = compose(None, checkpoint)
    assert not sees_later_tokens(compose(files.bert, checkpoint)) and not sees_later_tokens(alone)
    plain = AutoModelForCausalLM.from_pretrained(say(checkpoint, use_bidirectional_attention=False)).eval()
    assert plain.config.sliding_window == alone.config.decoder.sliding_window == 8
    with torch.no_grad():
        expected = plain(torch.cat([SOURCE, TARGET], dim=1)).logits[:, SOURCE.shape[1] :]
    torch.testing.assert_close(logits(alone), expected)


@pytest.mark.parametrize("asked", [False, True])
def test_an_embedding_gemma_as_an_encoder_sees_what_it_always_saw(files, folder, tmp_path, asked):
    checkpoint = folder("gemma3_text", use_bidirectional_attention=True, sliding_window=8)
    plain = AutoModel.from_pretrained(checkpoint).eval()
    model = compose(checkpoint, files.gpt2, encoder_bidirectional=asked).eval()
    model.save_pretrained(tmp_path / "saved")
    mask = (torch.arange(30) < torch.tensor([[30], [20]])).long()
    with torch.no_grad():
        expected = plain(SOURCE, attention_mask=mask).last_hidden_state
        for each in (model, type(model).from_pretrained(tmp_path / "saved")):
            found = each.encoder(SOURCE, attention_mask=mask).last_hidden_state
            torch.testing.assert_close(found[mask > 0], expected[mask > 0])


@pytest.mark.parametrize("family", ["xlm", "flaubert"])
def test_a_causal_mask_that_a_config_chooses_is_taken_off_or_refused(files, folder, family):
    checkpoint = folder(family, causal=True)
    (problem,) = check(checkpoint, files.bert).problems
    assert f"{family} reads left to right only; encoder_bidirectional=true takes its causal mask off" in str(problem)
    model = compose(checkpoint, files.bert, encoder_bidirectional=True).eval()
    plain = AutoModel.from_pretrained(say(checkpoint, causal=False)).eval()
    with torch.no_grad():
        states = [each(SOURCE).last_hidden_state for each in (model.encoder, plain)]
    torch.testing.assert_close(*states)
    (problem,) = check(checkpoint, files.bert, encoder_bidirectional=True).problems
    assert f"{family} has no causal mask to take off" in str(problem)


def test_a_family_that_reads_its_padding_needs_some(files, folder):
    checkpoint = folder("mobilebert")
    with pytest.raises(UserErrors, match=r"encoder_vocabulary is .*must have a padding token"):
        compose(checkpoint, files.bert, encoder_vocabulary=files.gpt2)
    words = compose(checkpoint, files.bert, encoder_vocabulary=files.bert).get_input_embeddings().weight
    assert (words.abs().sum(dim=1) == 0).nonzero().tolist() == [[0]]


def test_marian_with_another_vocabulary(files, folder):
    checkpoint = folder("marian")
    for vocabulary, size in ((files.bert, 123), (folder("xglm", vocab_size=400), 400)):
        model = compose(files.bert, checkpoint, decoder_vocabulary=vocabulary)
        config, head = model.config.decoder, model.decoder.get_output_embeddings()
        assert config.vocab_size == config.decoder_vocab_size == len(head.weight) == size
        assert logits(model, torch.full((2, 3), size - 1)).shape == (2, 3, size)


@pytest.mark.parametrize("family", ["bart", "blenderbot", "marian", "pegasus"])
def test_decoders_that_are_deeper_than_the_encoders_they_had(files, folder, family):
    model = compose(files.bert, folder(family, encoder_layers=1, decoder_layers=3))
    whole = logits(model)
    with torch.no_grad():
        first = model(input_ids=SOURCE, decoder_input_ids=TARGET[:, :5], use_cache=True)
        rest = model(
            encoder_outputs=(first.encoder_last_hidden_state,),
            decoder_input_ids=TARGET[:, 5:],
            past_key_values=first.past_key_values,
        )
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], dim=1), whole)
    chosen = compose(files.bert, folder(family, encoder_layers=3, decoder_layers=2), decoder_layers=1)
    assert len(chosen.decoder.model.decoder.layers) == 1


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_positions_that_transformers_reads_no_longer(files, folder, kind):
    checkpoint = say(folder("bert"), position_embedding_type=kind)
    for pair in ((checkpoint, files.gpt2), (files.bert, checkpoint)):
        (problem,) = check(*pair).problems
        assert f"its config.json says position_embedding_type {kind}" in str(problem)
    assert check(say(checkpoint, position_embedding_type="absolute"), files.gpt2).ok


@pytest.mark.parametrize("role", ["encoder", "decoder", "alone"])
def test_biases_that_the_config_has_no_place_for(files, folder, role):
    checkpoint = say(folder("llama", attention_bias=True), attention_bias=False)
    arguments = {
        "encoder": dict(encoder=checkpoint, decoder=files.bert, encoder_bidirectional=True),
        "decoder": dict(encoder=files.bert, decoder=checkpoint),
        "alone": dict(encoder=None, decoder=checkpoint),
    }[role]
    with pytest.raises(UserError, match=r"biases for which its config\.json has no place, such as .*k_proj\.bias"):
        compose(**arguments)


def test_what_checkpoints_have_beside_their_base_is_passed_over(files, folder):
    """Heads, poolers, and buffers that older versions of transformers saved."""
    checkpoint = folder("gpt2")
    file = Path(checkpoint) / "model.safetensors"
    more = {f"transformer.h.0.attn.{name}": torch.zeros(1) for name in ("bias", "masked_bias")}
    more |= {"lm_head.bias": torch.zeros(1), "score.weight": torch.zeros(1), "score.bias": torch.zeros(1)}
    save_file({**load_file(file), **more}, file, metadata={"format": "pt"})
    compose(checkpoint, files.bert, encoder_bidirectional=True)
    compose(files.bert, checkpoint)
