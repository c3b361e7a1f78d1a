"""What is told of the cross-attention that a language model is given."""

from __future__ import annotations

import json

import pytest

from encdec_lightning.cli.check import main
from encdec_lightning.cli.train import main as train
from encdec_lightning.composition.cross_attending import with_cross_attention
from encdec_lightning.reporting.composition import added, what_is_added


@pytest.mark.parametrize(
    ("values", "init", "expected"),
    [
        ({}, "pretrained", "between self-attention and feed-forward in layers 1 to 7, which starts at random"),
        (
            {"place": "after", "every": 3},
            "random",
            "after the feed-forward part in layers 3, 6, which starts at random",
        ),
        ({"every": 7, "gate": "zero"}, "self_attention", "layer 7, which starts as its self-attention; a gate, closed"),
        ({"kind": "merged"}, "pretrained", "self-attention of layers 1 to 7 reads the source as well, by its own"),
    ],
)
def test_what_is_added_is_told_in_a_sentence(probe, values, init, expected):
    config = probe("decoder", "bert").config.decoder
    assert added(config, init) is None
    options = {f"cross_attention_{name}": value for name, value in values.items()}
    llama = probe("prefix", "llama").config.decoder
    given = added(with_cross_attention(type(llama)(num_hidden_layers=7), **options), init)
    assert given is not None and expected in what_is_added(given)


def test_the_report_and_the_card_tell_it(files, in_tmp, capsys):
    assert main(files.overrides("variant=enc2lm", "model.cross_attention_every=2")) == 0
    out = capsys.readouterr().out
    assert "added    cross-attention between self-attention and feed-forward in layer 2, which starts at random" in out
    assert "llama" in out and "cross_attending" not in out
    assert main([*files.overrides("variant=enc2lm", "model.cross_attention_gate=zero"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["added"] == {
        "kind": "separate", "place": "between", "layers": [1, 2], "start": "at random", "gate": "zero",
    }  # fmt: skip
    counts = found["parameters"]["as_built"]
    assert counts["cross_attention"] == counts["random"] > 1000
    assert main([*files.overrides("variant=bert2bert"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["added"] is None
    assert train(files.overrides("variant=enc2lm", "folder=run")) == 0
    card = (in_tmp / "run" / "model" / "README.md").read_text()
    assert "The decoder is a language model that had none: cross-attention between self-attention" in card
    assert "from encdec_lightning import EncoderDecoder" in card
