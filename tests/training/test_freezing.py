"""Frozen parts stay as they are, bit for bit; the rest learns."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import get_args

import pytest
import tiny
import torch
from transformers import AutoTokenizer

from encdec_lightning import Tokenizers, compose
from encdec_lightning.cli.train import main
from encdec_lightning.composition.model import EncoderDecoder
from encdec_lightning.composition.options import Weights
from encdec_lightning.errors import UserError
from encdec_lightning.run import Run
from encdec_lightning.training.freezing import freeze
from encdec_lightning.training.module import Seq2SeqModule


@pytest.mark.parametrize("weights", get_args(Weights))
@pytest.mark.parametrize("part", ["encoder", "decoder", "pretrained", None])
def test_what_is_frozen(files, part, weights):
    model = compose(files.bert, files.bert, weights)
    whole = part is not None and part != "pretrained" and weights == "tied"
    if whole and part == "decoder":
        with pytest.raises(UserError, match=r"training\.freeze is 'decoder': nothing would be left to train"):
            freeze(model, part)
        return
    freeze(model, part)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    everything = {name for name, _ in model.named_parameters()}
    if part is None:
        assert trained == everything
    elif part == "pretrained":
        assert trained == set(model.config.fresh_parameters)
    else:
        side = {id(parameter) for parameter in getattr(model, part).parameters()}
        assert trained == {name for name, parameter in model.named_parameters() if id(parameter) not in side}


@pytest.mark.parametrize(("part", "lacking"), [("encoder", "encoder"), ("all_but_cross_attention", "cross-attention")])
def test_a_decoder_alone_lacks_what_would_be_frozen_or_left(files, part, lacking):
    with pytest.raises(UserError, match=f"a decoder alone has no {lacking}"):
        freeze(compose(None, files.gpt2), part)


GATED = {"cross_attention_gate": "zero", "cross_attention_every": 2}
COPIED = {"cross_attention_init": "self_attention"}
MERGED = {"cross_attention_kind": "merged"}


@pytest.mark.parametrize(
    ("encoder", "decoder", "options"),
    [
        ("bert", "bert", {"weights": "tied"}),
        ("bert", "gpt2", COPIED),
        ("narrow", "bart", {}),
        ("bert", "llama", GATED),
        ("narrow", "llama", COPIED),
        ("narrow", "llama", MERGED),
    ],
    ids=str,
)
def test_cross_attention_is_trained_alone_whatever_it_started_from(files, probe, tmp_path, encoder, decoder, options):
    """It is what a decoder's output does not depend on where it has no source, beside what changes the width."""
    narrow = tiny.checkpoint(tmp_path, "bert", width=tiny.WIDTH // 2) if encoder == "narrow" else None
    model = compose(narrow or files.bert, getattr(files, decoder, None) or probe.folder(decoder), **options)
    ids = torch.tensor([[5, 6, 7]])
    model.decoder(input_ids=ids, use_cache=False).logits.sum().backward()
    cross_attention = {name for name, each in model.decoder.named_parameters() if each.grad is None}
    freeze(model, "all_but_cross_attention")
    sides = {f"decoder.{name}" for name in cross_attention}
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert {name for name in trained if name.startswith(("encoder.", "decoder."))} == sides
    beside = {name for name, _ in model.named_parameters() if not name.startswith(("encoder.", "decoder."))}
    assert trained - sides == beside and bool(beside) == (encoder == "narrow")
    assert bool(sides) == (options != MERGED) and any("gate" in name for name in sides) == (options == GATED)


def test_merged_attention_of_one_width_has_nothing_of_its_own_to_train(files, probe):
    model = compose(files.bert, probe.folder("llama"), **MERGED)
    with pytest.raises(UserError, match="merged attention has no parameter of its own, so nothing would be left to"):
        freeze(model, "all_but_cross_attention")


def test_a_new_vocabulary_is_trained_alone_first_then_everything(files, in_tmp):
    """Rothe et al., table 6: freeze what is warm-started, train the new embeddings, then all of it from there."""
    tokenizer = AutoTokenizer.from_pretrained(files.bert).train_new_from_iterator(tiny.corpus(), vocab_size=90)
    tokenizer.save_pretrained(in_tmp / "vocabulary")
    new = [f"model.{side}_vocabulary={in_tmp / 'vocabulary'}" for side in ("encoder", "decoder")]
    base = files.overrides("variant=bertshare", *new, "training.learning_rate=1e-2", "training.schedule=constant")
    assert main([*base, "training.freeze=pretrained", "folder=first"]) == 0
    assert main([*base, "init_from=first", "folder=second"]) == 0
    start = compose(files.bert, files.bert, "tied", encoder_vocabulary=str(in_tmp / "vocabulary"),
                    decoder_vocabulary=str(in_tmp / "vocabulary"))  # fmt: skip
    states = [EncoderDecoder.from_pretrained(in_tmp / name / "model").state_dict() for name in ("first", "second")]
    first, second = states
    fresh = set(start.config.fresh_parameters)
    for name, value in start.named_parameters():
        assert first[name].equal(value) == (name not in fresh) or value.std() == 0, name
    words = "encoder.embeddings.word_embeddings.weight"
    layer = "encoder.encoder.layer.0.output.dense.weight"
    assert words in fresh and not first[layer].equal(second[layer]) and not first[words].equal(second[words])
    assert Run.open(in_tmp / "second").metrics()["train/steps"] == 4


def test_a_checkpoint_remembers_what_was_frozen(files, in_tmp):
    assert main(files.overrides("variant=bert2bert", "training.freeze=encoder", "folder=run")) == 0
    module = Seq2SeqModule.load_from_checkpoint(Run.open("run").checkpoint("last"))
    frozen = {name for name, parameter in module.model.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"encoder.{name}" for name, _ in module.model.encoder.named_parameters()}
    start = compose(files.bert, files.bert, "tied_embeddings")
    for name in frozen:
        assert module.model.get_parameter(name).equal(start.get_parameter(name))
    assert "- not trained: the encoder, with what it shares\n" in Path("run/model/README.md").read_text()


def test_gpt_is_trained_tested_exported_and_evaluated_like_every_other(files, in_tmp):
    from transformers import AutoModelForCausalLM

    from encdec_lightning.cli.evaluate import main as evaluate

    assert main(files.overrides("variant=gpt", "folder=run", "generation=beam")) == 0
    predictions = Run.open("run").predictions()
    exported = AutoModelForCausalLM.from_pretrained("run/model")
    assert type(exported).__name__ == "GPT2LMHeadModel"
    assert evaluate(["run=run"]) == 0
    assert Run.open("run").predictions() == predictions
    module = Seq2SeqModule.load_from_checkpoint(Run.open("run").checkpoint("best"))
    again = copy.deepcopy(module.model)
    assert all(a.equal(b) for a, b in zip(module.model.parameters(), again.parameters(), strict=True))
    assert isinstance(module.tokenizers, Tokenizers)
