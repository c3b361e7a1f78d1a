"""What torchmetrics does, and what this project does because of it."""

from __future__ import annotations

from tiny import Files
from torchmetrics.functional.text.bert import bert_score
from transformers import AutoModel, AutoTokenizer


def test_its_bert_score_mixes_up_texts_of_different_lengths(files: Files) -> None:
    """The score of a pair depends on what is scored beside it: composition/bert_score.py computes it by itself."""
    model, tokenizer = AutoModel.from_pretrained(files.bert), AutoTokenizer.from_pretrained(files.bert)
    texts = ["the graph of a file path", "node", "a list of values", "tensor is given"]
    own = {"model": model, "user_tokenizer": tokenizer, "num_layers": 2, "truncation": True}
    others = ["the matrix", "the node of the graph is read", "list", "number of a node"]
    together = bert_score(texts, others, **own)["f1"]
    alone = [float(bert_score([text], [other], **own)["f1"]) for text, other in zip(texts, others, strict=True)]
    assert max(abs(float(one) - two) for one, two in zip(together, alone, strict=True)) > 0.01
