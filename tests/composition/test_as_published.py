"""Families as their checkpoints are published, where the tests' tiny ones are tamer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import family_checkpoint
from transformers import AutoConfig

from encdec_lightning.composition.compose import compose
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.training.freezing import freeze


def changed(folder: Path, family: str, **values: object) -> str:
    """A tiny checkpoint whose config has other values."""
    place = family_checkpoint(folder / family, family)
    config = AutoConfig.from_pretrained(place)
    for name, value in values.items():
        setattr(config, name, value)
    config.save_pretrained(place)
    return place


def test_big_bird_attends_to_all_tokens_whatever_else_is_in_the_batch(tmp_path: Path, files):
    place = family_checkpoint(tmp_path / "big_bird", "big_bird")
    assert AutoConfig.from_pretrained(place).attention_type == "block_sparse"
    model = compose(encoder=place, decoder=files.bert, weights="untied").eval()
    assert model.encoder.config.attention_type == "original_full"
    ids = torch.randint(10, 60, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = model.encoder(ids).last_hidden_state
        padded = torch.cat([ids, torch.full((1, 8), 1)], dim=1)
        beside = model.encoder(padded, attention_mask=(padded != 1).long()).last_hidden_state[:, :12]
    assert torch.allclose(alone, beside, atol=1e-5)


def test_xmod_without_a_language_is_refused(tmp_path: Path, files):
    place = changed(tmp_path, "xmod", default_language=None)
    with pytest.raises((UserError, UserErrors), match="has a default_language, one of en_XX"):
        compose(encoder=place, decoder=files.bert, weights="untied")


def test_chosen_layers_keep_what_is_said_of_each(tmp_path: Path, files):
    place = family_checkpoint(tmp_path / "smollm3", "smollm3")
    stored = AutoConfig.from_pretrained(place).no_rope_layers
    for layers in ([2], [1, 2]):
        model = compose(encoder=files.bert, decoder=place, weights="untied", decoder_layers=layers)
        assert [*model.decoder.config.no_rope_layers] == [stored[number - 1] for number in layers]


def test_layers_that_are_scaled_by_their_number_are_the_first_ones(tmp_path: Path, files):
    place = changed(tmp_path, "gpt2", scale_attn_by_inverse_layer_idx=True)
    assert compose(encoder=files.bert, decoder=place, weights="untied", decoder_layers=1)
    with pytest.raises((UserError, UserErrors), match="scaled by the numbers of its layers, take the first ones"):
        compose(encoder=files.bert, decoder=place, weights="untied", decoder_layers=[2])


def test_language_embeddings_that_nothing_reads_are_not_trained(tmp_path: Path, files):
    model = compose(encoder=family_checkpoint(tmp_path / "xlm", "xlm"), decoder=files.bert, weights="untied")
    assert model.encoder.lang_embeddings.weight.shape[0] == 2
    freeze(model, None)
    assert not model.encoder.lang_embeddings.weight.requires_grad
    assert model.encoder.embeddings.weight.requires_grad
