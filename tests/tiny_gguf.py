"""GGUF files of tiny llamas, written by the package gguf as llama.cpp's conversion writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ Ġ", "Ġ t", "h e", "Ġt he", "1 2", "Ġ 1")
TOKENS = (*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES))
TEMPLATE = "{% for message in messages %}{{ '<|im_start|>' + message['content'] + '<|im_end|>' }}{% endfor %}"
HEADS, KEY_HEADS = 4, 2


def llama(tied: bool = True, width: int = 64) -> LlamaForCausalLM:
    """Random values, each one a bfloat16."""
    config = LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=width, intermediate_size=96, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter)).copy_(parameter.bfloat16())
    return model


def interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a projection in GGUF's order: of each head the first row of each half, then the second of each, ..."""
    size = len(rows) // heads
    order = [head * size + half * size // 2 + at for head in range(heads) for at in range(size // 2) for half in (0, 1)]
    return rows[order]


def write(path: Path, model: LlamaForCausalLM, kind: str = "F32", lacking: str = "", **other: Any) -> Path:
    """The file of a model, its matrices of a kind such as Q4_1. `other` are fields, `lacking` is a tensor left out."""
    config, width = model.config, model.config.hidden_size
    fields = {"architecture": "llama", "pre": "smollm", "extra": "", "embedding_length": width, **other}
    writer = gguf.GGUFWriter(path, fields["architecture"])
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(fields["embedding_length"])
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(fields["pre"])
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in TOKENS])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    quantized = gguf.GGMLQuantizationType[kind]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stored = f"{names.get_name(name.removesuffix('.weight'))}.weight"
        heads = HEADS if "q_proj" in name else KEY_HEADS if "k_proj" in name else 0
        numbers = np.ascontiguousarray(interleaved(value, heads) if heads else value, np.float32)
        if stored != lacking:
            matrix = numbers.ndim == 2 and kind != "F32"
            content = gguf.quants.quantize(numbers, quantized) if matrix else numbers
            writer.add_tensor(stored, content, raw_dtype=quantized if matrix else None)
    if fields["extra"]:
        writer.add_tensor(fields["extra"], np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
