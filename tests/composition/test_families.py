"""One probe for every family that the table of architectures names, in each role it can have."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from families import LENGTHS, batch, logits
from safetensors.torch import load_file
from tiny import checkpoint_activations, family_config, merges
from transformers import AutoModel, AutoTokenizer, EncoderDecoderModel

from encdec_lightning.composition.architectures import ARCHITECTURES
from encdec_lightning.composition.compatibility import check
from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.model import EncoderDecoder, count_ties
from encdec_lightning.composition.options import Weights
from encdec_lightning.composition.prefix import PrefixDecoder
from encdec_lightning.composition.sides.cross_attention import is_cross_attention
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.training.freezing import freeze

ENCODERS = [("encoder", name) for name, each in ARCHITECTURES.items() if each.encodes != "no"]
DECODERS = [("decoder", name) for name, each in ARCHITECTURES.items() if each.can_decode]
MERGED = [("merged", name) for name in ARCHITECTURES if merges(name)]
PREFIXES = [("prefix", name) for name, each in ARCHITECTURES.items() if each.prefixes]
FUSED = ("gte", "jina_embeddings_v3", "nomic_bert")
"""Families whose files fuse some tensors."""
SOME = ("llama", "gemma2", "gptj", "bloom")
"""Of the language models that are given cross-attention, those that are tried with both sides tied as well."""
BOTH = [
    name for name, each in ARCHITECTURES.items()
    if each.encodes != "no" and each.can_decode and (each.decodes or name in SOME)
]  # fmt: skip
REFUSED = [
    *(("encoder", name) for name, each in ARCHITECTURES.items() if each.encodes == "no"),
    *(("decoder", name) for name, each in ARCHITECTURES.items() if not each.can_decode),
    *(("prefix", name) for name, each in ARCHITECTURES.items() if not each.prefixes),
]
REFUSALS = {
    "encoder": "cannot be the encoder: ",
    "decoder": "cannot be the decoder: ",
    "prefix": f"cannot stand alone, {', '.join(name for _, name in PREFIXES)} can",
}
TIED = [(role, name) for role in get_args(Weights) if role != "untied" for name in BOTH]
SHARED: dict[Weights, Callable[[str, str], bool]] = {
    "tied_embeddings": lambda name, block: name.startswith(block),
    "tied": lambda name, block: True,
}
"""Whether a scheme shares a parameter of the decoder's base model, outside cross-attention, by its name and the start
of the names in the family's embedding block."""
every_family = pytest.mark.parametrize(("role", "family"), [*ENCODERS, *DECODERS, *MERGED, *PREFIXES, *TIED])
once_a_family = pytest.mark.parametrize(
    ("role", "family"),
    [each[::-1] for each in {name: role for role, name in [*PREFIXES, *MERGED, *DECODERS, *ENCODERS, *TIED]}.items()],
)
every_decoder = pytest.mark.parametrize(("role", "family"), [*DECODERS, *MERGED, *PREFIXES, *TIED])
every_encoder = pytest.mark.parametrize(("role", "family"), [*ENCODERS, *TIED])
every_tied = pytest.mark.parametrize(("role", "family"), TIED)


@pytest.mark.parametrize(("role", "family"), REFUSED)
def test_a_role_that_a_family_cannot_have_is_refused_with_a_reason_of_its_own(files, tmp_path, role, family):
    family_config(family, 300).save_pretrained(tmp_path)
    beside = None if role == "prefix" else files.bert
    pair = (str(tmp_path), files.bert) if role == "encoder" else (beside, str(tmp_path))
    (problem,) = check(*pair).problems
    assert REFUSALS[role] in problem.expected and "never tried" not in problem.expected


def other(ids: torch.Tensor) -> torch.Tensor:
    """Another ordinary token."""
    return torch.where(ids == 6, 7, 6)


@every_family
def test_every_source_token_is_used(probe, role, family):
    model = probe(role, family)
    inputs = batch(model)
    before = logits(model, **inputs)
    for position in (0, 4, 8):
        ids = inputs["input_ids"].clone()
        ids[0, position] = other(ids[0, position])
        changed = logits(model, **{**inputs, "input_ids": ids})
        assert (changed[0] - before[0]).abs().max() > 1e-6
        assert torch.equal(changed[1], before[1])


@every_encoder
def test_the_first_state_sees_the_last_token(probe, role, family):
    model = probe(role, family)
    ids = batch(model)["input_ids"][:1]
    changed = ids.clone()
    changed[0, -1] = other(ids[0, -1])
    with torch.no_grad():
        for more in ({}, {"attention_mask": torch.ones_like(ids)}):
            states = [model.encoder(each, **more).last_hidden_state[0, 0] for each in (ids, changed)]
            assert (states[0] - states[1]).abs().max() > 1e-6


@every_family
def test_no_target_token_sees_a_later_one(probe, role, family):
    model = probe(role, family)
    inputs = batch(model)
    before = logits(model, **inputs)
    ids = inputs["decoder_input_ids"].clone()
    ids[:, 3] = other(ids[:, 3])
    changed = logits(model, **{**inputs, "decoder_input_ids": ids})
    assert (changed[:, :3] - before[:, :3]).abs().max() < 1e-6
    assert (changed[:, 3:] - before[:, 3:]).abs().amax(dim=(0, 2)).min() > 1e-6


@every_family
def test_padding_changes_nothing(probe, role, family):
    model = probe(role, family)
    inputs = batch(model)
    together = logits(model, **inputs)
    for row, length in enumerate(LENGTHS):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        alone["input_ids"], alone["attention_mask"] = (
            alone[key][:, :length] for key in ("input_ids", "attention_mask")
        )
        alone["decoder_input_ids"] = alone["decoder_input_ids"][:, : 6 - row]
        assert (logits(model, **alone)[0] - together[row, : 6 - row]).abs().max() < 1e-5


@every_decoder
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_a_cache_is_generation_without(probe, role, family, beams):
    model = probe(role, family)
    inputs = batch(model)
    del inputs["decoder_input_ids"]
    special = dict(decoder_start_token_id=0, eos_token_id=2, pad_token_id=1, do_sample=False)
    sequences = [
        model.generate(**inputs, **special, num_beams=beams, max_new_tokens=10, min_new_tokens=5, use_cache=cached)
        for cached in (True, False)
    ]
    assert torch.equal(*sequences)
    assert (sequences[0][:, 0] == 0).all() and sequences[0].shape[1] > 6


@every_decoder
def test_teacher_forcing_sees_what_generation_saw(probe, files, role, family):
    """With the special tokens that two tokenizers, or one, write into the model."""
    model = probe(role, family)
    folder = probe.options(role, family)["decoder"]
    target = AutoTokenizer.from_pretrained(folder)
    tokenizers = Tokenizers(
        AutoTokenizer.from_pretrained(files.bert) if role in ("decoder", "merged") else target, target
    )
    tokenizers.configure(model)
    inputs = batch(model)
    del inputs["decoder_input_ids"]
    result = model.generate(
        **inputs, do_sample=False, max_new_tokens=8, min_new_tokens=8, output_logits=True, return_dict_in_generate=True
    )
    assert (result.sequences[:, 0] == tokenizers.start_id).all()
    again = logits(model, **inputs, decoder_input_ids=result.sequences[:, :-1])
    assert (torch.stack(result.logits, dim=1) - again).abs().max() < 1e-5


@every_family
def test_a_saved_model_is_loaded_exactly(probe, tmp_path, role, family):
    model = probe(role, family)
    inputs = batch(model)
    expected = logits(model, **inputs)
    model.save_pretrained(tmp_path)
    kind = EncoderDecoder if isinstance(model, EncoderDecoder) else PrefixDecoder
    again = kind.from_pretrained(tmp_path)
    assert torch.equal(logits(again, **inputs), expected)
    assert again.composition == model.composition
    if ARCHITECTURES[family].positions is not None and kind is EncoderDecoder:  # transformers builds the whole of a t5
        assert torch.equal(logits(EncoderDecoderModel.from_pretrained(tmp_path), **inputs), expected)


@every_family
def test_gradient_checkpointing_changes_no_gradient(probe, role, family):
    model = probe(role, family)
    inputs = batch(model)
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_activations(model, on=True)
        model.train()  # transformers checkpoints in training mode only; dropout draws alike
        torch.manual_seed(1)
        model(**inputs, use_cache=False).logits.square().mean().backward()
        found.append({name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None})
        model.zero_grad()
    checkpoint_activations(model, on=False)
    model.eval()
    freeze(model, None)  # what a fit trains has a gradient, so that DDP need not look for what is unused
    assert found[0].keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found[0].keys() == found[1].keys() and len(found[0]) > 10
    for name, gradient in found[0].items():
        assert torch.allclose(found[1][name], gradient, atol=1e-6), name


@once_a_family
def test_the_option_dropout_reaches_every_dropout(probe, role, family):
    model = compose(**probe.options(role, family), dropout=0.0)
    inputs = batch(model)
    with torch.no_grad():
        assert torch.equal(model.train()(**inputs).logits, model.eval()(**inputs).logits)
    assert {each.p for each in model.modules() if isinstance(each, torch.nn.Dropout)} <= {0.0}


@every_family
def test_values_are_the_checkpoints(probe, role, family):
    """What is not fresh is in the checkpoint's file, bit for bit."""
    options = probe.options(role, family)
    model = probe(role, family)
    folders = {options["encoder"], options["decoder"]} - {None}
    stored = [load_file(Path(folder) / "model.safetensors") for folder in folders]
    if family in FUSED:
        stored += [AutoModel.from_pretrained(folder).state_dict() for folder in folders]
    known = {value.numpy().tobytes() for values in stored for value in values.values()}
    computed = ARCHITECTURES[family].computed
    foreign = {
        name
        for name, value in model.named_parameters()
        if value.detach().numpy().tobytes() not in known and not any(part in name for part in computed)
    }
    if ARCHITECTURES[family].reads_padding:
        foreign.remove("encoder.embeddings.word_embeddings.weight")
    fresh = set(model.config.fresh_parameters)
    assert foreign <= fresh
    assert all(
        model.get_parameter(name).unique().numel() == 1 for name in fresh - foreign
    )  # zeros and ones are anyone's


@every_tied
def test_what_is_shared_is_one_parameter_and_its_gradient_the_sum_of_both_sides(probe, role, family):
    model = copy.deepcopy(probe(role, family))
    assert count_ties(model) == len(model.shared) > 0
    inputs = batch(model)
    untied = compose(**{**probe.options(role, family), "weights": "untied"}).eval()
    values = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in untied.named_parameters(remove_duplicate=False):
            parameter.copy_(values[name])
    for each in (model, untied):
        each(**inputs, use_cache=False).logits.square().mean().backward()
    for target, source in model.shared.items():
        sides = [untied.get_parameter(name).grad for name in (target, source)]
        expected = sum((each for each in sides if each is not None), start=torch.zeros(()))
        own = model.get_parameter(source).grad
        assert torch.allclose(torch.zeros(()) if own is None else own, expected, rtol=1e-4, atol=1e-7), target


@every_tied
def test_the_whole_layer_or_the_embedding_block_is_shared(probe, role, family):
    model = probe(role, family)
    base = f"decoder.{model.decoder.base_model_prefix}."
    own = [name for name, _ in model.decoder.get_submodule(model.decoder.base_model_prefix).named_parameters()]
    block = ARCHITECTURES[family].embeddings
    wanted = {name for name in own if SHARED[role](name, block)}
    assert {name.removeprefix(base) for name in model.shared} == {
        name for name in wanted if not is_cross_attention(f".{name}")
    }
