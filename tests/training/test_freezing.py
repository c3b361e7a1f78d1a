"""Frozen parts stay as they are, bit for bit; the rest learns."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import tiny
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


def test_a_decoder_alone_has_no_encoder_to_freeze(files):
    with pytest.raises(UserError, match="a decoder alone has no encoder"):
        freeze(compose(None, files.gpt2), "encoder")


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
