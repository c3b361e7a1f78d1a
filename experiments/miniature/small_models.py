"""The four families at one size: 4 layers, 128 wide, 4 heads, 512 positions, blocks of equal parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)
from vocabularies import LONGEST

LAYERS, HIDDEN, HEADS = 4, 128, 4
SPREAD = 0.03
"""Standard deviation of the first weights: a narrow model learns sooner with a little more than 0.02."""
SIZE = {
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "initializer_range": SPREAD,
}


@dataclass(frozen=True)
class Family:
    """How a family is trained."""

    masked: bool  # guesses masked tokens, else the next one
    body: Callable[[Any], Any]  # the model without its head
    head: Callable[[Any], Any]  # states in, logits out
    dynamic: bool = False  # masks are drawn anew in each pass
    next_token_first: float = 0.0
    """Share of the updates in which a masked model guesses the next token from those before, like a language model.

    From random weights masked models learn with so few tokens hardly more than how often words are; after next tokens
    they learn quickly. Gisserot-Boukhlef et al. (2025) find this order better at a fixed number of tokens.
    """


FAMILIES = {
    "bert": Family(True, lambda model: model.bert, lambda model: model.cls, next_token_first=0.5),
    "roberta": Family(
        True, lambda model: model.roberta, lambda model: model.lm_head, dynamic=True, next_token_first=0.5
    ),
    "gpt2": Family(False, lambda model: model.transformer, lambda model: model.lm_head),
    "llama": Family(False, lambda model: model.model, lambda model: model.lm_head),
    "bert_masks": Family(True, lambda model: model.bert, lambda model: model.cls),  # has guessed masked tokens alone
}


def new_model(name: str, tokenizer: Any) -> PreTrainedModel:
    """A family's model with random weights; no dropout, for no text is read often."""
    words, padding = len(tokenizer), tokenizer.pad_token_id
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    common = {"vocab_size": words, "pad_token_id": padding}
    if name in ("bert", "bert_masks"):
        config = BertConfig(**SIZE, **common, **no_dropout, intermediate_size=4 * HIDDEN)
        return BertForMaskedLM(config)
    if name == "roberta":
        # positions are counted from the padding's id + 1
        more = {"max_position_embeddings": LONGEST + padding + 1, "type_vocab_size": 1, "intermediate_size": 4 * HIDDEN}
        return RobertaForMaskedLM(RobertaConfig(**SIZE, **common, **no_dropout, **more, **ends))
    if name == "gpt2":
        size = {
            "n_layer": LAYERS,
            "n_embd": HIDDEN,
            "n_head": HEADS,
            "n_positions": LONGEST,
            "initializer_range": SPREAD,
        }
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2LMHeadModel(GPT2Config(**size, **common, **dropout, **ends))
    # three matrices instead of two, so two thirds of the width
    more = {"intermediate_size": 8 * HIDDEN // 3, "max_position_embeddings": LONGEST, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(**SIZE, **common, **ends, **more))
