"""Configs that transformers cannot run: refused where it fails, mended where little is missing."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from composed import inputs, logits
from transformers import AutoModelForCausalLM

from encdec_lightning import EncoderDecoder, check, compose


def folder(tmp_path: Any, monkeypatch: Any, family: str, **values: Any) -> str:
    """A tiny checkpoint whose config has these values."""
    monkeypatch.setitem(tiny.PECULIAR, family, values)
    return tiny.family_checkpoint(tmp_path / family, family)


def test_a_flaubert_that_normalizes_first_is_refused(files, tmp_path, monkeypatch):
    (problem,) = check(folder(tmp_path, monkeypatch, "flaubert", pre_norm=True), files.bert).problems
    assert problem.field == "encoder" and "cannot run a flaubert with pre_norm" in str(problem)


def test_an_opt_with_narrow_states_is_no_encoder_but_a_decoder(files, tmp_path, monkeypatch):
    """As facebook/opt-350m is."""
    opt = folder(tmp_path, monkeypatch, "opt", word_embed_proj_dim=16)
    (problem,) = check(opt, files.bert, encoder_bidirectional=True).problems
    assert problem.field == "encoder" and "its states are 16 wide (word_embed_proj_dim)" in str(problem)
    assert logits(compose(files.bert, opt)).isfinite().all() and check(None, opt).ok


@pytest.mark.parametrize(("words", "ok"), [(300, False), (320, True)])
def test_a_marian_whose_sides_have_vocabularies_of_their_own(files, tmp_path, monkeypatch, words, ok):
    values = {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False, "decoder_vocab_size": words}
    found = check(files.bert, folder(tmp_path, monkeypatch, "marian", **values)).problems
    assert ok == (not found) and all("its decoder has 300 words, its encoder 320" in str(each) for each in found)


def test_sinusoids_of_a_trocr_that_is_loaded_are_those_of_its_class(files, tmp_path, monkeypatch):
    trocr = folder(tmp_path, monkeypatch, "trocr", use_learned_position_embeddings=False)
    model = compose(files.bert, trocr)
    own = AutoModelForCausalLM.from_config(tiny.family_config("trocr", 320))
    expected = own.model.decoder.embed_positions.weights
    assert torch.equal(model.decoder.model.decoder.embed_positions.weights, expected)
    model.save_pretrained(tmp_path / "saved")
    again = EncoderDecoder.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again, inputs(model)), logits(model))
