"""What the runners of the benchmark share: lengths, weights, the clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import BartConfig, BertConfig, EncoderDecoderConfig

if TYPE_CHECKING:
    from encdec_lightning import EncoderDecoder

LENGTHS = Path(__file__).resolve().parents[1] / "speed" / "lengths.json"
SIZES: dict[str, dict[str, int]] = {
    "minilm": dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "base": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
}
VOCABULARY, START, END, PAD = 30522, 101, 102, 0
SOURCES, TARGET, AT_ONCE = 128, 24, 64  # sources of a run; tokens of each target; sources under way


def sources(count: int = SOURCES) -> list[list[int]]:
    """Random tokens with the lengths of debsum's documents, longest first, as a sorted test set."""
    draw = torch.Generator().manual_seed(0)
    lengths = sorted(json.loads(LENGTHS.read_text())["source"][:count], reverse=True)
    return [torch.randint(1000, VOCABULARY - 1, (length,), generator=draw).tolist() for length in lengths]


def padded(group: list[list[int]]) -> dict[str, Tensor]:
    """Ids and mask."""
    width = max(map(len, group))
    ids = torch.tensor([each + [PAD] * (width - len(each)) for each in group])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def model(size: str) -> EncoderDecoder:
    """An encoder-decoder of two BERTs with random weights, in fp32."""
    from encdec_lightning import EncoderDecoder  # CTranslate2's interpreter has none

    torch.manual_seed(0)
    shape = {**SIZES[size], "vocab_size": VOCABULARY}
    encoder, decoder = BertConfig(**shape), BertConfig(**shape, is_decoder=True, add_cross_attention=True)
    made = EncoderDecoder(EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)).eval()
    for config in (made.config, made.generation_config):
        config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = START, END, PAD
    return made


def bart(size: str) -> BartConfig:
    """The same dimensions as a BART, which CTranslate2 converts."""
    shape = SIZES[size]
    return BartConfig(
        vocab_size=VOCABULARY, d_model=shape["hidden_size"], max_position_embeddings=512,
        encoder_layers=shape["num_hidden_layers"], decoder_layers=shape["num_hidden_layers"],
        encoder_attention_heads=shape["num_attention_heads"], decoder_attention_heads=shape["num_attention_heads"],
        encoder_ffn_dim=shape["intermediate_size"], decoder_ffn_dim=shape["intermediate_size"],
        bos_token_id=START, eos_token_id=END, pad_token_id=PAD, decoder_start_token_id=START, forced_eos_token_id=None,
    )  # fmt: skip


def timed(work: Callable[[], Any]) -> float:
    """Seconds of wall clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
