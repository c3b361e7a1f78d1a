"""all-MiniLM-L6-v2 itself, as BERT and in RoBERTa's layout; `make test` puts it into the cache folder.

SmolLM2-135M-Instruct too, where `python -m encdec_lightning.composition.local_checkpoints smollm2` has put it there.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    EncoderDecoderModel,
    RobertaConfig,
    RobertaModel,
)

from encdec_lightning import Tokenizers, compose
from encdec_lightning.composition.local_checkpoints import MINILM, SMOLLM2, local_or_hub
from encdec_lightning.composition.model import count_ties

FOLDER, SMOLLM2_FOLDER = local_or_hub(MINILM), local_or_hub(SMOLLM2)
with_minilm = pytest.mark.skipif(not Path(FOLDER).is_dir(), reason="MiniLM is not in the cache folder: run make test")
with_smollm2 = pytest.mark.skipif(not Path(SMOLLM2_FOLDER).is_dir(), reason="SmolLM2 is not in the cache folder")
TEXT = "Return True if the tensor is a frozen parameter."


@with_minilm
@torch.no_grad()
def test_bertshare_of_minilm_leaves_for_stock_transformers_unchanged(tmp_path: Path) -> None:
    tokenizers = Tokenizers.from_pretrained(FOLDER)
    model = compose(FOLDER, FOLDER, "tied", tokenizers=tokenizers).eval()
    assert count_ties(model) == 101
    # 22,565,376 of the checkpoint without its pooler, 3,552,768 of cross-attention, 179,130 of the head
    assert sum(parameter.numel() for parameter in model.parameters()) == 26_297_274
    for name, value in AutoModel.from_pretrained(FOLDER, add_pooling_layer=False).named_parameters():
        assert torch.equal(model.encoder.get_parameter(name), value), name
    model.save_pretrained(tmp_path)
    stock, report = EncoderDecoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    inputs = {**tokenizers.source(TEXT, return_tensors="pt"), "decoder_input_ids": torch.tensor([[101, 2003, 7708]])}
    del inputs["token_type_ids"]
    assert torch.equal(stock.eval()(**inputs).logits, model(**inputs).logits)


@with_minilm
@torch.no_grad()
def test_minilm_in_robertas_layout_computes_the_same(tmp_path: Path) -> None:
    bert = AutoModel.from_pretrained(FOLDER, add_pooling_layer=False).eval()
    sizes = {key: value for key, value in bert.config.to_dict().items() if key != "model_type"}
    config = RobertaConfig(**{**sizes, "max_position_embeddings": 513, "type_vocab_size": 1, "pad_token_id": 0})
    roberta = RobertaModel(config, add_pooling_layer=False)
    state = bert.state_dict()
    positions = state["embeddings.position_embeddings.weight"]
    state["embeddings.position_embeddings.weight"] = torch.cat([torch.zeros(1, positions.shape[1]), positions])
    state["embeddings.token_type_embeddings.weight"] = state["embeddings.token_type_embeddings.weight"][:1]
    roberta.load_state_dict(state)
    roberta.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(FOLDER).save_pretrained(tmp_path)
    tokenizers = Tokenizers.from_pretrained(str(tmp_path))
    model = compose(str(tmp_path), str(tmp_path), "tied", tokenizers=tokenizers).eval()
    ids = torch.tensor(tokenizers.encode_sources([TEXT], 64))
    hidden = bert(input_ids=ids).last_hidden_state
    assert torch.equal(model.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state, hidden)


@with_smollm2
@torch.no_grad()
def test_smollm2_knows_the_capital_of_france() -> None:
    model, said = AutoModelForCausalLM.from_pretrained(SMOLLM2_FOLDER, output_loading_info=True)
    assert not any(said.values()), said
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2_FOLDER)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"


@with_smollm2
def test_the_tokenizer_of_smollm2() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2_FOLDER)
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert special == tuple(tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<|im_end|>"])) == (1, 2, 2)
    assert (len(tokenizer), tokenizer.model_max_length) == (49_152, 8_192)
    for text in ("Grüße aus Köln", "def f(x):\n\treturn  x + 2026\n", "👩‍👩‍👧 🙂 x²½ ٣", "  two  spaces \r\n"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.tokenize("in  2026") == ["in", "ĠĠ", "2", "0", "2", "6"]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi."}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n")
