"""Folders that are no checkpoints, each in its own way: one sentence, at once, and no traceback."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from encdec_lightning import EncoderDecoder, PrefixDecoder, Tokenizers, compose
from encdec_lightning.composition import foreign
from encdec_lightning.composition.checkpoints import vocabulary
from encdec_lightning.composition.convert import convert
from encdec_lightning.errors import UserError, UserErrors

DEEP = "[" * 200_000
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[]",
    "a string": b'"text"',
    "null": b"null",
    "half": b'{"model_type": "be',
    "nested brackets": DEEP.encode(),
    "nested mappings": b'{"a":' * 100_000,
    "NUL bytes": b"\0" * 1000,
    "latin-1": '{"model_type": "bért"}'.encode("latin-1"),
    "a number of 5,000 digits": b'{"vocab_size": 1' + b"0" * 5000 + b"}",
}
CONFIGS: dict[str, dict] = {
    "10 million layers": {"num_hidden_layers": 10_000_000},
    "layers without end": {"num_hidden_layers": 10**18},
    "minus one layer": {"num_hidden_layers": -1},
    "layers as text": {"num_hidden_layers": "two"},
    "half a layer": {"num_hidden_layers": 1.5},
    "no heads": {"num_attention_heads": 0},
    "heads as a list": {"num_attention_heads": [4]},
    "words without end": {"vocab_size": 10**30},
    "many words": {"vocab_size": 10**15},
    "no word": {"vocab_size": 0},
    "words as null": {"vocab_size": None},
    "wide beyond memory": {"hidden_size": 10**9, "intermediate_size": 10**9, "num_attention_heads": 1},
    "width as a mapping": {"hidden_size": {"a": 1}},
    "a family that is a number": {"model_type": 5},
    "a family that is a list": {"model_type": ["bert"]},
    "a family as a path": {"model_type": "../bert"},
    "an activation that is none": {"hidden_act": "nothing"},
    "an activation as a list": {"hidden_act": ["gelu"]},
    "an auto_map that is a number": {"model_type": "mine", "auto_map": 5},
    "dropout as text": {"hidden_dropout_prob": "much"},
    "a dtype that is none": {"dtype": "float1"},
    "a dtype that is a list": {"dtype": [1]},
    "quantized": {"quantization_config": {}},
}
WEIGHTS: dict[str, bytes] = {
    "empty": b"",
    "half": b"",  # filled in below
    "a header without end": b"\xff" * 8 + b"{}",
    "a header of the wrong length": (5).to_bytes(8, "little") + b"{}",
    "brackets as a header": len(DEEP).to_bytes(8, "little") + DEEP.encode(),
    "no header": b"\0" * 100,
    "a pickle": b"",
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def copy(files, tmp_path) -> Path:
    return Path(shutil.copytree(files.bert, tmp_path / "copy"))


def refused(work, seconds: float = 10) -> str:
    """The one sentence of a refusal, which costs little time of the processor."""
    began = time.process_time()
    with pytest.raises((UserError, UserErrors)) as caught:
        work()
    sentence = str(caught.value)
    assert time.process_time() - began < seconds
    assert "\n" not in sentence and len(sentence) < 6000
    return sentence


@pytest.mark.parametrize("content", CONTENTS)
def test_a_config_of(content, copy, files):
    (copy / "config.json").write_bytes(CONTENTS[content])
    for work in (
        lambda: compose(str(copy), files.bert),
        lambda: EncoderDecoder.from_pretrained(copy),
        lambda: PrefixDecoder.from_pretrained(copy),
        lambda: vocabulary("encoder_vocabulary", str(copy)),
    ):
        assert "config.json" in refused(work)


@pytest.mark.parametrize("init", ["pretrained", "random"])
@pytest.mark.parametrize("values", CONFIGS)
def test_a_config_that_says(values, init, copy, files):
    known = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**known, **CONFIGS[values]}))
    assert str(copy) in refused(lambda: compose(str(copy), files.bert, encoder_init=init))


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", TOKENIZER_FILES)
def test_a_tokenizer_of(name, content, copy):
    (copy / name).write_bytes(CONTENTS[content])
    if content.startswith("a number") and name == "tokenizer_config.json":
        assert "cannot be read as JSON" in refused(lambda: Tokenizers.from_pretrained(str(copy)))
    else:
        assert str(copy) in refused(lambda: Tokenizers.from_pretrained(str(copy)))


TOKENIZERS: dict[str, dict] = {
    "a class that is a number": {"tokenizer_class": 5},
    "a class that is a list": {"tokenizer_class": ["BertTokenizer"]},
    "a class that is a path": {"tokenizer_class": "os.system"},
    "an auto_map that is a number": {"auto_map": 5},
    "an auto_map that is empty": {"auto_map": {"AutoTokenizer": []}},
    "tokens that are numbers": {"pad_token": 5},
    "tokens that are lists": {"cls_token": [[]]},
    "added tokens that are a list": {"added_tokens_decoder": [1]},
    "added tokens without a number": {"added_tokens_decoder": {"a": {"content": "x"}}},
    "a longest length that is text": {"model_max_length": "long"},
}
MAY_LOAD = {"a class that is a path"}  # transformers passes over these


@pytest.mark.parametrize("values", TOKENIZERS)
def test_a_tokenizer_config_that_says(values, copy, files):
    known = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**known, **TOKENIZERS[values]}))
    if values in MAY_LOAD:
        found, expected = (
            Tokenizers.from_pretrained(each).encode_sources(["a list"], 9) for each in (str(copy), files.bert)
        )
        assert found == expected
    else:
        assert str(copy) in refused(lambda: Tokenizers.from_pretrained(str(copy)))


def test_tokenizer_json_with_other_types_inside(copy):
    known = json.loads((copy / "tokenizer.json").read_text())
    for part in ("model", "normalizer", "pre_tokenizer", "post_processor", "added_tokens"):
        for value in (5, "x", [1], {"type": "nothing"}):
            (copy / "tokenizer.json").write_text(json.dumps({**known, part: value}))
            assert str(copy) in refused(lambda: Tokenizers.from_pretrained(str(copy)))


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_are(kind, copy, files):
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes({"half": whole[: len(whole) // 2]}.get(kind, WEIGHTS[kind]))
    if kind == "a pickle":
        torch.save({"a": torch.zeros(1)}, copy / "model.safetensors")
    assert str(copy) in refused(lambda: compose(str(copy), files.bert))


@pytest.mark.parametrize(
    "index",
    [{}, {"weight_map": 5}, {"weight_map": {"a": 5}}, {"weight_map": {"a": "../x.safetensors"}}, [], 5],
    ids=str,
)
def test_an_index_that_says(index, copy, files):
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors.index.json" in refused(lambda: compose(str(copy), files.bert))


def test_tensors_of_other_types_and_sizes(copy, files):
    save_file({"embeddings.word_embeddings.weight": torch.zeros(3, dtype=torch.int64)}, copy / "model.safetensors")
    assert str(copy) in refused(lambda: compose(str(copy), files.bert))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device", "a link to nothing", "a link to itself"])
def test_a_file_that_is_none(kind, name, copy, files):
    path = copy / name
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to({"a device": "/dev/zero", "a link to nothing": "gone", "a link to itself": name}[kind])
    if name == "tokenizer_config.json" and kind not in ("a pipe", "a device"):
        assert len(Tokenizers.from_pretrained(str(copy)).source) == 123  # tokenizer.json holds all that is needed
        return
    works = {
        "config.json": lambda: compose(str(copy), files.bert),
        "model.safetensors": lambda: compose(str(copy), files.bert),
    }
    assert str(copy) in refused(works.get(name, lambda: Tokenizers.from_pretrained(str(copy))))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "added_tokens.json"])
def test_a_file_without_end(name, copy):
    with (copy / name).open("wb") as stream:
        stream.truncate(1 << 40)  # takes no space
    assert "larger than" in refused(lambda: Tokenizers.from_pretrained(str(copy)))


NAMES = ["", "a\0b", "x" * 5000, "/dev/zero", "a/b/c", "../..", "~", "http://x", "ü"]


@pytest.mark.parametrize("path", NAMES, ids=lambda path: repr(path[:20]))
def test_a_name_that_is_none(path, files):
    refused(lambda: compose(path, files.bert))
    refused(lambda: Tokenizers.from_pretrained(path))
    refused(lambda: convert(Path(path or "nowhere")))


def test_a_pipe_as_a_folder(tmp_path, files):
    os.mkfifo(tmp_path / "pipe")
    assert "it is no folder" in refused(lambda: compose(str(tmp_path / "pipe"), files.bert))


@pytest.mark.parametrize("content", [b"", b"no pickle", [1], {"a": "text"}, {5: torch.zeros(1)}, "a pipe"], ids=str)
def test_what_cannot_be_converted(content, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    if content == "a pipe":
        os.mkfifo(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    refused(lambda: convert(tmp_path))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_an_unknown_name_without_a_network_takes_no_half_minute(monkeypatch, files):
    """The Hub's client would try for half a minute; the endpoint here refuses every connection."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    foreign._asked.cache_clear()
    try:
        assert not foreign.hub_answers()
        for work in (
            lambda: compose("nobody/nothing", files.bert),
            lambda: Tokenizers.from_pretrained("nobody/nothing"),
        ):
            refused(work, seconds=5)
    finally:
        foreign._asked.cache_clear()
