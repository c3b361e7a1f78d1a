"""Options of Lightning's Trainer in a run: each does what it says, or is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cases import some
from transformers import AutoModelForSeq2SeqLM

from encdec_lightning.cli.evaluate import main as evaluate
from encdec_lightning.cli.predict import main as predict
from encdec_lightning.cli.train import main
from encdec_lightning.kernels.working_copy import copy_in
from encdec_lightning.run import Run

WORKS = {
    "bf16-true": ["trainer.precision=bf16-true"],
    "64-true": ["trainer.precision=64-true"],
    "overfit": ["trainer.overfit_batches=2"],
    "clipped": ["trainer.gradient_clip_val=1.0", "trainer.detect_anomaly=true", "trainer.deterministic=true"],
    "epochs": ["trainer.max_steps=-1", "trainer.max_epochs=2", "trainer.limit_train_batches=0.5"],
    "limits": ["trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"],
    "no logs": ["trainer.log_every_n_steps=0"],
    "no inference mode": ["trainer.inference_mode=false", "trainer.num_sanity_val_steps=0"],
}


@pytest.mark.parametrize("case", some(WORKS, "bf16-true", "clipped", "epochs", "no inference mode"))
def test_what_works(case, files, in_tmp):
    assert main(files.overrides("folder=run", *WORKS[case])) == 0
    run = Run.open("run")
    metrics = run.metrics()
    assert 0 < metrics["best/val/loss"] < 6 and metrics["train/steps"] >= 4 and metrics["test/examples"] >= 4
    saved = torch.load(run.checkpoint("best"), weights_only=True)["state_dict"]
    exported = AutoModelForSeq2SeqLM.from_pretrained(run.model)
    expected = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(case, torch.float32)
    assert {each.dtype for each in saved.values()} == {expected}
    assert {each.dtype for each in exported.parameters()} == {expected}
    name = "encoder.embeddings.word_embeddings.weight"
    assert torch.equal(exported.state_dict()[name], saved[f"model.{name}"])


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_weights_of_another_precision_come_back_as_they_were(precision, files, in_tmp, monkeypatch):
    monkeypatch.setattr("encdec_lightning.training.precision.processor_has_bf16", lambda: True)
    assert main(files.overrides("folder=run", f"trainer.precision={precision}", "export=false")) == 0
    run = Run.open("run")
    tested, metrics = run.predictions(), run.metrics()
    assert evaluate(["run=run"]) == 0
    assert (run.predictions(), run.metrics()) == (tested, metrics)
    assert predict(["run=run", f"input={files.test}", "output=texts.jsonl"]) == 0
    written = [json.loads(line)["prediction"] for line in Path("texts.jsonl").read_text().splitlines()]
    by_source = {each.source: each.prediction for each in tested}
    sources = [json.loads(line)["document"] for line in Path(files.test).read_text().splitlines()]
    assert written == [by_source[source] for source in sources]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_a_processor_that_would_emulate_bf16_writes_texts_in_fp32(precision, files, in_tmp, monkeypatch, capfd):
    monkeypatch.setattr("encdec_lightning.training.precision.processor_has_bf16", lambda: False)
    assert main(files.overrides("folder=run", f"trainer.precision={precision}")) == 0
    run = Run.open("run")
    assert "32-true (precision=fp32) the fit would be many times faster" in " ".join(capfd.readouterr().err.split())
    assert run.metrics()["test/precision"] == precision
    assert f"The scores were made in {precision}; " in (run.model / "README.md").read_text()
    computed = []
    monkeypatch.setattr(
        "encdec_lightning.generation.model_runner.copy_in",
        lambda dtype, model: computed.append((dtype, model.dtype)) or copy_in(dtype, model),
    )
    assert evaluate(["run=run"]) == 0
    assert "the model works in 32-true here" in capfd.readouterr().err
    assert run.metrics()["test/precision"] == "32-true"
    assert "The scores were made in" not in (run.model / "README.md").read_text()
    assert predict(["run=run", f"input={files.test}", "output=texts.jsonl"]) == 0
    assert {dtype or own for dtype, own in computed} == {torch.float32}


REFUSED = {
    "limit_val_batches=0.01": "trainer is 'lightning.Trainer': You requested to check 0.01 of the `val_dataloader`",
    "precision=transformer-engine": "trainer is 'lightning.Trainer': it cannot be built: ",
    "profiler=nothing": "trainer is 'lightning.Trainer': it cannot be built: ",
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_is_refused(option, files, in_tmp, capsys):
    assert main(files.overrides("folder=run", f"trainer.{option}")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(REFUSED[option])
