"""LoRA: what weight and factors compute is what the merged weight does, and the rest of the model is as it was."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from encdec_lightning import compose
from encdec_lightning.composition.architectures import ARCHITECTURES
from encdec_lightning.composition.checks.skeleton import skeleton
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.lora import adapt, attention_layers, factors, is_factor, merged
from encdec_lightning.composition.model import EncoderDecoder, count_ties
from encdec_lightning.composition.options import Composition
from encdec_lightning.composition.prefix import PrefixDecoder
from encdec_lightning.kernels.stand_in import runs_as_shipped

RANK, SCALE = 4, 1.5
IDS = torch.randint(5, 90, (2, 9), generator=torch.Generator().manual_seed(1))
LACKING = {"ibert", "squeezebert"}  # their attention has layers of other kinds
PAIRS = {  # decoder, what is composed with a bert
    "bert": {"weights": "tied"},
    "gpt2": {},  # fused, and its weights are (in, out)
    "llama": {},
    "falcon": {},  # a class of linear layers of its own
    "modernbert-decoder": {},
    "qwen3": {"cross_attention_kind": "merged"},
}


def logits(model: ComposedModel) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, decoder_input_ids=IDS).logits


def composed(folder, family: str) -> ComposedModel:
    bert, other = (tiny.family_checkpoint(folder / name, name) for name in ("bert", family))
    torch.manual_seed(0)
    return compose(bert, other, **PAIRS[family])


def adapted(model: ComposedModel, dropout: float = 0.0) -> list[str]:
    """Adapt all sides, with factors as after a training; the layers' names."""
    layers = [name for role in model.roles for name in attention_layers(model, role)]
    adapt(model, layers, RANK, SCALE, dropout)
    for name in factors(model):
        if name.endswith("lora_B"):
            torch.nn.init.normal_(model.get_parameter(name), std=0.2)
    return layers


@pytest.fixture(params=PAIRS)
def pair(request, tmp_path):
    """A model without LoRA, the same with it, and the adapted layers."""
    plain = composed(tmp_path, request.param)
    model = copy.deepcopy(plain)
    return plain, model, adapted(model)


def test_merged_weights_are_the_sum_and_compute_what_both_did(pair):
    plain, model, layers = pair
    once = merged(model)
    assert (logits(model) - logits(plain)).abs().max() > 1e-3
    torch.testing.assert_close(logits(once), logits(model), rtol=0, atol=1e-5)
    before, after = plain.state_dict(), once.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        layer = name.removesuffix(".weight")
        if layer not in layers:
            assert torch.equal(after[name], value), name
            continue
        own = model.get_submodule(layer)
        product = (SCALE * own.lora_B.double() @ own.lora_A.double()).detach()
        expected = value.double() + (product.t() if product.shape != value.shape else product)
        if product.shape[0] != product.shape[1]:  # else the shape does not tell
            torch.testing.assert_close(after[name].double(), expected, rtol=0, atol=1e-6)
    assert {type(each) for each in once.modules()} == {type(each) for each in plain.modules()}
    assert once.shared == plain.shared and count_ties(once) == len(once.shared)


def test_at_the_start_nothing_changes_and_a_fit_runs_the_kernels(tmp_path):
    model = composed(tmp_path, "llama")
    before = logits(model)
    adapt(model, attention_layers(model, "decoder"), RANK, SCALE, 0.0)
    assert torch.equal(logits(model), before)
    assert runs_as_shipped(model)
    assert merged(model) is not model and merged(merged(model)).state_dict().keys() == merged(model).state_dict().keys()


def test_a_plain_model_is_its_own_merged_one(files):
    model = compose(files.bert, files.bert)
    assert merged(model) is model


def test_layers_that_are_one_weight_have_one_pair_of_factors(files, tmp_path):
    model = compose(files.bert, files.bert, "tied")
    layers = adapted(model)
    assert len(factors(model)) == len(layers)  # two factors for two layers each
    assigned = copy.deepcopy(model)
    assigned.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    for owner in (model, copy.deepcopy(model), assigned):
        parameters = dict(owner.named_parameters(remove_duplicate=False))
        pairs = {target: source for target, source in owner.shared.items() if is_factor(target)}
        assert len(pairs) == len(layers)
        assert all(parameters[target] is parameters[source] for target, source in pairs.items())
    model.save_pretrained(tmp_path)
    opened = EncoderDecoder.from_pretrained(tmp_path)  # which refuses sides that share and differ
    torch.testing.assert_close(logits(opened), logits(model), rtol=0, atol=1e-5)


def test_saved_folders_are_those_of_plain_models(files, tmp_path):
    model = compose(files.bert, files.gpt2)
    adapted(model)
    model.save_pretrained(tmp_path / "pair")
    stock = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "pair")
    torch.testing.assert_close(logits(stock), logits(model), rtol=0, atol=1e-5)
    alone = compose(None, files.gpt2)
    adapted(alone)
    alone.save_pretrained(tmp_path / "alone", state_dict=alone.state_dict())
    torch.testing.assert_close(
        logits(PrefixDecoder.from_pretrained(tmp_path / "alone")), logits(alone), rtol=0, atol=1e-5
    )
    names = AutoModelForCausalLM.from_pretrained(tmp_path / "alone").state_dict().keys()
    assert not any(map(is_factor, names))


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # which it finds out for itself
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "falcon"])
def test_merged_weights_are_those_of_peft(family, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = composed(tmp_path, family) if family != "bert" else compose(*2 * [tiny.family_checkpoint(tmp_path, "bert")])
    theirs = copy.deepcopy(model)
    layers = adapted(model)
    peft.inject_adapter_in_model(peft.LoraConfig(r=RANK, lora_alpha=SCALE * RANK, target_modules=layers), theirs)
    with torch.no_grad():
        for name in factors(model):
            theirs.get_parameter(f"{name}.default.weight").copy_(model.get_parameter(name))
    torch.testing.assert_close(logits(theirs), logits(model), rtol=0, atol=1e-6)
    state = merged(model).state_dict()
    for name in layers:
        layer = theirs.get_submodule(name)
        layer.merge()
        assert torch.equal(layer.get_base_layer().weight, state[f"{name}.weight"]), name


def test_every_family_has_its_projections(tmp_path):
    """Queries, keys, values and output of each layer, fused or not; cross-attention's where the checkpoint has it."""
    bert = tiny.checkpoint(tmp_path / "bert", "bert")
    for family, architecture in ARCHITECTURES.items():
        tiny.family_config(family, 320).save_pretrained(tmp_path / family / "config")
        other = str(tmp_path / family / "config")
        sides = {}
        if architecture.encodes != "no":
            unmasked = architecture.encodes == "unmasked"
            sides["encoder"] = Composition(other, bert, encoder_bidirectional=unmasked)
        if architecture.can_decode:
            sides["decoder"] = Composition(bert, other)
        for role, composition in sides.items():
            layers = attention_layers(skeleton(composition), role)
            parts = {
                2: {"deberta", "modernbert", "gpt2", "gpt-sw3", "bloom", "falcon", "gpt_neox"},
                0: LACKING,
            }
            count = next((number for number, families in parts.items() if family in families), 4)
            count *= 1 if family == "albert" else 2  # whose layers are one
            assert len(layers) == count * (2 if architecture.cross_attention else 1), (family, role, layers)
            assert not any(f".{part}." in f"{name}." for name in layers for part in ("mlp", "ffn", "intermediate"))


def test_what_starts_at_random_is_no_layer_of_lora(tmp_path):
    model = composed(tmp_path, "llama")
    assert not any("cross_attention" in name for name in attention_layers(model, "decoder"))
    bert, llama = str(tmp_path / "bert"), str(tmp_path / "llama")
    copied = compose(bert, llama, decoder_init="pretrained", cross_attention_init="self_attention")
    assert any("cross_attention" in name for name in attention_layers(copied, "decoder"))
    assert attention_layers(compose(bert, llama, decoder_init="random"), "decoder") == []
