"""Where each value of a composed model comes from, its dropout and its mode."""

from pathlib import Path

import pytest
import tiny
import torch
from composed import CELLS, ENCODERS, INITS, TIED, composed, every_cell, every_pair, every_scheme, inputs, kept
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from encdec_lightning.composition.architectures import DROPOUTS
from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.model import EncoderDecoder

both_inits = pytest.mark.parametrize("inits", [(one, other) for one in INITS for other in INITS])


def tensors(checkpoint: str, base: str) -> dict[str, torch.Tensor]:
    """The values of a checkpoint's base model, under its own names."""
    stored = load_file(Path(checkpoint) / "model.safetensors")
    found = {name.removeprefix(f"{base}."): value for name, value in stored.items()}
    return {name: value for name, value in found.items() if not name.startswith(("pooler.", "lm_head.", "cls."))}


def values(model: EncoderDecoder, side: str) -> dict[str, torch.Tensor]:
    prefix = "encoder." if side == "encoder" else f"decoder.{model.decoder.base_model_prefix}."
    parameters = model.named_parameters(remove_duplicate=False)
    return {name.removeprefix(prefix): value.detach() for name, value in parameters if name.startswith(prefix)}


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Another checkpoint of each family, of the same sizes."""
    folder = tmp_path_factory.mktemp("second")
    return {family: tiny.checkpoint(folder / family, family, seed=5) for family in ("bert", "roberta", "gpt2")}


@every_pair
def test_pretrained_values_are_the_checkpoints(files, encoder, decoder):
    model = kept(files, encoder, decoder)
    for side, family in (("encoder", encoder), ("decoder", decoder)):
        own, base = values(model, side), getattr(model, side).base_model_prefix
        expected = tensors(getattr(files, family), base)
        assert len(expected) > 20
        assert all(torch.equal(own[name], value) for name, value in expected.items())
        more = {name for name in own.keys() - expected.keys() if "cross" not in name}
        assert more == set()


@both_inits
@every_cell
def test_fresh_parameters_are_exactly_those_of_no_checkpoint(files, second, encoder, decoder, weights, inits):
    options = dict(encoder_init=inits[0], decoder_init=inits[1])
    checkpoints = {"encoder": getattr(files, encoder), "decoder": second[decoder]}
    torch.manual_seed(0)
    model = compose(**checkpoints, weights=weights, **options)
    known = set()
    for side, init in zip(("encoder", "decoder"), inits, strict=True):
        base = getattr(model, side).base_model_prefix
        if init == "pretrained":
            known |= {value.numpy().tobytes() for value in tensors(checkpoints[side], base).values()}
    fresh = [name for name, value in model.named_parameters() if value.detach().numpy().tobytes() not in known]
    assert model.config.fresh_parameters == fresh
    assert ("pretrained" in inits) == (len(fresh) < len(list(model.parameters())))
    assert fresh  # cross-attention at least


@both_inits
@pytest.mark.parametrize(("encoder", "decoder", "weights"), TIED)
def test_shared_values_come_from_the_pretrained_side(files, second, encoder, decoder, weights, inits):
    torch.manual_seed(0)
    model = compose(getattr(files, encoder), second[decoder], weights, encoder_init=inits[0], decoder_init=inits[1])
    first = tensors(getattr(files, encoder), model.encoder.base_model_prefix)
    base = model.decoder.base_model_prefix
    other = tensors(second[decoder], base)
    for target, source in model.shared.items():
        own = model.get_parameter(source)
        ours = torch.equal(own, first[source.removeprefix("encoder.")])
        theirs = torch.equal(own, other[target.removeprefix(f"decoder.{base}.")])
        assert (ours, theirs) == (inits[0] == "pretrained", inits == ("random", "pretrained"))


@pytest.mark.parametrize(("encoder", "decoder", "weights"), [CELLS[0], CELLS[2], CELLS[4], *TIED[:2], TIED[-1]])
def test_random_values_depend_on_the_seed_alone(files, encoder, decoder, weights):
    random = dict(encoder_init="random", decoder_init="random")
    one, same, other = (composed(files, encoder, decoder, weights, seed, **random) for seed in (1, 1, 2))
    differing = 0
    for name, value in one.named_parameters():
        assert torch.equal(value, same.get_parameter(name))
        spread = float(value.detach().std())
        assert spread == 0 or not torch.equal(value, kept(files, encoder, decoder, weights).get_parameter(name))
        differing += not torch.equal(value, other.get_parameter(name))
        assert spread == 0 or 0.001 < spread < 0.05  # zeros, ones, or the families' initializer_range of 0.02
    assert differing > len(list(one.parameters())) // 3


@every_pair
def test_the_sides_draw_different_values(files, encoder, decoder):
    model = composed(files, encoder, decoder, encoder_init="random", decoder_init="random")
    own = [value.numpy().tobytes() for value in values(model, "encoder").values() if value.std() > 0]
    theirs = [value.numpy().tobytes() for value in values(model, "decoder").values() if value.std() > 0]
    assert len(own) > 10 and not set(own) & set(theirs)


@both_inits
@every_scheme
@pytest.mark.parametrize("family", ENCODERS)
def test_cross_attention_as_a_copy_of_self_attention(files, second, family, weights, inits):
    options = dict(encoder_init=inits[0], decoder_init=inits[1], cross_attention_init="self_attention")
    torch.manual_seed(0)
    model = compose(getattr(files, family), second[family], weights, **options)
    names = [name for name, _ in model.named_parameters() if "crossattention" in name]
    assert len(names) == 20
    for name in names:
        own = model.get_parameter(name.replace("crossattention", "attention"))
        assert torch.equal(model.get_parameter(name), own) and model.get_parameter(name) is not own
    shared = names[0].replace("crossattention", "attention") in model.shared
    pretrained = inits[1] == "pretrained" or (shared and inits[0] == "pretrained")
    assert (names[0] in model.config.fresh_parameters) == (not pretrained)
    assert len({name in model.config.fresh_parameters for name in names}) == 1


@every_scheme
def test_cross_attention_of_gpt2_takes_its_part_of_the_fused_projections(files, weights):
    """GPT-2's c_attn is [queries | keys | values], in cross-attention q_attn and [keys | values]."""
    model = compose(files.gpt2, files.gpt2, weights, encoder_bidirectional=True, cross_attention_init="self_attention")
    assert model.config.fresh_parameters == []
    for block in model.decoder.transformer.h:
        for name in ("weight", "bias"):
            fused = getattr(block.attn.c_attn, name)
            cross = [getattr(part, name) for part in (block.crossattention.q_attn, block.crossattention.c_attn)]
            assert torch.equal(torch.cat(cross, dim=-1), fused)
            assert torch.equal(getattr(block.crossattention.c_proj, name), getattr(block.attn.c_proj, name))
            assert torch.equal(getattr(block.ln_cross_attn, name), getattr(block.ln_1, name))


def test_a_head_of_the_checkpoint_is_kept(files, tmp_path):
    config = tiny.config("bert", 123)
    config.is_decoder = True
    with_head = AutoModelForCausalLM.from_config(config)
    torch.nn.init.normal_(with_head.cls.predictions.bias)
    with_head.save_pretrained(tmp_path)
    model = compose(files.bert, str(tmp_path))
    own = dict(with_head.named_parameters())
    head = [name for name in own if name.startswith("cls.")]
    assert len(head) == 5 and all(torch.equal(model.decoder.get_parameter(name), own[name]) for name in head)
    assert all("crossattention" in name for name in model.config.fresh_parameters)


@every_cell
def test_a_new_model_is_in_training_mode_throughout(files, encoder, decoder, weights):
    model = composed(files, encoder, decoder, weights)
    assert [name for name, module in model.named_modules() if not module.training] == []
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("init", INITS)
@every_pair
def test_dropout_is_really_set(files, encoder, decoder, init):
    options = dict(encoder_init=init, decoder_init=init)
    model = composed(files, encoder, decoder, dropout=0.3, **options)
    modules = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert len(modules) > 10 and {module.p for module in modules} == {0.3}
    config = model.config
    for side in (config.encoder, config.decoder):
        assert {getattr(side, name) for name in DROPOUTS if hasattr(side, name)} == {0.3}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@every_pair
def test_dropout_does_what_it_says(files, encoder, decoder, dropout):
    model = composed(files, encoder, decoder, dropout=dropout)
    batch = inputs(model)
    with torch.no_grad():
        outputs = [model(**batch).logits for _ in range(2)]
        states = [model.encoder(batch["input_ids"]).last_hidden_state for _ in range(2)]
    assert torch.equal(*outputs) == torch.equal(*states) == (dropout == 0.0)


@every_pair
def test_without_a_dropout_the_checkpoints_own_is_kept(files, encoder, decoder):
    config = kept(files, encoder, decoder).config
    for side in (config.encoder, config.decoder):
        assert {getattr(side, name) for name in DROPOUTS if hasattr(side, name)} == {0.1}
