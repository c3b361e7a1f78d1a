"""`check`: the answer before any weight is loaded."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
from composed import ENCODERS, INITS, PAIRS, WEIGHTS, composed
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from encdec_lightning.composition.compatibility import check
from encdec_lightning.errors import UserErrors


def problem(*arguments: object, **more: object) -> str:
    """The one sentence of the one problem."""
    answer = check(*arguments, **more)
    assert not answer.ok
    (sentence,) = map(str, answer.problems)
    assert "\n" not in sentence and sentence.endswith(".")
    assert (answer.pretrained, answer.random, answer.shared) == (0, 0, 0)
    return sentence


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    pair=st.sampled_from(PAIRS),
    weights=st.sampled_from(WEIGHTS),
    inits=st.tuples(st.sampled_from(INITS), st.sampled_from(INITS)),
    cross=st.sampled_from(["random", "self_attention"]),
)
@example(pair=("bert", "bert"), weights="tied", inits=("pretrained", "random"), cross="self_attention")
@example(pair=("bert", "bert"), weights="untied", inits=("pretrained", "random"), cross="self_attention")
@example(pair=("roberta", "gpt2"), weights="tied_embeddings", inits=("random", "pretrained"), cross="random")
def test_check_says_what_compose_does(files, pair, weights, inits, cross):
    options = dict(encoder_init=inits[0], decoder_init=inits[1], cross_attention_init=cross)
    answer = check(getattr(files, pair[0]), getattr(files, pair[1]), weights, **options)
    try:
        model = composed(files, *pair, weights, **options)
    except UserErrors as error:
        assert answer.problems and str(error) == "\n".join(map(str, answer.problems))
        return
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    fresh = sum(sizes[name] for name in model.config.fresh_parameters)
    assert answer.ok
    assert (answer.pretrained, answer.random) == (sum(sizes.values()) - fresh, fresh)
    assert answer.shared == sum(sizes[source] for source in set(model.shared.values()))


def test_no_weights_are_read(files, tmp_path):
    shutil.copy(Path(files.bert) / "config.json", tmp_path)
    assert check(str(tmp_path), str(tmp_path), "tied").ok


@pytest.mark.parametrize("checkpoint", ["nobody/nothing", "a/b/c", "nowhere", "../nowhere"])
def test_unknown_checkpoints(files, checkpoint):
    expected = "it is neither a folder with a config.json nor a checkpoint of the Hub"
    assert problem(checkpoint, files.bert).startswith(f"encoder is {checkpoint!r}: {expected}")
    assert problem(files.bert, checkpoint).startswith(f"decoder is {checkpoint!r}: {expected}")


def test_a_folder_without_a_config(files, tmp_path):
    assert problem(str(tmp_path), files.bert) == f"encoder is {str(tmp_path)!r}: the folder holds no config.json."


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "bertt"}'])
def test_a_config_that_cannot_be_read(files, tmp_path, content):
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "config.json").write_text(content)
    assert "transformers cannot read its config.json or does not know its family" in problem(files.bert, str(folder))


def test_unknown_families(files, tmp_path):
    config = json.loads((Path(files.bert) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "distilbert"}))
    assert problem(str(tmp_path), files.bert).endswith(
        "its family 'distilbert' cannot be the encoder, bert, roberta can."
    )
    expected = "its family 'distilbert' cannot be the decoder, bert, roberta, gpt2 can."
    assert problem(files.bert, str(tmp_path)).endswith(expected)


def test_both_sides_problems_are_told_at_once(files, tmp_path):
    config = json.loads((Path(files.bert) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "distilbert"}))
    assert [one.field for one in check(files.gpt2, str(tmp_path)).problems] == ["encoder", "decoder"]


@pytest.mark.parametrize("decoder", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_gpt2_cannot_encode(files, decoder, weights):
    expected = "gpt2 reads left to right only, an encoder is one of bert, roberta."
    assert problem(files.gpt2, getattr(files, decoder), weights).endswith(expected)


@pytest.mark.parametrize(("encoder", "decoder"), [pair for pair in PAIRS if pair[0] != pair[1]])
def test_tied_across_families(files, encoder, decoder):
    expected = f"weights is 'tied': a {encoder} encoder and a {decoder} decoder cannot share all weights, use untied."
    assert problem(getattr(files, encoder), getattr(files, decoder), "tied") == expected


@pytest.mark.parametrize("weights", ["tied", "tied_embeddings"])
@pytest.mark.parametrize("family", ENCODERS)
def test_shared_weights_of_different_widths(files, tmp_path, family, weights):
    wide = tiny.checkpoint(tmp_path / "wide", family, width=64)
    sentence = problem(wide, getattr(files, family), weights)
    assert sentence.startswith(f"weights is {weights!r}: decoder.{family}.embeddings.word_embeddings.weight has shape")
    assert sentence.endswith("; use untied.")


def test_shared_embeddings_of_different_vocabularies(files):
    assert "has shape (123, 32)" in problem(files.roberta, files.bert, "tied_embeddings")


@pytest.mark.parametrize(
    ("name", "value"), [("num_hidden_layers", 1), ("num_attention_heads", 2), ("hidden_act", "relu")]
)
def test_tied_sides_whose_layers_compute_differently(files, tmp_path, name, value):
    config = json.loads((Path(files.bert) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, name: value}))
    expected = f"the encoder's {name} is {config[name]}, the decoder's {value}; use tied_embeddings or untied."
    assert problem(files.bert, str(tmp_path), "tied") == f"weights is 'tied': {expected}"
    assert check(files.bert, str(tmp_path), "tied_embeddings").ok
    assert check(files.bert, str(tmp_path), "untied").ok


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("init", INITS)
def test_cross_attention_of_gpt2_cannot_start_as_its_self_attention(files, encoder, init):
    expected = "cross_attention_init is 'self_attention': the cross-attention of gpt2 is laid out unlike"
    encoder_folder = getattr(files, encoder)
    assert problem(encoder_folder, files.gpt2, decoder_init=init, cross_attention_init="self_attention").startswith(
        expected
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("weights", "teid"),
        ("encoder_init", "pretraind"),
        ("decoder_init", None),
        ("cross_attention_init", "self"),
        ("dropout", 1.5),
        ("dropout", -0.1),
    ],
)
def test_values_that_no_option_has(files, option, value):
    assert problem(files.bert, files.bert, **{option: value}).startswith(f"{option} is {value!r}: it must ")


@pytest.mark.parametrize("nothing", ["", None])
def test_no_checkpoint(files, nothing):
    assert problem(nothing, files.bert) == f"encoder is {nothing!r}: it must be a Hub id or a folder."
