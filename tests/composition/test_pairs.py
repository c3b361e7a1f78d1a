"""Pairs drawn from the whole table, as what `check` says of them and as what `compose` makes of them."""

from __future__ import annotations

import copy
import tempfile

import torch
from composed import WEIGHTS
from families import batch, logits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encdec_lightning.composition.architectures import ARCHITECTURES
from encdec_lightning.composition.checks.skeleton import skeleton
from encdec_lightning.composition.compatibility import check
from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.model import EncoderDecoder, count_ties
from encdec_lightning.errors import UserErrors

FOLDERS = st.sampled_from(sorted(ARCHITECTURES))
ADDED = st.sampled_from([{}, {}, {"kind": "merged"}, {"gate": "zero"}, {"place": "after", "every": 2}]).map(
    lambda options: {f"cross_attention_{name}": value for name, value in options.items()}
)
INITS = st.sampled_from(["pretrained", "random", "embeddings", "layers"])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(encoder=FOLDERS, decoder=FOLDERS, weights=st.sampled_from(WEIGHTS),
       same=st.booleans(), inits=st.tuples(INITS, INITS), cross=st.sampled_from(["pretrained", "random", "self_attention"]), added=ADDED)  # fmt: skip
def test_any_pair_is_refused_beforehand_or_holds_what_check_said(
    probe, encoder, decoder, weights, same, inits, cross, added
):
    encoder = decoder if same else encoder
    options = {
        "encoder": probe.folder(encoder), "decoder": probe.folder(decoder), "weights": weights, "encoder_init": inits[0],
        "decoder_init": inits[1], "cross_attention_init": cross,
        "encoder_bidirectional": ARCHITECTURES[encoder].encodes == "unmasked", **added,
    }  # fmt: skip
    answer = check(**options)
    try:
        model = compose(**options)
    except UserErrors as errors:
        assert answer.problems and str(errors) == "\n".join(map(str, answer.problems))
        return
    assert answer.ok and count_ties(model) == len(model.shared)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    counts = answer.parameters.as_built
    assert counts.total == sum(sizes.values())
    assert counts.shared == sum(sizes[source] for source in set(model.shared.values()))
    assert skeleton(model.composition).config.fresh_parameters == model.config.fresh_parameters
    assert counts.random == sum(sizes[name] for name in model.config.fresh_parameters)
    inputs = batch(model)
    with tempfile.TemporaryDirectory() as folder:
        model.eval().save_pretrained(folder)
        again = EncoderDecoder.from_pretrained(folder)
    assert torch.equal(logits(again, **inputs), logits(model, **inputs)) and count_ties(again) == len(model.shared)
    moved = copy.deepcopy(model).to(torch.float64)
    assert count_ties(moved) == len(model.shared)
