"""A llama in a GGUF file in, a folder out that transformers opens by itself. Nothing else here knows the package gguf.

Quantized tensors are turned back into numbers of 16 bits (bfloat16). These are the values that the file stands for, not
the ones from which it was made.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from encdec_lightning.errors import UserError

if TYPE_CHECKING:
    from gguf import ReaderTensor

HOLDS = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}
"""The kind of model and the kind of tokenizer that are read here, as GGUF names them."""
SPECIAL = 3  # the type of a token that is no text


def check_gguf_package(checkpoint: str) -> None:
    """Raise `UserError` where the package that reads GGUF files is missing."""
    if importlib.util.find_spec("gguf") is None:
        expected = "without the Hub it is read by the package gguf, which is not installed: "
        raise UserError("checkpoint", checkpoint, f"{expected}pip install 'encdec_lightning[gguf]'")


def write_from_gguf(file: Path, folder: Path, initializer_range: float) -> None:
    """Write the model and the tokenizer of a GGUF file into `folder`, its tensors in bfloat16.

    `initializer_range` is the standard deviation of fresh weights, which a GGUF file does not tell. Raises `UserError`
    for a file of another kind of model or tokenizer, or one that lacks tensors.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    for name, value in HOLDS.items():
        if fields.get(name) != value:
            raise UserError(f"{name} of {file.name}", fields.get(name), f"only {value!r} is read here")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = _config(fields, "output.weight" not in tensors, initializer_range)
    config.save_pretrained(folder)
    special = {key: getattr(config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**special).save_pretrained(folder)
    _tokenizer(fields).save_pretrained(folder)
    content = save(_weights(tensors, config, file), metadata={"format": "pt"})
    (folder / "model.safetensors").write_bytes(content)


def _config(fields: Mapping[str, Any], tied: bool, initializer_range: float) -> LlamaConfig:
    def number(name: str) -> float:
        return float(str(np.float32(fields[f"llama.{name}"])))  # 1e-05, not 9.999999747378752e-06

    return LlamaConfig(
        architectures=[LlamaForCausalLM.__name__],
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=number("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": number("rope.freq_base")},
        tie_word_embeddings=tied,
        initializer_range=initializer_range,
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
        dtype="bfloat16",
    )


def _weights(tensors: Mapping[str, ReaderTensor], config: LlamaConfig, file: Path) -> dict[str, torch.Tensor]:
    """The tensors under transformers' names."""
    from gguf import MODEL_ARCH, get_tensor_name_map
    from gguf.quants import dequantize

    with torch.device("meta"):
        shapes = {name: value.shape for name, value in LlamaForCausalLM(config).state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    stored = {name: f"{names.get_name(name.removesuffix('.weight'))}.weight" for name in shapes}
    if odd := {*stored.values()} ^ {*tensors}:
        raise UserError(f"tensors of {file.name}", sorted(odd)[0], "it is missing, or a llama has none of this name")
    state: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        tensor = tensors[stored[name]]
        value = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), np.float32))
        if value.shape != shape:
            raise UserError(f"{tensor.name} of {file.name}", list(value.shape), f"its shape must be {list(shape)}")
        if name.endswith("q_proj.weight"):
            value = _halves(value, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            value = _halves(value, config.num_key_value_heads)
        state[name] = value.to(torch.bfloat16).contiguous()
    return state


def _halves(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of a query or key projection, (heads * size, width), in the order in which transformers rotates them.

    A rotation takes two rows of a head. GGUF has them side by side; transformers has one of each pair in the head's
    first half, the other in the second.
    """
    return rows.view(heads, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def _tokenizer(fields: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Byte pairs; each digit stands alone, as `smollm` says, which transformers' own reading of GGUF leaves out."""
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == SPECIAL])
    named = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=fields.get("tokenizer.chat_template"),
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
        **{f"{ours}_token": tokens[fields[f"tokenizer.ggml.{name}_token_id"]] for name, ours in named.items()},
    )
