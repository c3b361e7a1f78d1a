"""Which parameters the two sides share."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from composed import ENCODERS, every_cell, inputs, kept, logits, tied_cells

from encdec_lightning.composition.architectures import length_limit
from encdec_lightning.composition.compatibility import check
from encdec_lightning.composition.options import Weights
from encdec_lightning.composition.sharing import SCHEMES, shared_keys, unlike


def test_every_scheme_is_an_option_and_every_option_a_scheme():
    assert list(SCHEMES) == list(get_args(Weights))


def test_a_scheme_that_needs_one_family_refuses_two_in_its_own_name(files, monkeypatch):
    monkeypatch.setitem(SCHEMES, "untied", replace(SCHEMES["untied"], needs_one_family=True, shares="layers"))
    (problem,) = check(files.bert, files.roberta, "untied").problems
    assert (problem.field, problem.value) == ("weights", "untied")
    assert problem.expected.startswith("a bert encoder and a roberta decoder cannot share layers (")


def test_a_scheme_that_needs_one_family_proposes_what_it_names(files, tmp_path, monkeypatch):
    monkeypatch.setitem(SCHEMES, "untied", replace(SCHEMES["untied"], needs_one_family=True, instead="another"))
    config = json.loads((Path(files.bert) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    (problem,) = check(files.bert, str(tmp_path), "untied").problems
    assert problem.expected == "the encoder's hidden_act is gelu, the decoder's relu; use another"


def names(module: torch.nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize("family", ENCODERS)
def test_tied_shares_all_but_cross_attention_and_the_head(files, family):
    model = kept(files, family, family, "tied")
    assert model.shared == {f"decoder.{family}.{name}": f"encoder.{name}" for name in names(model.encoder)}
    own = {name for name in names(model) if name.startswith("decoder.")}
    assert own and all(
        "crossattention" in name or name.startswith(("decoder.cls.", "decoder.lm_head.")) for name in own
    )


@pytest.mark.parametrize("family", ENCODERS)
def test_tied_embeddings_of_one_family_share_the_whole_block(files, family):
    model = kept(files, family, family, "tied_embeddings")
    block = names(model.encoder.embeddings)
    assert "LayerNorm.weight" in block and "position_embeddings.weight" in block
    expected = {f"decoder.{family}.embeddings.{name}": f"encoder.embeddings.{name}" for name in block}
    assert model.shared == expected


def test_tied_embeddings_of_two_families_share_the_word_embeddings(files):
    model = kept(files, "roberta", "gpt2", "tied_embeddings")
    assert model.shared == {"decoder.transformer.wte.weight": "encoder.embeddings.word_embeddings.weight"}
    assert model.decoder.lm_head.weight is model.encoder.embeddings.word_embeddings.weight


@every_cell
def test_the_map_is_about_one_object(files, encoder, decoder, weights):
    model = kept(files, encoder, decoder, weights)
    assert model.shared == shared_keys(weights, model.encoder, model.decoder)
    for target, source in model.shared.items():
        assert model.get_parameter(target) is model.get_parameter(source)
    same = {
        name for name, one in model.decoder.named_parameters() if any(one is own for own in model.encoder.parameters())
    }
    assert {f"decoder.{name}" for name in same} == set(model.shared)
    parameters = list(model.parameters())
    assert len(parameters) == len({id(one) for one in parameters})  # what an optimizer is given


@every_cell
def test_the_head_is_the_decoders_own_word_embedding(files, encoder, decoder, weights):
    model = kept(files, encoder, decoder, weights)
    assert model.get_output_embeddings().weight is model.decoder.get_input_embeddings().weight


@tied_cells
def test_modules_are_never_shared(files, encoder, decoder, weights):
    model = kept(files, encoder, decoder, weights)
    assert not set(model.encoder.modules()) & set(model.decoder.modules())


@every_cell
def test_the_future_does_not_leak(files, encoder, decoder, weights):
    model = kept(files, encoder, decoder, weights)
    batch = inputs(model)
    changed = {**batch, "decoder_input_ids": batch["decoder_input_ids"].clone()}
    changed["decoder_input_ids"][:, 3:] += 1 - 2 * (changed["decoder_input_ids"][:, 3:] > 20).long()
    before, after = logits(model, batch), logits(model, changed)
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=1e-6)
    assert (before[:, 3:] - after[:, 3:]).abs().amax() > 1e-3


@every_cell
def test_the_decoder_reads_the_source_and_the_encoder_reads_both_ways(files, encoder, decoder, weights):
    model = kept(files, encoder, decoder, weights)
    batch = inputs(model, source_lengths=(6, 6))
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, -1] += 1 - 2 * (changed["input_ids"][:, -1] > 20).long()
    assert (logits(model, batch) - logits(model, changed)).abs().amax() > 1e-6
    with torch.no_grad():
        states = [model.encoder.eval()(one["input_ids"]).last_hidden_state[:, 0] for one in (batch, changed)]
    assert (states[0] - states[1]).abs().amax() > 1e-6


def test_unlike_describes_shapes_that_differ():
    parts = torch.nn.ModuleDict({"encoder": torch.nn.Linear(2, 3), "decoder": torch.nn.Linear(2, 4)})
    shared = {"decoder.weight": "encoder.weight", "decoder.bias": "encoder.bias"}
    assert unlike(parts, shared) == [
        "decoder.weight has shape (4, 2), encoder.weight has (3, 2)",
        "decoder.bias has shape (4,), encoder.bias has (3,)",
    ]
    assert unlike(parts, {}) == []


@pytest.mark.parametrize(("encoder", "decoder"), [("bert", "bert"), ("roberta", "roberta"), ("roberta", "gpt2")])
def test_sequences_of_the_length_limit_fit_and_longer_ones_do_not(files, encoder, decoder):
    model = kept(files, encoder, decoder)
    source, target = length_limit(model.config.encoder), length_limit(model.config.decoder)
    assert (source, target) == (64, 64)
    assert logits(model, inputs(model, (source,), target)).isfinite().all()
    for lengths in [((source + 1,), target), ((source,), target + 1)]:
        with pytest.raises((IndexError, RuntimeError)):
            logits(model, inputs(model, *lengths))
