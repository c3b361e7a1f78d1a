"""Encoders with more positions than their checkpoints: short sources are read as before, long ones at all."""

from __future__ import annotations

import pytest
import tiny
import torch

from encdec_lightning import Composition, UserError, UserErrors, check, compose
from encdec_lightning.composition.architectures import ARCHITECTURES, length_limit
from encdec_lightning.training.freezing import freeze
from encdec_lightning.training.lora import add_lora
from encdec_lightning.training.options import Lora

MORE = 20
ENCODERS = [family for family, each in ARCHITECTURES.items() if each.encodes != "no"]


def states(model, length: int) -> torch.Tensor:
    ids = torch.randint(5, 100, (2, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


@pytest.mark.parametrize("family", ENCODERS)
def test_every_encoder_reads_further_than_its_checkpoint(files, probe, family):
    options = dict(dropout=0.0, encoder_bidirectional=ARCHITECTURES[family].encodes == "unmasked")
    pair = probe.folder(family), files.gpt2
    plain = compose(*pair, **options).eval()
    limit = length_limit(plain.config.encoder)
    if limit is None:
        (problem,) = check(*pair, **options, encoder_positions=100).problems
        assert "has no table of positions" in str(problem)
        return
    model = compose(*pair, **options, encoder_positions=limit + MORE, encoder_positions_init="last").eval()
    assert length_limit(model.config.encoder) == limit + MORE
    torch.testing.assert_close(states(model, limit), states(plain, limit))
    assert states(model, limit + MORE).isfinite().all()
    assert model.config.fresh_parameters == plain.config.fresh_parameters


def test_further_rows_start_at_random_or_as_the_last(files, tmp_path):
    plain = compose(files.bert, files.bert).encoder.embeddings.position_embeddings.weight
    for start in ("random", "last"):
        model = compose(files.bert, files.gpt2, encoder_positions=len(plain) + 3, encoder_positions_init=start)
        table = model.encoder.embeddings.position_embeddings.weight
        assert torch.equal(table[: len(plain)], plain)
        assert all(torch.equal(row, plain[-1]) == (start == "last") for row in table[len(plain) :])
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again.encoder.embeddings.position_embeddings.weight, table)


def test_sinusoids_go_on(files, probe):
    """What is computed is no value to repeat."""
    model = compose(probe.folder("roformer"), files.gpt2, encoder_positions=200, encoder_positions_init="last")
    table = model.encoder.encoder.embed_positions.weight
    assert len(torch.unique(table, dim=0)) == 200


def test_numbers_that_make_no_sense(files):
    (problem,) = check(files.bert, files.gpt2, encoder_positions=30).problems
    assert str(problem).startswith("encoder_positions is 30: the checkpoint has ")
    with pytest.raises(UserErrors, match="without encoder_positions there are no further rows"):
        Composition(encoder="a", decoder="b", encoder_positions_init="last")
    with pytest.raises(UserErrors, match="with encoder_init layers all rows start at random"):
        Composition(encoder="a", decoder="b", encoder_positions=9, encoder_init="layers", encoder_positions_init="last")
    with pytest.raises(UserErrors, match="without an encoder it stays null"):
        Composition(encoder=None, decoder="b", encoder_positions=600)
    (problem,) = check(files.bert, files.bert, "tied", encoder_positions=600).problems
    assert problem.field == "weights" and "use untied" in str(problem)


@pytest.mark.parametrize("part", ["pretrained", "encoder", "all_but_cross_attention"])
def test_rows_at_random_that_would_never_learn_are_refused(files, part):
    model = compose(files.bert, files.gpt2, encoder_positions=90)
    with pytest.raises(UserError, match="they would stay at random; use last"):
        freeze(model, part)
    freeze(model, "decoder")
    freeze(compose(files.bert, files.gpt2, encoder_positions=90, encoder_positions_init="last"), part)


def test_lora_leaves_no_rows_at_random(files):
    model = compose(files.bert, files.gpt2, encoder_positions=90)
    add_lora(model, Lora(rank=2))
    with pytest.raises(UserError, match="they would stay at random; use last"):
        freeze(model, None)


@pytest.mark.parametrize(
    ("family", "settings"),
    [("deberta", {}), ("deberta-v2", {}), ("deberta-v2", {"position_buckets": 8})],
)
def test_relative_positions_stay_where_they_are(files, tmp_path, monkeypatch, family, settings):
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    monkeypatch.setitem(tiny.PECULIAR, family, {**relative, "max_relative_positions": -1, **settings})
    checkpoint = tiny.family_checkpoint(tmp_path, family)
    plain = compose(checkpoint, files.gpt2).eval()
    model = compose(checkpoint, files.gpt2, encoder_positions=length_limit(plain.config.encoder) + MORE).eval()
    torch.testing.assert_close(states(model, 40), states(plain, 40))
    assert states(model, length_limit(plain.config.encoder) + MORE).isfinite().all()
