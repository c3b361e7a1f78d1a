from __future__ import annotations

import pytest
import tiny
import torch

from encdec_lightning import Generation, Loading, Seq2SeqDataModule, Task, Tokenizers, compose
from encdec_lightning.generation.predict import predict


@pytest.mark.parametrize("decoder", ["bert", "gpt2"])
@pytest.mark.parametrize("beams", [1, 3])
def test_batched_generation_equals_one_source_at_a_time(files: tiny.Files, decoder: str, beams: int) -> None:
    tokenizers = Tokenizers.from_pretrained(files.bert, getattr(files, decoder))
    task = Task(train=files.train, validation=files.validation, source="document", target="summary", id="key",
                max_source_length=40, max_target_length=10)  # fmt: skip
    torch.manual_seed(0)
    model = compose(files.bert, getattr(files, decoder), tokenizers=tokenizers).eval()
    options = Generation(num_beams=beams, min_length=3, no_repeat_ngram_size=2)
    data = Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=500))
    predictions = {each.id: each for each in predict(model, tokenizers, list(data.test_dataloader()), options, 10)}
    rows = {row["key"]: row for row in tiny.pairs(16, 2)}
    assert predictions.keys() == rows.keys()
    for key, row in rows.items():
        encoded = tokenizers.source(row["document"], return_tensors="pt", truncation=True, max_length=40)
        alone = model.generate(
            input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"], do_sample=False, num_beams=beams,
            max_new_tokens=10, min_new_tokens=3, no_repeat_ngram_size=2,
        )  # fmt: skip
        assert predictions[key].prediction == tokenizers.decode(alone)[0]
        assert (predictions[key].source, predictions[key].reference) == (row["document"], row["summary"])
