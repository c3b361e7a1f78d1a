"""Any dtype, for every family and every scheme of weights: composed, loaded, saved, shared, in both classes."""

import copy
import json

import pytest
import torch
from cases import some
from composed import composed, inputs, logits, own, tied_cells
from families import batch
from families import logits as forward
from test_families import once_a_family
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from encdec_lightning.composition.architectures import ARCHITECTURES
from encdec_lightning.composition.assembly import rebuild
from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.model import EncoderDecoder
from encdec_lightning.composition.prefix import PrefixDecoder
from encdec_lightning.errors import UserError

HALVES = [torch.bfloat16, torch.float16]
TOLERANCE = {torch.bfloat16: 0.05, torch.float16: 0.01}
DTYPES = [*HALVES, torch.float64, "bfloat16", "float16", "float64"]
KEEP_FP32 = ("t5", "mt5", "umt5")  # transformers' rule: a part of their layers overflows in fp16
SCHEMES = [
    ("bert", "bert", "untied"),
    ("bert", "bert", "tied_embeddings"),
    ("bert", "bert", "tied"),
    (None, "gpt2", ""),
]
every_scheme = pytest.mark.parametrize(("encoder", "decoder", "weights"), SCHEMES)


def made(files, encoder, decoder, weights):
    return compose(None, files.gpt2) if encoder is None else own(files, encoder, decoder, weights)


def equal_to(model, expected, dtype):
    """Whether a model has these values in this dtype, and shares as much, and its configs say so."""
    ours, theirs = model.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    kept = {name for name, each in model.named_parameters() if each.dtype != dtype}
    assert not kept or (model.config.encoder.model_type in KEEP_FP32 and dtype == torch.float16)
    assert all(name.endswith(".wo.weight") for name in kept)
    assert all(torch.equal(ours[name], theirs[name].to(ours[name].dtype)) for name in ours)
    assert all(model.get_parameter(target) is model.get_parameter(source) for target, source in model.shared.items())
    assert model.shared == expected.shared and len([*model.parameters()]) == len([*expected.parameters()])
    sides = [getattr(model.config, side) for side in ("encoder", "decoder") if hasattr(model.config, side)]
    assert {str(each.dtype).removeprefix("torch.") for each in (model.config, *sides)} == {str(dtype)[6:]}


@every_scheme
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_folder_opens_in_any_dtype(files, tmp_path, encoder, decoder, weights, dtype):
    model = made(files, encoder, decoder, weights)
    model.save_pretrained(tmp_path)
    expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    for name in ("dtype", "torch_dtype"):
        equal_to(type(model).from_pretrained(tmp_path, **{name: dtype}), model, expected)


@every_scheme
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_model_saved_in_half_precision_comes_back(files, tmp_path, encoder, decoder, weights, dtype):
    model = made(files, encoder, decoder, weights).to(dtype)
    model.save_pretrained(tmp_path)
    for arguments in ({}, {"dtype": "auto"}):
        equal_to(type(model).from_pretrained(tmp_path, **arguments), model, dtype)
    again = type(model).from_pretrained(tmp_path, dtype=torch.float32)
    equal_to(again, model, torch.float32)
    again.save_pretrained(tmp_path / "wide")
    equal_to(type(model).from_pretrained(tmp_path / "wide"), model, torch.float32)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@tied_cells
def test_stock_transformers_opens_a_folder_in_half_precision_alike(files, tmp_path, encoder, decoder, weights, dtype):
    model = own(files, encoder, decoder, weights).to(dtype)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {saved[side]["dtype"] for side in ("encoder", "decoder")} == {saved["dtype"]} == {str(dtype)[6:]}
    stock = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert {each.dtype for each in stock.parameters()} == {dtype}
    assert torch.equal(logits(stock, inputs(model)), logits(model))


@once_a_family
@pytest.mark.parametrize("dtype", some(HALVES, torch.bfloat16), ids=str)
def test_every_family_opens_and_runs_in_half_precision(probe, tmp_path, role, family, dtype):
    model = probe(role, family)
    model.save_pretrained(tmp_path)
    half = type(model).from_pretrained(tmp_path, dtype=dtype)
    equal_to(half, model, dtype)
    if not ARCHITECTURES[family].mixes_dtypes:
        found, expected = (forward(each, **batch(model)) for each in (half, model))
        assert found.dtype == dtype and (found - expected).abs().max() < TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_checkpoints_in_half_precision_are_composed_in_fp32_with_their_values(files, tmp_path, dtype):
    encoder, decoder = AutoModel.from_pretrained(files.bert), AutoModelForCausalLM.from_pretrained(files.gpt2)
    folders = {}
    for name, part in (("bert", encoder), ("gpt2", decoder)):
        folders[name] = str(tmp_path / name)
        part.to(dtype).save_pretrained(folders[name])
    for arguments in (("bert", "gpt2"), ("bert", "bert", "tied"), (None, "gpt2")):
        model = compose(*(folders.get(each, each) for each in arguments))
        equal_to(model, model, torch.float32)
        side = model.decoder if arguments[0] is None else model.encoder
        values = dict((decoder if arguments[0] is None else encoder).named_parameters())
        assert all(torch.equal(own, values[name].float()) for name, own in side.named_parameters())


@every_scheme
def test_a_rebuilt_model_is_in_fp32_whatever_was_saved_before(files, tmp_path, encoder, decoder, weights):
    model = made(files, encoder, decoder, weights).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    model = type(model).from_pretrained(tmp_path).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-4)  # not a number of bf16
    again = rebuild(copy.deepcopy(model.config).to_dict())
    again.load_state_dict(model.state_dict())
    equal_to(again.float(), model, torch.float32)


@pytest.mark.parametrize("kind", [EncoderDecoder, PrefixDecoder])
def test_a_dtype_for_each_side_is_refused(files, tmp_path, kind):
    model = composed(files, "bert", "bert") if kind is EncoderDecoder else compose(None, files.gpt2)
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"dtype is .*: give one for the whole model"):
        kind.from_pretrained(tmp_path, dtype={"decoder": torch.bfloat16})
