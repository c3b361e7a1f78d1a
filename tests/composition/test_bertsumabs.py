"""Liu & Lapata's decoder: its size, and word embeddings that start as the encoder's and learn apart."""

from __future__ import annotations

import pytest
import tiny
import torch

from encdec_lightning import Tokenizers, UserErrors, check, compose
from encdec_lightning.composition.parameters import count_parameters
from encdec_lightning.launch.command_line.overrides import compose_config

UNCASED = "bert-base-uncased"
DECODER = dict(decoder_init="random", cross_attention_init="random", decoder_embeddings_init="encoder")


@pytest.fixture
def pair(files):
    return dict(encoder=files.bert, decoder=files.presumm, decoder_vocabulary=files.bert, **DECODER)


def test_it_has_the_released_models_size_without_pooler_and_output_bias():
    """PreSumm's BertSumAbs has 180,222,522: 590,592 of a pooler that nothing uses, 30,522 of an output bias."""
    config = compose_config(["task=debsum", "task.train=a", "task.validation=b", "variant=bertsumabs", "checkpoints=uncased",
                             "trainer.max_steps=1"])  # fmt: skip
    found = check(**vars(config.model))
    assert not found.problems
    counts = found.parameters.as_built
    assert counts.total == 180_222_522 - 590_592 - 30_522
    assert counts.random == 47_268_864  # of the decoder all but its word embeddings, which are a copy
    assert counts.pretrained == counts.total - counts.random and counts.shared == 0


def test_words_start_as_the_encoders_and_learn_apart(files, pair):
    model = compose(**pair, tokenizers=Tokenizers.from_pretrained(files.bert))
    words, own = model.get_input_embeddings().weight, model.decoder.get_input_embeddings().weight
    assert torch.equal(words, own) and words is not own
    assert model.decoder.get_output_embeddings().weight is own
    fresh = model.config.fresh_parameters
    names = [name for name, each in model.named_parameters() if each is own]
    assert not set(names) & set(fresh)
    assert {name for name, _ in model.named_parameters() if name.startswith("decoder.")} == {*fresh, *names}
    assert not any(name.startswith("encoder.") for name in fresh)
    assert count_parameters(model) == check(**pair).parameters
    with torch.no_grad():
        own.add_(1.0)
    assert not torch.equal(words, own)


def test_a_copy_of_random_embeddings_is_random(files, pair):
    model = compose(**{**pair, "encoder_init": "random"})
    names = [name for name, each in model.named_parameters() if each is model.decoder.get_input_embeddings().weight]
    assert set(names) <= set(model.config.fresh_parameters)
    assert torch.equal(model.get_input_embeddings().weight, model.decoder.get_input_embeddings().weight)


def test_it_survives_a_folder(files, pair, tmp_path):
    tokenizers = Tokenizers.from_pretrained(files.bert)
    model = compose(**pair, tokenizers=tokenizers).eval()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    ids = torch.tensor([[2, 7, 8, 3]])
    one, two = (each(input_ids=ids, decoder_input_ids=ids).logits for each in (model, again))
    assert torch.equal(one, two)
    assert again.composition.decoder_embeddings_init == "encoder"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights": "tied_embeddings"}, "the sides share their word embeddings already; leave it away"),
        ({"decoder_init": "pretrained"}, "the decoder has its checkpoint's; use random or layers"),
        ({"decoder_init": "embeddings"}, "the decoder has its checkpoint's; use random or layers"),
        ({"encoder": None}, "without an encoder it stays own"),
        ({"decoder_embeddings_init": "bert"}, "it must be one of own, encoder"),
    ],
)
def test_where_it_has_no_meaning_it_is_refused(pair, options, sentence):
    with pytest.raises(UserErrors) as told:
        compose(**pair | options)
    assert "decoder_embeddings_init" in str(told.value) and sentence in str(told.value)


def test_other_shapes_and_other_words_are_refused(files, pair, tmp_path):
    wide = tiny.checkpoint(tmp_path / "wide", "bert", width=64)
    (problem,) = check(**{**pair, "encoder": wide}).problems
    assert problem.field == "decoder_embeddings_init" and "(" in str(problem) and "use own" in str(problem)
    model = compose(**pair)
    swapped = Tokenizers.from_pretrained(files.roberta)
    with pytest.raises(UserErrors, match="start with the same word embeddings"):
        Tokenizers(Tokenizers.from_pretrained(files.bert).source, swapped.source).configure(model)
