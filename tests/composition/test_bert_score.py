"""BERTScore against its definition, computed token by token; with any encoder, several references, and in a task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModel, AutoTokenizer

from encdec_lightning import compose
from encdec_lightning.cli.evaluate import main
from encdec_lightning.composition import bert_score
from encdec_lightning.composition.bert_score import TOGETHER, BertScore
from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.metric import score
from encdec_lightning.evaluation.registry import check_metrics, load_metric
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.prepare import prepare
from encdec_lightning.records import Prediction
from encdec_lightning.run import Run

WORDS = "matrix tensor graph file path list node value string number the is given read".split()


def some(count: int) -> list[Prediction]:
    draw = np.random.default_rng(0)

    def text() -> str:
        return " ".join(draw.choice(WORDS, draw.integers(1, 9)))

    return [Prediction(str(at), "", text(), text(), tuple(text() for _ in range(at % 3))) for at in range(count)]


def by_definition(folder: str, layer: int, each: Prediction) -> np.ndarray:
    """Zhang et al. (2020), section 3, one token after the other; of the references the best for each value."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    if hasattr(model, "decoder"):
        model = model.encoder

    def vectors(text: str) -> np.ndarray:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[layer]
        found = hidden[0, 1:-1].double().numpy()  # neither [CLS] nor [SEP]
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    values = []
    for reference in each.references:
        own, right = vectors(each.prediction), vectors(reference)
        precision = np.mean([max(float(token @ other) for other in right) for token in own])
        recall = np.mean([max(float(token @ other) for other in own) for token in right])
        values.append([precision, recall, 2 * precision * recall / (precision + recall)])
    return np.max(values, axis=0)


@pytest.mark.parametrize(("family", "layer"), [("bert", None), ("bert", 1), ("roberta", None), ("bert", 0)])
def test_it_is_its_definition_whatever_is_scored_together(family, layer, files):
    folder, predictions = getattr(files, family), some(TOGETHER + 20)
    metric = BertScore(folder, layer)
    together = metric.statistics_of(predictions)
    for at in (0, 1, 2, 7, 40, TOGETHER + 19):
        expected = by_definition(folder, 2 if layer is None else layer, predictions[at])
        np.testing.assert_allclose(together[at], expected, atol=1e-5)
        np.testing.assert_allclose(metric.statistics(predictions[at]), expected, atol=1e-5)
    scores = score(predictions, metric)
    assert scores["bertscore"].value == pytest.approx(100 * together[:, 2].mean())
    assert scores["bertscore"].low < scores["bertscore"].value < scores["bertscore"].high
    assert f"checkpoint:{folder}|layer:{2 if layer is None else layer}" in scores["bertscore"].signature


@pytest.mark.parametrize("layer", [None, 1])
def test_of_an_encoder_decoder_it_takes_the_encoder(layer, tmp_path):
    """As the package bert-score, whose best models have been facebook/bart-large-mnli and the like."""
    folder = tiny.family_checkpoint(tmp_path / "bart", "bart")
    metric = BertScore(folder, layer)
    metric.prepare()
    for each in some(4):
        expected = by_definition(folder, 2 if layer is None else layer, each)
        np.testing.assert_allclose(metric.statistics(each), expected, atol=1e-5)


def test_a_composed_pair_is_no_encoder(files, tmp_path):
    compose(files.bert, files.gpt2).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="its family encoder-decoder has no layers of its own; give the checkpoint of"):
        BertScore(str(tmp_path))


def test_empty_texts_and_long_ones_are_scored(files):
    predictions = [Prediction("a", "", "the graph", ""), Prediction("b", "", "graph " * 200, "graph " * 300)]
    found = BertScore(files.bert).statistics_of(predictions)
    assert np.isfinite(found).all() and (found[0] < 0.5).all()
    np.testing.assert_allclose(found[1], 1, atol=1e-5)


def test_the_command_line_takes_it_with_its_arguments(files, in_tmp, capsys):
    Run("run").write_predictions(some(4))
    spec = f"metrics=[{{name: bertscore, checkpoint: {files.bert}, label: tiny}}]"
    assert main(["predictions=run/predictions/test.jsonl", spec]) == 0
    assert "bertscore_tiny" in capsys.readouterr().out


def test_its_encoder_is_fetched_with_all_else_that_a_job_needs(files, in_tmp, monkeypatch):
    opened = []
    monkeypatch.setattr(bert_score, "_opened", opened.append)
    spec = f"task.metrics=[rouge,{{name: bertscore, checkpoint: {files.bert}}}]"
    prepare(compose_config(files.overrides(spec)))
    assert opened == [files.bert]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "its class needs other arguments"),
        ({"checkpoint": "nowhere/at-all"}, "bertscore.checkpoint"),
        ({"checkpoint": "bert", "layer": 3}, "bertscore.layer"),
        ({"checkpoint": "bert", "lyer": 1}, "did you mean 'layer'"),
    ],
)
def test_what_it_cannot_take(arguments, sentence, files):
    if arguments.get("checkpoint") == "bert":
        arguments = {**arguments, "checkpoint": files.bert}
    (mistake,) = check_metrics([{"name": "bertscore", **arguments}])
    assert sentence in str(mistake)


def test_a_tokenizer_without_marks_around_a_text_is_refused(files):
    with pytest.raises(UserError, match="puts a special token before and one behind"):
        load_metric({"name": "bertscore", "checkpoint": files.gpt2}).statistics(some(1)[0])
    assert Path(files.gpt2).is_dir()
