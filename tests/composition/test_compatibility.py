"""`check`: the answer before any weight is loaded."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
from composed import ENCODERS, INITS, PAIRS, WEIGHTS, composed
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import ElectraForMaskedLM, ElectraForPreTraining

from encdec_lightning.composition.architectures import ARCHITECTURES
from encdec_lightning.composition.compatibility import check
from encdec_lightning.composition.compose import compose
from encdec_lightning.errors import UserErrors


def problem(*arguments: object, **more: object) -> str:
    """The one sentence of the one problem."""
    answer = check(*arguments, **more)
    assert not answer.ok
    (sentence,) = map(str, answer.problems)
    assert "\n" not in sentence and sentence.endswith(".")
    assert answer.parameters is None
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
    counts = answer.parameters.as_built
    assert (counts.pretrained, counts.random) == (sum(sizes.values()) - fresh, fresh)
    assert counts.shared == sum(sizes[source] for source in set(model.shared.values()))


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


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "config.json cannot be read as JSON"),
        ("[]", "config.json holds a list, it must be a mapping"),
        ("{}", "transformers cannot read its config.json or does not know its family"),
        ('{"model_type": "bertt"}', "transformers cannot read its config.json or does not know its family"),
    ],
)
def test_a_config_that_cannot_be_read(files, tmp_path, content, expected):
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "config.json").write_text(content)
    assert expected in problem(files.bert, str(folder))


def of_family(files, folder, family):
    """A folder whose config says that it is of another family."""
    config = json.loads((Path(files.bert) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": family}))
    return str(folder)


@pytest.mark.parametrize(
    ("family", "as_encoder", "as_decoder"),
    [
        ("distilbert", None, "transformers has no causal language model of it."),
        ("canine", "its output changes with the padding of a batch.", "transformers has no causal language"),
        ("megatron-bert", None, "its cross-attention fails."),
        ("layoutlm", "it was never tried, bert, ", "transformers has no causal language model of it."),
        ("mamba", None, "it has no cross-attention, and is given none, as bloom, falcon"),
    ],
)
def test_families_that_cannot_be_used_are_refused_with_the_reason(files, tmp_path, family, as_encoder, as_decoder):
    folder = of_family(files, tmp_path, family)
    if as_encoder is not None:
        assert as_encoder in problem(folder, files.bert)
    assert f"its family {family} cannot be the decoder: {as_decoder}" in problem(files.bert, folder)


def test_both_sides_problems_are_told_at_once(files, tmp_path):
    folder = of_family(files, tmp_path, "stablelm")
    assert [one.field for one in check(files.gpt2, folder).problems] == ["encoder", "decoder"]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("decoder", ["bert", "roberta", "gpt2"])
def test_gpt2_encodes_only_without_its_mask(files, decoder, weights):
    expected = "gpt2 reads left to right only; encoder_bidirectional=true takes its causal mask off."
    assert problem(files.gpt2, getattr(files, decoder), weights).endswith(expected)
    assert check(files.gpt2, getattr(files, decoder), encoder_bidirectional=True).ok


def test_a_mask_that_is_not_there_cannot_be_taken_off(files):
    expected = "encoder_bidirectional is True: bert has no causal mask to take off."
    assert problem(files.bert, files.bert, encoder_bidirectional=True) == expected


@pytest.mark.parametrize(
    ("encoder", "decoder", "which"),
    [
        ("bert", "roberta", "embeddings.word_embeddings.weight is (123, 32) in the encoder, (320, 32) in the decoder"),
        ("roberta", "gpt2", "the encoder has no wte.weight"),
    ],
)
def test_tied_across_families_names_a_tensor_that_differs(files, encoder, decoder, which):
    expected = f"a {encoder} encoder and a {decoder} decoder cannot share all weights ({which}), use untied."
    assert problem(getattr(files, encoder), getattr(files, decoder), "tied") == f"weights is 'tied': {expected}"


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
    if name == "num_hidden_layers":
        expected = "the encoder has layers 1 to 2, the decoder 1 to 1; choose the same, or untied weights."
    assert problem(files.bert, str(tmp_path), "tied") == f"weights is 'tied': {expected}"
    assert check(files.bert, str(tmp_path), "tied_embeddings").ok
    assert check(files.bert, str(tmp_path), "untied").ok


def test_tied_sides_of_which_one_has_chosen_layers(files):
    """The option that was given is named."""
    expected = "the encoder has layers 1 to 1, the decoder 1 to 2; choose the same, or untied weights."
    assert problem(files.bert, files.bert, "tied", encoder_layers=[1]) == f"encoder_layers is [1]: {expected}"
    expected = "the encoder has layers 1 to 2, the decoder 2; choose the same, or untied weights."
    assert problem(files.bert, files.bert, "tied", decoder_layers=[2]) == f"decoder_layers is [2]: {expected}"


def test_tied_language_models_that_compute_differently(files, tmp_path):
    config = json.loads((Path(files.gpt2) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 0.5}))
    expected = "the encoder's layer_norm_epsilon is 1e-05, the decoder's 0.5; use tied_embeddings or untied."
    assert problem(files.gpt2, str(tmp_path), "tied", encoder_bidirectional=True) == f"weights is 'tied': {expected}"
    assert check(files.gpt2, files.gpt2, "tied", encoder_bidirectional=True).ok


@pytest.mark.parametrize("family", [name for name, each in ARCHITECTURES.items() if each.can_decode])
def test_cross_attention_of_every_decoder_can_start_as_its_self_attention(probe, family):
    found = check(probe.folder("bert"), probe.folder(family), cross_attention_init="self_attention")
    assert found.ok and found.parameters.as_built.random == 0


def test_a_decoder_that_reads_states_of_one_width(probe, files, tmp_path):
    config = json.loads((Path(probe.folder("trocr")) / "config.json").read_text())
    for width in (tiny.WIDTH, 48):
        (tmp_path / "config.json").write_text(json.dumps({**config, "cross_attention_hidden_size": width}))
        if width == tiny.WIDTH:
            assert check(files.bert, str(tmp_path)).ok
        else:
            expected = f"its cross-attention reads states 48 wide, those of {files.bert} are {tiny.WIDTH}."
            assert problem(files.bert, str(tmp_path)).endswith(expected)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"num_hidden_layers": 0}, "its config.json says 0 layers, it must be at least 1"),
        ({"num_hidden_layers": -1}, "its config.json says -1 layers, it must be at least 1"),
        ({"quantization_config": {"load_in_4bit": True}}, "its weights are quantized, take the checkpoint in full"),
        ({"dtype": "float99"}, "transformers cannot read its config.json"),
    ],
)
def test_a_config_that_no_model_can_follow(files, tmp_path, values, sentence):
    config = json.loads((Path(files.bert) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **values}))
    assert sentence in problem(str(tmp_path), files.bert) and sentence in problem(files.bert, str(tmp_path))


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


def test_no_checkpoint(files):
    assert problem("", files.bert) == "encoder is '': it must be a Hub id or a folder."
    assert problem(files.bert, "") == "decoder is '': it must be a Hub id or a folder."


@pytest.mark.parametrize("kind", [ElectraForPreTraining, ElectraForMaskedLM])
def test_a_discriminator_has_no_head_of_a_language_model(files, tmp_path, kind):
    """ELECTRA's tells replaced tokens from others, so that the head starts at random; the generator's does not."""
    folder = tiny.family_checkpoint(tmp_path / "electra", "electra")
    kind(tiny.family_config("electra", 320)).save_pretrained(folder)
    counted = check(files.bert, folder).parameters.as_built.random
    model = compose(files.bert, folder)
    assert counted == sum(model.get_parameter(name).numel() for name in model.config.fresh_parameters)
    heads = [name for name in model.config.fresh_parameters if "generator" in name]
    assert bool(heads) == (kind is ElectraForPreTraining)
