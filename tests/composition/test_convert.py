"""Pickled weights become safetensors that hold what the pickles held, for an encoder as for a decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from encdec_lightning import UserError, compose
from encdec_lightning.composition.checkpoints import load_weights, no_safetensors, stored_names
from encdec_lightning.composition.convert import convert

FIRST, SECOND = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
INDEX = "pytorch_model.bin.index.json"


def pickled(folder: str, kind: Any) -> dict[str, torch.Tensor]:
    """Put a pickle of the whole model in the place of a checkpoint's safetensors, as older transformers wrote it."""
    state: dict[str, torch.Tensor] = kind.from_pretrained(folder).state_dict()
    (Path(folder) / "model.safetensors").unlink()
    torch.save(state, Path(folder) / "pytorch_model.bin")
    return state


@pytest.mark.parametrize(
    ("family", "kind", "kept", "role"),
    [
        ("roberta", AutoModelForMaskedLM, "roberta.embeddings.word_embeddings.weight", "encoder"),
        ("albert", AutoModelForMaskedLM, "albert.embeddings.word_embeddings.weight", "encoder"),
        ("t5", AutoModelForSeq2SeqLM, "shared.weight", "encoder"),
        ("bart", AutoModelForSeq2SeqLM, "model.shared.weight", "decoder"),
        ("gpt2", AutoModelForCausalLM, "transformer.wte.weight", "decoder"),
        ("opt", AutoModelForCausalLM, "model.decoder.embed_tokens.weight", "decoder"),
    ],
)
def test_the_word_embeddings_keep_their_name(files, tmp_path, family, kind, kept, role):
    folder = tiny.family_checkpoint(tmp_path / family, family)
    other = {"decoder": files.bert} if role == "encoder" else {"encoder": files.bert}
    torch.manual_seed(0)
    expected = compose(**{role: folder, **other}).state_dict()
    state = pickled(folder, kind)
    same = [name for name in state if state[name].data_ptr() == state[kept].data_ptr()]
    assert len(same) > 1
    convert(Path(folder))
    assert set(same) & stored_names(folder) == {kept}
    torch.manual_seed(0)
    model = compose(**{role: folder, **other})
    assert not any(name.startswith(f"{role}.") and "embed" in name for name in model.config.fresh_parameters)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def in_two(folder: str) -> dict[str, torch.Tensor]:
    """Put two pickles and their index in the place of a checkpoint's safetensors."""
    state = pickled(folder, AutoModelForCausalLM)
    (Path(folder) / "pytorch_model.bin").unlink()
    names = [name for name in state if name != "lm_head.weight"]
    halves = {FIRST: names[:9], SECOND: names[9:]}
    for file, part in halves.items():
        torch.save({name: state[name] for name in part}, Path(folder) / file)
    places = {name: file for file, part in halves.items() for name in part}
    (Path(folder) / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return {name: state[name] for name in names}


def test_several_pickles_become_as_many_safetensors_and_an_index(files, tmp_path):
    folder = tiny.checkpoint(tmp_path / "gpt2", "gpt2")
    state = in_two(folder)
    with pytest.raises(UserError, match=rf"holds {INDEX} but no model\.safetensors; convert it once with"):
        compose(files.bert, folder)
    assert convert(Path(folder)).name == "model.safetensors.index.json"
    assert {file.name for file in Path(folder).glob("*.safetensors")} == {
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    }  # fmt: skip
    decoder = compose(files.bert, folder).decoder.state_dict()
    assert stored_names(folder) == state.keys() and all(torch.equal(state[name], decoder[name]) for name in state)
    with pytest.raises(UserError, match=r"it holds a model\.safetensors\.index\.json already"):
        convert(Path(folder))


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ("{", "is no index of weights"),
        ('{"weight_map": {"a": 5}}', "is no index of weights"),
        ('{"weight_map": {}}', "must name files such as"),
        ('{"weight_map": {"a": "../pytorch_model.bin"}}', "must name files such as"),
        (f'{{"weight_map": {{"a": "{FIRST}", "b": "pytorch_model-3.bin"}}}}', r"names pytorch_model-3\.bin, which"),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path, index, sentence):
    torch.save({}, tmp_path / FIRST)
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(UserError, match=sentence):
        convert(tmp_path)


def test_a_damaged_file_leaves_nothing_behind(tmp_path):
    folder = Path(tiny.checkpoint(tmp_path / "gpt2", "gpt2"))
    in_two(str(folder))
    (folder / SECOND).write_bytes(b"PK damaged")
    with pytest.raises(UserError, match=f"its {SECOND} is damaged or holds more than tensors"):
        convert(folder)
    assert not [*folder.glob("*.safetensors*")]


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", FIRST])
def test_no_conversion_is_advised_that_convert_would_refuse(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert no_safetensors(str(tmp_path)) == "the folder holds no model.safetensors (other formats are not read: they " \
        "can run code)"  # fmt: skip


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("expected 2D input"), r"transformers cannot load it \(RuntimeError: expected 2D input\)"),
        (RuntimeError("size mismatch for x"), "the weights do not have the sizes that its config.json says"),
        (ValueError(), r"transformers cannot load it \(ValueError: \)"),
    ],
)
def test_only_sizes_that_differ_are_said_to_differ(files, error, sentence):
    with pytest.raises(UserError, match=sentence):
        load_weights(raising(error), "encoder", files.bert, tiny.config("bert", 123))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), MemoryError(), None])
def test_memory_that_runs_out_is_no_mistake_of_the_checkpoint(files, error):
    if error is None:
        with pytest.raises(RuntimeError) as caught:
            torch.empty(1 << 50)
        error = caught.value
    with pytest.raises(type(error)):
        load_weights(raising(error), "encoder", files.bert, tiny.config("bert", 123))


def raising(error: Exception) -> Any:
    """A class whose weights cannot be loaded."""

    class Auto:
        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> None:
            raise error

    return Auto
