"""Llamas in GGUF files, read without transformers' own reading of them, and compared with it."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from encdec_lightning.composition.gguf_checkpoint import check_gguf_package, write_from_gguf
from encdec_lightning.errors import UserError

gguf = pytest.importorskip("gguf")
tiny_gguf = pytest.importorskip("tiny_gguf")


def opened(folder):
    model, said = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(said.values()), said
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    write_from_gguf(tiny_gguf.write(folder / "a.gguf", tiny_gguf.llama()), folder, 0.3)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_without_rounding_gives_the_model_that_it_was_written_from(tmp_path, tied):
    model = tiny_gguf.llama(tied)
    write_from_gguf(tiny_gguf.write(tmp_path / "a.gguf", model), tmp_path, 0.3)
    read = opened(tmp_path)
    ids = torch.randint(3, len(tiny_gguf.TOKENS), (2, 20))
    with torch.no_grad():
        assert torch.equal(read(ids).logits, model(ids).logits)
    known = {**model.config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    assert {**read.config.to_dict(), "_name_or_path": known["_name_or_path"], "dtype": known["dtype"]} == known
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert (read.generation_config.bos_token_id, read.generation_config.eos_token_id) == (1, 2)
    assert read.generation_config.pad_token_id == 2


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "F16"])
def test_tensors_in_few_bits_are_what_transformers_reads(tmp_path, kind):
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    model = tiny_gguf.llama()
    file = tiny_gguf.write(tmp_path / "a.gguf", model, kind)
    write_from_gguf(file, tmp_path, 0.3)
    theirs = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=model)["tensors"]
    ours = opened(tmp_path).state_dict()
    assert {*ours} == {*theirs, "lm_head.weight"}
    for name, value in theirs.items():
        assert torch.equal(ours[name], torch.as_tensor(value).bfloat16().float()), name
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, ours[name])]
    assert bool(changed) == (kind != "F16")  # 16 bits hold these values as they are


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_texts_come_back_from_the_tokens_of_a_gguf_file(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=True).input_ids
    assert tokenizer.decode(ids) == text


def test_the_tokenizer_of_a_gguf_file(tokenizer):
    assert tokenizer.tokenize("the  the 12") == ["t", "he", "Ġ", "Ġthe", "Ġ", "1", "2"]  # digits stand alone
    assert tokenizer.tokenize("x  12") == ["x", "ĠĠ", "1", "2"]
    assert tokenizer("<|im_start|>a<|im_end|>").input_ids[::2] == [1, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.model_max_length == 128
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|im_start|>hi<|im_end|>"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "qwen2"}, "general.architecture of a.gguf is 'qwen2': only 'llama' is read here."),
        ({"pre": "llama-bpe"}, "tokenizer.ggml.pre of a.gguf is 'llama-bpe': only 'smollm' is read here."),
        ({"lacking": "blk.1.attn_q.weight"}, "tensors of a.gguf is 'blk.1.attn_q.weight': it is missing, or"),
        (
            {"extra": "rope_freqs.weight"},
            "tensors of a.gguf is 'rope_freqs.weight': it is missing, or a llama has none",
        ),
        ({"embedding_length": 128}, "its shape must be ["),
    ],
)
def test_another_gguf_file_is_refused(tmp_path, changes, sentence):
    file = tiny_gguf.write(tmp_path / "a.gguf", tiny_gguf.llama(), **changes)
    with pytest.raises(UserError, match=re.escape(sentence)):
        write_from_gguf(file, tmp_path, 0.3)
    assert not (tmp_path / "model.safetensors").exists()


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch):
    check_gguf_package("owner/name")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("pip install 'encdec_lightning[gguf]'")):
        check_gguf_package("owner/name")
