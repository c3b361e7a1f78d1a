"""Parts of checkpoints: some layers, embeddings only, layers only, another vocabulary."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tiny
import torch
from composed import every_scheme, logits
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from encdec_lightning.composition.compatibility import check
from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.sides.cross_attention import is_cross_attention
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.errors import UserErrors

DEPTH = 5
FAMILIES = ("bert", "roberta", "gpt2")


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Checkpoints with more layers."""
    folder = tmp_path_factory.mktemp("deep")
    return {family: tiny.checkpoint(folder / family, family, layers=DEPTH) for family in FAMILIES}


def problem(*arguments, **options) -> str:
    answer = check(*arguments, **options)
    assert not answer.ok
    return "\n".join(map(str, answer.problems))


@pytest.mark.parametrize(
    ("layers", "chosen"), [(2, [0, 1]), ([1, 2], [0, 1]), ([2, 5], [1, 4]), ([4, 1, 3], [3, 0, 2])]
)
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_chosen_layers_of_the_encoder_are_the_checkpoints(files, deep, family, layers, chosen):
    """The slow way: the whole checkpoint with all other layers taken out."""
    model = compose(deep[family], files.gpt2, encoder_layers=layers).eval()
    whole = AutoModel.from_pretrained(deep[family], add_pooling_layer=False).eval()
    whole.encoder.layer = torch.nn.ModuleList(whole.encoder.layer[number] for number in chosen)
    ids = torch.randint(5, 100, (2, 7))
    with torch.no_grad():
        assert torch.equal(model.encoder(ids).last_hidden_state, whole(ids).last_hidden_state)
    assert model.config.encoder.num_hidden_layers == len(chosen)
    assert not any(name.startswith("encoder.") for name in model.config.fresh_parameters)


@pytest.mark.parametrize("family", FAMILIES)
def test_chosen_layers_of_the_decoder_are_the_checkpoints(files, deep, family):
    torch.manual_seed(0)
    model = compose(files.bert, deep[family], decoder_layers=[2, 5])
    whole = AutoModelForCausalLM.from_pretrained(deep[family])
    renamed = {name: re.sub(r"\.(\d+)\.", lambda m: f".{[1, 4][int(m[1])]}.", name, count=1) for name, _ in
               model.decoder.named_parameters()}  # fmt: skip
    compared = 0
    for name, own in model.decoder.named_parameters():
        if not is_cross_attention(name) and not name.startswith(("cls.", "lm_head.")):
            assert torch.equal(own, whole.get_parameter(renamed[name])), name
            compared += 1
    assert compared > 20
    assert any("1.crossattention" in name for name in model.config.fresh_parameters)
    with torch.no_grad():  # each layer knows its own number in the cache
        cached = model.eval().generate(
            torch.ones(1, 4, dtype=int), max_new_tokens=5, decoder_start_token_id=1, pad_token_id=0
        )
    assert cached.shape[1] > 1


def test_chosen_layers_are_shared_when_tied(deep):
    assert check(deep["bert"], deep["bert"], "tied", encoder_layers=5).ok  # which is all of them
    model = compose(deep["bert"], deep["bert"], "tied", encoder_layers=[2, 5], decoder_layers=[2, 5])
    first = AutoModel.from_pretrained(deep["bert"])
    own = model.encoder.encoder.layer[1].output.dense.weight
    assert own is model.decoder.bert.encoder.layer[1].output.dense.weight
    assert torch.equal(own, first.encoder.layer[4].output.dense.weight)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"encoder_layers": 6}, "encoder_layers is 6: .* has 5 layers."),
        ({"decoder_layers": [1, 7]}, r"decoder_layers is \[1, 7\]: .* has 5 layers."),
        ({"encoder_layers": 0}, "encoder_layers is 0: it must be a number of layers, or a list"),
        ({"encoder_layers": []}, r"encoder_layers is \[\]: it must be a number"),
        ({"encoder_layers": [1, 1]}, r"encoder_layers is \[1, 1\]: it must be"),
        ({"encoder_layers": [0, 1]}, r"encoder_layers is \[0, 1\]: it must be"),
        (
            {"encoder_layers": 2, "weights": "tied"},
            "the encoder has layers 1 to 2, the decoder 1 to 5; choose the same",
        ),
    ],
)
def test_layers_that_are_not_there(deep, options, sentence):
    assert re.search(sentence, problem(deep["bert"], deep["bert"], **options))


def test_a_family_whose_layers_are_one_cannot_have_them_chosen(files, tmp_path):
    albert = tiny.family_checkpoint(tmp_path / "albert", "albert")
    assert "the layers of albert are not alike" in problem(albert, files.bert, encoder_layers=[2])


@every_scheme
@pytest.mark.parametrize("init", ["embeddings", "layers"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_embeddings_or_layers_only(files, family, init, weights):
    torch.manual_seed(0)
    folder = getattr(files, family)
    model = compose(folder, folder, weights, encoder_init=init, decoder_init=init)
    stored = AutoModel.from_pretrained(folder)
    fresh = set(model.config.fresh_parameters)
    for name, own in model.encoder.named_parameters():
        wanted = name.startswith("embeddings.") == (init == "embeddings")
        assert torch.equal(own, stored.get_parameter(name)) == wanted, name
        assert (f"encoder.{name}" in fresh) != wanted
    head = model.decoder.get_output_embeddings().weight
    assert head is model.decoder.get_input_embeddings().weight
    assert torch.equal(head, stored.get_input_embeddings().weight) == (init == "embeddings")
    answer = check(folder, folder, weights, encoder_init=init, decoder_init=init)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert answer.parameters.as_built.random == sum(sizes[name] for name in fresh)


def test_a_side_with_embeddings_gives_them_to_a_side_without(files, tmp_path):
    other = tiny.checkpoint(tmp_path / "other", "bert", seed=9)
    model = compose(files.bert, other, "tied", encoder_init="layers", decoder_init="embeddings")
    words = AutoModel.from_pretrained(other).get_input_embeddings().weight
    assert torch.equal(model.encoder.get_input_embeddings().weight, words)
    layer = AutoModel.from_pretrained(files.bert).encoder.layer[0].output.dense.weight
    assert torch.equal(model.decoder.bert.encoder.layer[0].output.dense.weight, layer)
    fresh = model.config.fresh_parameters
    assert all(is_cross_attention(name) or name.startswith("decoder.cls.") for name in fresh) and fresh


@pytest.fixture(scope="module")
def vocabulary(files, tmp_path_factory):
    """A tokenizer for the task, a folder of it alone."""
    folder = tmp_path_factory.mktemp("vocabulary")
    tokenizer = AutoTokenizer.from_pretrained(files.bert).train_new_from_iterator(tiny.corpus(), vocab_size=90)
    tokenizer.save_pretrained(folder)
    return str(folder), len(tokenizer)


@every_scheme
def test_a_new_vocabulary_has_fresh_word_embeddings_and_nothing_else_fresh(files, vocabulary, weights):
    folder, size = vocabulary
    tokenizers = Tokenizers.from_pretrained(folder)
    options = dict(encoder_vocabulary=folder, decoder_vocabulary=folder)
    model = compose(files.bert, files.bert, weights, **options, tokenizers=tokenizers)
    assert model.config.encoder.vocab_size == model.config.decoder.vocab_size == size != 123
    assert model.encoder.get_input_embeddings().weight.shape[0] == size
    assert model.decoder.get_output_embeddings().weight is model.decoder.get_input_embeddings().weight
    fresh = {name for name in model.config.fresh_parameters if not is_cross_attention(name)}
    words = {"encoder.embeddings.word_embeddings.weight", "decoder.bert.embeddings.word_embeddings.weight"}
    assert {name for name in fresh if "cls." not in name} == words & {name for name, _ in model.named_parameters()}
    stored = AutoModel.from_pretrained(files.bert)
    positions = "embeddings.position_embeddings.weight"
    assert torch.equal(model.encoder.get_parameter(positions), stored.get_parameter(positions))
    assert logits(model.eval()).shape[-1] == size


def test_a_vocabulary_of_the_other_side_is_shared_with_it(files):
    """RND2GPT: an encoder at random, in bert's architecture, that reads gpt2's words."""
    options = dict(encoder_init="random", encoder_vocabulary=files.gpt2)
    tokenizers = Tokenizers.from_pretrained(files.gpt2)
    model = compose(files.bert, files.gpt2, "tied_embeddings", **options, tokenizers=tokenizers)
    words = AutoModelForCausalLM.from_pretrained(files.gpt2).transformer.wte.weight
    assert torch.equal(model.encoder.embeddings.word_embeddings.weight, words)
    assert model.encoder.embeddings.word_embeddings.weight is model.decoder.lm_head.weight
    assert model.encoder.embeddings.word_embeddings.padding_idx is None  # gpt2 has no padding token to leave out
    assert "encoder.embeddings.word_embeddings.weight" not in model.config.fresh_parameters
    model(input_ids=torch.zeros(1, 3, dtype=int), decoder_input_ids=torch.ones(1, 2, dtype=int)).logits.sum().backward()
    assert model.encoder.embeddings.word_embeddings.weight.grad[0].abs().sum() > 0


def test_a_family_that_counts_positions_from_padding_needs_it_in_its_place(files, vocabulary):
    sentence = problem(files.roberta, files.bert, encoder_vocabulary=vocabulary[0])
    assert (
        "a roberta counts positions from its padding token, so this vocabulary must have padding as token 1" in sentence
    )
    assert "must have padding as token 1" in problem(files.roberta, files.bert, encoder_vocabulary=files.gpt2)


def test_a_vocabulary_that_is_not_there(files, tmp_path):
    expected = "the folder holds neither a config.json nor a tokenizer"
    assert expected in problem(files.bert, files.bert, encoder_vocabulary=str(tmp_path))


def test_the_vocabulary_of_an_export_is_its_tokenizers(files, vocabulary, tmp_path):
    tokenizers = Tokenizers.from_pretrained(vocabulary[0])
    options = dict(encoder_vocabulary=vocabulary[0], decoder_vocabulary=vocabulary[0])
    compose(files.bert, files.bert, **options, tokenizers=tokenizers).save_pretrained(tmp_path)
    tokenizers.save_pretrained(tmp_path)
    assert compose(files.bert, files.bert, encoder_vocabulary=str(tmp_path)).config.encoder.vocab_size == vocabulary[1]


def test_a_vocabulary_without_words(files, tmp_path):
    config = json.loads((Path(files.bert) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 0}))
    assert problem(files.bert, files.bert, encoder_vocabulary=str(tmp_path)) == (
        f"encoder_vocabulary is {str(tmp_path)!r}: its config.json says 0 words, it must be at least 1."
    )


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_tokenizer_with_words_beyond_the_vocabulary_is_refused(files, side):
    wide = {"encoder": ("roberta", "bert"), "decoder": ("bert", "roberta")}[side]
    tokenizers = Tokenizers.from_pretrained(*(getattr(files, family) for family in wide))
    with pytest.raises(UserErrors, match=f"the {side}'s vocabulary has 123 words"):
        compose(files.bert, files.bert, tokenizers=tokenizers)


def test_shared_embeddings_need_one_vocabulary(files):
    tokenizers = Tokenizers.from_pretrained(files.roberta, files.gpt2)
    with pytest.raises(UserErrors, match=r"the sides share their word embeddings, but .* has other words"):
        compose(files.roberta, files.gpt2, "tied_embeddings", tokenizers=tokenizers)


@pytest.mark.parametrize("layers", ["1", 1.0, ["1"], [1.5], [1, 1], [], [[1]], (1, 2), 0])
def test_what_is_no_choice_of_layers_is_refused(files, layers):
    assert "it must be a number of layers, or a list of different ones" in problem(
        files.bert, files.bert, encoder_layers=layers
    )


def test_folders_may_be_paths(files):
    assert check(Path(files.bert), Path(files.gpt2)).ok
    composition = compose(Path(files.bert), Path(files.gpt2), decoder_vocabulary=Path(files.gpt2)).composition
    assert (composition.encoder, composition.decoder) == (files.bert, files.gpt2)
    assert composition.decoder_vocabulary == files.gpt2


def test_a_tokenizer_that_is_written_anew_has_its_new_size(files, tmp_path):
    tokenizer = tiny.wordpiece()
    tokenizer.save_pretrained(tmp_path)
    sizes = []
    for words in (["one"], ["two", "three"]):
        tokenizer.add_tokens(words)
        tokenizer.save_pretrained(tmp_path)
        sizes.append(compose(files.bert, files.bert, decoder_vocabulary=str(tmp_path)).config.decoder.vocab_size)
    assert sizes == [len(tokenizer) - 2, len(tokenizer)]
