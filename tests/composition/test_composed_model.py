"""What both kinds of composed model answer, so that nobody asks which of them a model is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from composed import composed
from transformers import EncoderDecoderConfig, EncoderDecoderModel

import encdec_lightning
from encdec_lightning import EncoderDecoder, Generation, Seq2SeqModule, Task, Tokenizers, UserError
from encdec_lightning.composition.architectures import ARCHITECTURES, depth, key_width
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.generation.generate import streamer


def test_an_encoder_decoder(files):
    model = composed(files, "roberta", "gpt2")
    assert isinstance(model, ComposedModel) and not model.reads_prefix and not model.composition.reads_prefix
    assert model.sides == {"encoder": model.encoder, "decoder": model.decoder}
    assert model.source_config is model.config.encoder
    assert model.source_pad_id == model.config.encoder.pad_token_id != 0
    assert model.packs and not model.mixes_dtypes


def test_a_decoder_alone(files):
    model = encdec_lightning.compose(None, files.gpt2)
    assert isinstance(model, ComposedModel) and model.reads_prefix and model.composition.reads_prefix
    assert model.sides == {"decoder": model.decoder}
    assert model.source_config is model.config.decoder and model.config.decoder.pad_token_id is None
    assert model.source_pad_id == 0
    assert not model.packs and not model.mixes_dtypes


@pytest.mark.parametrize(("role", "family"), [
    (role, name) for name, each in ARCHITECTURES.items() for role, able in (("decoder", each.decodes), ("prefix", each.prefixes)) if able
])  # fmt: skip
def test_the_width_of_the_keys_is_what_the_cache_holds(probe, role, family):
    model = probe(role, family)
    ids = {"input_ids": model.dummy_inputs["input_ids"][:1, :2] * 0 + 7}
    cache = model(**ids, decoder_input_ids=ids["input_ids"], use_cache=True).past_key_values
    layers = getattr(cache, "self_attention_cache", cache).layers
    assert len(layers) == depth(model.config.decoder)
    for layer in layers:
        assert layer.keys.shape[1] * layer.keys.shape[3] <= key_width(model.config.decoder)
        assert layer.values.shape[1] * layer.values.shape[3] <= key_width(model.config.decoder)


def asks_for_the_kind(file: Path) -> list[str]:
    """Calls that look whether a model, or its config, has an encoder."""
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    found = [ast.unparse(call) for call in calls if ast.unparse(call.func) in ("hasattr", "getattr", "isinstance")]
    return [call for call in found if call.endswith(("'encoder')", "EncoderDecoder)", "PrefixDecoder)"))]


def test_nobody_asks_which_kind_a_model_is():
    house = Path(encdec_lightning.__file__).parent
    found = {file.name: asked for file in house.rglob("*.py") if (asked := asks_for_the_kind(file))}
    assert found == {}


def test_a_stock_model_is_refused_in_one_sentence(files):
    stock = EncoderDecoderModel.from_encoder_decoder_pretrained(files.bert, files.bert)
    with pytest.raises(UserError, match=r"model is 'EncoderDecoderModel': it must be a composed model"):
        streamer(stock, Generation())
    with pytest.raises(UserError, match=r"model is 'EncoderDecoderModel': it must be a composed model"):
        Seq2SeqModule(stock, Tokenizers.from_pretrained(files.bert, files.bert), Task(train="a", validation="b"))


def test_two_models_are_put_together_as_the_stock_class_does_it(files, tmp_path):
    """A model of two sides that are in memory works, as one of a config alone, and tells what it was made of."""
    stock = EncoderDecoderModel.from_encoder_decoder_pretrained(files.bert, files.bert).eval()
    ids = torch.randint(5, 100, (2, 6))
    expected = stock(input_ids=ids, decoder_input_ids=ids).logits
    made = EncoderDecoder(encoder=stock.encoder, decoder=stock.decoder).eval()
    assert torch.equal(made(input_ids=ids, decoder_input_ids=ids).logits, expected)
    assert (made.composition.encoder, made.composition.decoder) == (files.bert, files.bert)
    made.save_pretrained(tmp_path)
    again = EncoderDecoder.from_pretrained(tmp_path)
    assert again.composition == made.composition
    assert torch.equal(again(input_ids=ids, decoder_input_ids=ids).logits, expected)
    alone = EncoderDecoder(
        EncoderDecoderConfig.from_encoder_decoder_configs(stock.encoder.config, stock.decoder.config)
    )
    assert alone(input_ids=ids, decoder_input_ids=ids).logits.shape == expected.shape


def test_two_checkpoints_are_composed_in_one_way_alone(files):
    with pytest.raises(
        UserError, match=r"encdec_lightning\.compose\(encoder, decoder\) makes a model of two checkpoints"
    ):
        EncoderDecoder.from_encoder_decoder_pretrained(files.bert, files.gpt2)
