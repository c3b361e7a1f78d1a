"""`compose`: what it builds and what it says about a checkpoint whose files are not what they should be."""

import inspect
import json
import pydoc
import shutil
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from composed import INITS, composed, every_cell, logits
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from encdec_lightning.composition.compatibility import check
from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.model import EncoderDecoder, count_ties
from encdec_lightning.composition.options import Composition
from encdec_lightning.errors import UserError, UserErrors


@pytest.mark.parametrize("function", [compose, check])
def test_the_arguments_are_the_fields_of_composition(function):
    parameters = dict(inspect.signature(function).parameters)
    if function is compose:
        assert parameters.pop("tokenizers").kind is inspect.Parameter.KEYWORD_ONLY
    types = get_type_hints(
        Composition
    )  # the field's types are text, those of the signature are what help() should show
    expected = [
        (field.name, inspect.Parameter.empty if field.default is MISSING else field.default, types[field.name])
        for field in fields(Composition)
    ]
    assert [(name, one.default, one.annotation) for name, one in parameters.items()] == expected


@pytest.mark.parametrize("function", [compose, check])
def test_help_spells_the_arguments_out(function):
    shown = pydoc.render_doc(function, renderer=pydoc.plaintext)
    assert f"{function.__name__}(encoder: str | None, decoder: str | None, weights: Literal['untied', " in shown
    assert "dropout: float | None = None" in shown and function.__doc__.splitlines()[0] in shown


@pytest.mark.parametrize("function", [compose, check])
def test_arguments_that_there_are_not_are_refused_in_the_name_of_the_function(files, function):
    name = function.__name__
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'weigths'$"):
        function(files.bert, files.bert, weigths="tied")
    with pytest.raises(TypeError, match=rf"^{name}\(\) missing a required argument: 'decoder'$"):
        function(files.bert)


@pytest.mark.parametrize("init", INITS)  # all four pairs of these: see test_initialization.py
@every_cell
def test_every_cell_is_built_and_computes(files, encoder, decoder, weights, init):
    model = composed(files, encoder, decoder, weights, encoder_init=init, decoder_init=init)
    assert type(model) is EncoderDecoder
    assert bool(model.shared) == (weights != "untied")
    assert count_ties(model) == len(model.shared)
    assert logits(model).shape == (2, 6, model.config.decoder.vocab_size)
    assert logits(model).isfinite().all()
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_the_config_keeps_the_composition(files):
    model = composed(files, "bert", "gpt2", decoder_init="random", dropout=0.25)
    expected = Composition(encoder=files.bert, decoder=files.gpt2, decoder_init="random", dropout=0.25)
    assert model.composition == expected


def test_the_sides_have_configs_of_their_own(files):
    model = composed(files, "bert", "bert", "tied")
    assert (model.encoder.config.is_decoder, model.decoder.config.is_decoder) == (False, True)
    assert (model.encoder.config.add_cross_attention, model.decoder.config.add_cross_attention) == (False, True)


def test_sides_of_different_widths_are_joined_by_a_projection(files, tmp_path):
    import tiny

    wide = tiny.checkpoint(tmp_path / "wide", "bert", width=64)
    model = compose(wide, files.bert)
    assert model.enc_to_dec_proj.weight.shape == (32, 64)
    assert {"enc_to_dec_proj.weight", "enc_to_dec_proj.bias"} <= set(model.config.fresh_parameters)
    assert logits(model).isfinite().all()


def test_half_precision_checkpoints_become_float32(files, tmp_path):
    folder = changed(files.bert, tmp_path, dtype="bfloat16")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value.bfloat16() for name, value in tensors.items()}, folder / "model.safetensors")
    assert {parameter.dtype for parameter in compose(str(folder), files.bert).parameters()} == {torch.float32}


def changed(checkpoint: str, tmp_path: Path, **config: object) -> Path:
    """A copy of a checkpoint whose config says something else."""
    folder = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
    shutil.copytree(checkpoint, folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return folder


def refused(*arguments: object, **more: object) -> str:
    """The one sentence with which `compose` refuses."""
    with pytest.raises((UserError, UserErrors)) as caught:
        compose(*arguments, **more)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize("field", ["encoder", "decoder"])
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (dict(hidden_size=64, intermediate_size=128), "the weights do not have the sizes that its config.json says"),
        (dict(vocab_size=99), "the weights do not have the sizes that its config.json says"),
        (dict(num_hidden_layers=3), "the checkpoint lacks 16 tensors that its config.json asks for"),
        (dict(num_hidden_layers=1), "the checkpoint has more layers than its config.json says"),
        (dict(hidden_size=30), "no model can be built from its config.json"),
        (dict(vocab_size=-1), "no model can be built from its config.json"),
        (dict(hidden_act="thing"), "no model can be built from its config.json"),
        (dict(hidden_size="many"), "its config.json cannot be right"),
    ],
)
def test_a_config_that_lies_is_refused(files, tmp_path, field, config, expected):
    checkpoints = {"encoder": files.bert, "decoder": files.bert}
    checkpoints[field] = str(changed(files.bert, tmp_path, **config))
    assert refused(**checkpoints).startswith(f"{field} is {checkpoints[field]!r}: {expected}")


def test_a_gpt2_with_more_layers_than_its_config_is_refused(files, tmp_path):
    assert "more layers" in refused(files.bert, str(changed(files.gpt2, tmp_path, n_layer=1)))


@pytest.mark.parametrize("keep", [0, 1000, -1000])
def test_truncated_safetensors_are_refused(files, tmp_path, keep):
    folder = changed(files.bert, tmp_path)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert refused(str(folder), files.bert).startswith(f"encoder is {str(folder)!r}: its safetensors cannot be read")
    assert refused(files.bert, str(folder)).startswith(f"decoder is {str(folder)!r}: its safetensors cannot be read")


def test_shards_that_are_not_there_are_named(files, tmp_path):
    folder = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(files.gpt2).save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1 and compose(files.bert, str(folder))
    shards[-1].unlink()
    expected = f"model.safetensors.index.json names {shards[-1].name}, which the folder does not hold."
    assert refused(files.bert, str(folder)) == f"decoder is {str(folder)!r}: {expected}"
    (folder / "model.safetensors.index.json").write_text("{")
    assert "model.safetensors.index.json cannot be read as JSON" in refused(files.bert, str(folder))


@pytest.mark.parametrize("pickle", [True, False])
def test_pickles_are_never_read(files, tmp_path, pickle):
    folder = changed(files.bert, tmp_path)
    file = folder / "model.safetensors"
    if pickle:
        torch.save(load_file(file), folder / "pytorch_model.bin")
    file.unlink()
    expected = "holds pytorch_model.bin but no model.safetensors; convert it once with `python -m encdec_lightning."
    expected = expected if pickle else "the folder holds no model.safetensors"
    assert expected in refused(str(folder), files.bert)
    assert expected in refused(files.bert, str(folder))
    assert compose(str(folder), files.bert, encoder_init="random") is not None  # no weights are needed


def test_what_check_refuses_compose_refuses_alike(files):
    assert refused(files.gpt2, files.gpt2) == str(check(files.gpt2, files.gpt2).problems[0])
    assert refused(files.bert, files.roberta, "tied") == str(check(files.bert, files.roberta, "tied").problems[0])
