"""Extracts by the commands that write texts: checked, trained, tested, made of sources of one's own, and gone on from."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from encdec_lightning.cli.check import main as check
from encdec_lightning.cli.evaluate import main as evaluate
from encdec_lightning.cli.predict import main as predict
from encdec_lightning.cli.train import main as train
from encdec_lightning.run import Run
from encdec_lightning.training.extractive_module import ExtractiveModule

EXTRACTS = ["variant=bertsumext", "extraction.sentences=1", "extraction.oracle_sentences=1"]


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_whole_way(files, in_tmp: Path, capsys):
    options = [*files.overrides(), *EXTRACTS, "folder=run", "task.validation_generate=4"]
    assert check(options) == 0, capsys.readouterr().err
    assert "initialized from checkpoints" in capsys.readouterr().out
    assert check([*options, "--data"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "Sentences of train targets" in out and re.search(r"labels\s+[01]( [01])+", out)
    assert train(options) == 0, capsys.readouterr().err
    assert "alone, sentences scored" in capsys.readouterr().err
    run = Run("run")
    first = run.predictions()
    assert all(each.prediction and each.prediction in each.source for each in first)

    assert evaluate(["run=run"]) == 0, capsys.readouterr().err
    assert run.predictions() == first
    assert evaluate(["run=run", "extraction.sentences=2", "extraction.block_trigrams=false"]) == 0
    (other,) = (Path("run") / "evaluations").iterdir()
    assert all(len(each.prediction.splitlines()) == 2 for each in Run(other).predictions())

    capsys.readouterr()
    assert predict(["run=run", f"input={files.test}", "scores=true", "output=found.jsonl"]) == 0
    found = lines(Path("found.jsonl").read_text())
    assert {each["id"]: each["prediction"] for each in found} == {each.id: each.prediction for each in first}
    assert all(0 < float(str(each["score"])) < 1 for each in found)
    sources = [str(each["source"]) for each in found]
    Path("texts.txt").write_text("\n".join([*sources, "Only one sentence", ""]) + "\n")
    assert predict(["run=run", "input=texts.txt", "output=found.txt", "extraction.sentences=2"]) == 2
    assert "must be a text that is not empty" in capsys.readouterr().err
    nothing = "\u200b"  # of which the tokenizer makes no token
    Path("texts.txt").write_text("\n".join([*sources, "Only one sentence", nothing]) + "\n")
    assert predict(["run=run", "input=texts.txt", "output=found.txt", "extraction.sentences=2"]) == 0
    texts = Path("found.txt").read_text().split("\n")
    assert len(texts) == len(sources) + 3 and texts[-3:] == ["Only one sentence", "", ""]


def test_the_card_says_what_it_is_and_its_code_makes_the_same_extracts(files, in_tmp: Path):
    assert train([*files.overrides(), *EXTRACTS, "folder=run"]) == 0
    card = Path("run/model/README.md").read_text()
    assert "choose the sentences of the column `document`" in card and "extractive-summarization" in card
    first = Run("run").predictions()
    texts = [each.source for each in first]
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    text = code[1].replace('["A text to be read."]', json.dumps(texts))
    done = subprocess.run([sys.executable, "-c", text], cwd="run/model", capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [each.prediction.replace("\n", " ") for each in first]


def test_a_second_stage_starts_from_the_encoder_that_has_learnt(files, in_tmp: Path, capsys):
    """BertSumExtAbs."""
    assert train([*files.overrides(), *EXTRACTS, "folder=first", "training.learning_rate=1e-3"]) == 0
    learnt = ExtractiveModule.load_from_checkpoint(Path("first/checkpoints/best.ckpt")).model.encoder.state_dict()
    second = [
        *files.overrides(), "experiment=liu2019/abstractive", f"checkpoints.bert={files.bert}", "folder=second",
        "model.encoder=first/model", "validate_every=2", "generation.max_length=8", "generation.num_beams=2",
        "data.update_target_tokens=40", "training.warmup_steps=1", "training.encoder_warmup_steps=1",
    ]  # fmt: skip
    assert check(second) == 0, capsys.readouterr().err
    assert train([*second, "training.freeze=encoder", "training.encoder_learning_rate=null",
                  "training.encoder_warmup_steps=null"]) == 0, capsys.readouterr().err  # fmt: skip
    kept = torch.load("second/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    for name, value in learnt.items():
        assert torch.equal(kept[f"model.encoder.{name}"], value), name
    assert train([*files.overrides(), *EXTRACTS, "folder=third", "init_from=first"]) == 0
    capsys.readouterr()
    assert train([*files.overrides(), "variant=bert2bert", "folder=fourth", "init_from=first"]) == 2
    assert "its model has other parameters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["variant=bert2bert", "extraction.sentences=2"], "extraction.sentences is 2: it acts without a decoder"),
        (["variant=bertsumext", "extraction.sentences=0"], "extraction.sentences is 0: it must be at least 1"),
        (["variant=bertsumext", "extraction.oracle=rouge3"], "it must be one of rouge2, rouge1+rouge2"),
        (["variant=bertsumext", "model.encoder_sentences=null"], "model.encoder_sentences is None"),
        (["variant=bertsumext", "model.encoder_segments=first", "model.encoder_sentences=xx"], "a language that has"),
        (["variant=bertsumext", "model.encoder=${checkpoints.roberta}"], "segment embeddings"),
        (["variant=bertsumext", "export=t5gemma"], "export is 't5gemma': "),
        (["variant=bertsumext", "training.freeze=decoder"], "an encoder alone has no decoder"),
        (["variant=bertsumext", "model.weights=tied"], "model.weights is 'tied': without a decoder"),
        (["variant=bertsumext", "task.max_source_length=900", "data.batch_tokens=4000"], "positions for 64 tokens"),
        (["variant=bertsumext", "task.monitor=val/perplexity"], "task.monitor is 'val/perplexity'"),
        (["variant=bertsumext", "callbacks.best.monitor=val/perplexity"], "callbacks.best.monitor is 'val/perplexity'"),
        (["variant=bert2bert", "model.sentence_pooling=mean"], "model.sentence_pooling is 'mean': a decoder writes"),
        (["variant=bert2bert", "model.sentence_layers=1"], "model.sentence_layers is 1: a decoder writes the target"),
    ],
)
def test_mistakes_are_said_before_anything_is_made(files, in_tmp: Path, capsys, options, expected):
    assert train([*files.overrides(), *options, "folder=run"]) == 2
    assert expected in capsys.readouterr().err
    assert not Path("run").exists()


def test_options_of_the_other_kind_are_refused_after_training(files, in_tmp: Path, capsys):
    assert train([*files.overrides(), *EXTRACTS, "folder=run", "export=false", "trainer.max_steps=1"]) == 0
    capsys.readouterr()
    for command, more in ((evaluate, []), (predict, [f"input={files.test}"])):
        assert command(["run=run", *more, "generation.num_beams=4"]) == 2
        assert "makes extracts, which extraction.* changes" in capsys.readouterr().err
