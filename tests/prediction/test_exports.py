"""`encdec-evaluate model=<an exported folder>`: the texts that the model itself writes, or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from encdec_lightning import Tokenizers, compose
from encdec_lightning.errors import UserError
from encdec_lightning.generation.other_model import OtherModel, Reading

SOURCES = {1: "sort the matrix of a list", 2: "merge the graph"}


def exported(folder: Path, encoder: str | None, decoder: str):
    """The model, in whose decoder all weights are larger, and its tokenizers."""
    tokenizers = Tokenizers.from_pretrained(encoder or decoder, decoder)
    torch.manual_seed(0)
    model = compose(encoder, decoder, tokenizers=tokenizers).eval()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(3)
    model.save_pretrained(folder)
    tokenizers.save_pretrained(folder)
    return model, tokenizers


@pytest.mark.parametrize(("encoder", "decoder"), [("bert", "bert"), ("bert", "gpt2"), ("roberta", "bert")])
def test_a_pair_writes_its_own_texts(files, tmp_path, encoder, decoder):
    model, tokenizers = exported(tmp_path, getattr(files, encoder), getattr(files, decoder))
    other = OtherModel.open(str(tmp_path), Reading(max_source_length=40))
    found = dict(other.texts(SOURCES.items(), {"max_new_tokens": 8}, budget=100))
    for key, source in SOURCES.items():
        ids = torch.tensor(tokenizers.encode_sources([source], 40))
        (expected,) = tokenizers.decode(model.generate(input_ids=ids, max_new_tokens=8))
        assert found[key] == expected != ""


def test_a_source_that_is_read_as_a_prefix_needs_its_run(files, tmp_path):
    exported(tmp_path, None, files.gpt2)
    with pytest.raises(UserError, match=r"it reads a source and then a start token, .*: score it with run="):
        OtherModel.open(str(tmp_path), Reading(max_source_length=40))
