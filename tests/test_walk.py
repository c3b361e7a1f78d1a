"""One pair walks the whole project, from a line of jsonl to ROUGE and back into stock transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from encdec_lightning import (
    Generation,
    Loading,
    Pair,
    Prediction,
    Seq2SeqDataModule,
    Seq2SeqModule,
    Task,
    Tokenizers,
    compose,
)
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.data.batches.plan import Update, training_plan
from encdec_lightning.data.examples.store import OnDisk
from encdec_lightning.data.sources.locations import locate
from encdec_lightning.data.sources.pairs import PairReader
from encdec_lightning.data.sources.readers import read_rows
from encdec_lightning.evaluation.metric import score
from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.records import plain
from encdec_lightning.reporting.final_table import score_table
from encdec_lightning.reporting.results import write_results
from encdec_lightning.run import Run


@pytest.mark.parametrize("decoder", ["bert", "gpt2"])
def test_one_pair_from_jsonl_to_rouge(files: tiny.Files, tmp_path: Path, decoder: str) -> None:
    row = tiny.pairs(12, 3)[4]
    task = Task(train=files.train, validation=files.validation, test=files.test, source="document", target="summary",
                id="key", max_source_length=40, max_target_length=12)  # fmt: skip

    # 1. readers: a row becomes a Pair, and its id is born
    rows = read_rows("task.test", locate("task.test", files.test, tmp_path), None, ("source", "target"))
    pair = {each.id: each for _, each in PairReader(task, "test").read(rows)}[row["key"]]
    assert pair == Pair(row["key"], row["document"], row["summary"])

    # 2. tokenization: ids, by the special-token contract
    tokenizers = Tokenizers.from_pretrained(files.bert, getattr(files, decoder))
    data = Seq2SeqDataModule(task, tokenizers, Loading(batch_tokens=200))
    examples = data.examples("test")
    assert isinstance(examples, OnDisk)
    (number,) = [number for number in range(len(examples.lengths)) if examples.pair(number) == pair]
    source_ids, target_ids = (ids.tolist() for ids in examples.ids(number))
    assert source_ids == tokenizers.source(row["document"])["input_ids"]
    assert target_ids[-1] == tokenizers.end_id
    assert tokenizers.decode(torch.tensor([target_ids])) == [row["summary"]]

    # 3. plan: updates out of lengths alone
    updates = training_plan(examples.lengths, 200, accumulate=1, seed=0, epoch=0, world_size=1)
    (update,) = [each for each in updates if number in each.micro_batches[0][0]]
    assert isinstance(update, Update)

    # 4. batch: tensors, padded; the pair rides along
    batch = next(each for each in data.test_dataloader() if pair in each.pairs)
    assert isinstance(batch, Batch)
    position = batch.pairs.index(pair)
    length = int(batch.target_lengths[position])
    assert batch.target_ids[position, :length].tolist() == target_ids
    assert batch.decoder_input_ids[position, 0] == tokenizers.start_id
    assert batch.decoder_input_ids[position, 1:length].tolist() == target_ids[:-1]

    # 5. module: (sum, tokens), and Predictions
    model = compose(files.bert, getattr(files, decoder), tokenizers=tokenizers)
    module = Seq2SeqModule(model, tokenizers, task, generation=Generation(num_beams=2)).eval()
    total, tokens = module.loss(batch)
    assert total.shape == () and tokens == int(batch.target_lengths.sum())
    predictions = module.predict(batch)
    assert [each.id for each in predictions] == [each.id for each in batch.pairs]
    prediction = predictions[position]
    assert isinstance(prediction, Prediction)
    assert (prediction.source, prediction.reference) == (pair.source, pair.target)

    # 6. evaluation: statistics of a prediction, scores of all
    metric = load_metric("rouge")
    assert metric.statistics(prediction).shape == (3,)
    scores = score(predictions, metric)
    assert scores.keys() == {"rouge1", "rouge2", "rougeL"}

    # 7. Run stores them; reporting reads the Run alone
    run = Run.create(tmp_path / "run", {"any": "config"}, "identity")
    write_results(run, predictions, scores, ["rouge"], ["lead_8_words"])
    lines = (run.folder / "predictions" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[position]) == plain(prediction)
    assert run.metrics()["test/rouge1"] == scores["rouge1"].value
    assert score_table(run.metrics()).row_count == 3

    # and the model leaves the house: stock transformers opens it, with both tokenizers
    module.export(run.model)
    stock = AutoModelForSeq2SeqLM.from_pretrained(run.model).eval()
    source = AutoTokenizer.from_pretrained(run.model)
    target = source if decoder == "bert" else AutoTokenizer.from_pretrained(run.model / "decoder_tokenizer")
    inputs = source(pair.source, return_tensors="pt")
    generated = stock.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], num_beams=2, max_new_tokens=12
    )
    assert target.decode(generated[0], skip_special_tokens=True).strip() == prediction.prediction
