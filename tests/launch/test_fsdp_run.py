"""`hardware=fsdp` from the command line, on two processes of this machine: a run as any other, checkpoints in pieces."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from tiny import Files
from transformers import AutoModelForSeq2SeqLM

from encdec_lightning.cli.evaluate import main as evaluate
from encdec_lightning.cli.predict import main as predict
from encdec_lightning.cli.train import main
from encdec_lightning.run import Run


def trained(options: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """Train into the folder `two`, anew where the C library ends a rank, as on_ranks.py says."""
    for _ in range(3):
        code, said = main([*options, "folder=two"]), capfd.readouterr().err
        if code == 0 or not re.search("signal SIG(ABRT|SEGV)", said):
            break
        shutil.rmtree("two")
    assert code == 0, said


def test_a_run_in_pieces_is_that_of_one_process(files: Files, in_tmp, capfd):
    same = ["variant=bertshare", "trainer.precision=64-true", "data.update_examples=64", "trainer.max_steps=6", "validate_every=3",
            "training.learning_rate=1e-3", "model.dropout=0.0", "task.validation_generate=5"]  # fmt: skip
    ranks = ["hardware=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=fsdp2_in_pieces"]
    assert main([*files.overrides(*same), "folder=one"]) == 0, capfd.readouterr().err
    trained(files.overrides(*same, *ranks), capfd)
    one, two = Run.open("one"), Run.open("two")
    assert two.predictions() == one.predictions()
    scores = {name: value for name, value in one.metrics().items() if name.startswith(("test/", "best/", "baseline"))}
    assert scores and {name: two.metrics()[name] for name in scores} == pytest.approx(scores)
    assert torch.load(two.last, weights_only=True)["state_dict"] == {}  # what it has lies in pieces
    assert len(list((two.checkpoints / "pieces").iterdir())) == 2  # best, last
    exported = [AutoModelForSeq2SeqLM.from_pretrained(run.model).state_dict() for run in (one, two)]
    for name, value in exported[0].items():
        torch.testing.assert_close(exported[1][name], value)
    assert evaluate(["run=two"]) == 0
    assert {name: two.metrics()[name] for name in scores} == pytest.approx(scores)
    (in_tmp / "sources.txt").write_text("The graph is given.\n")
    assert predict(["run=two", "input=sources.txt", "output=texts.txt"]) == 0, capfd.readouterr().err
    assert (in_tmp / "texts.txt").read_text().strip()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["trainer.precision=16-mixed"], "Lightning has no gradient scaler for sharded weights"),
        (["trainer.precision=16-true"], "squares of gradients vanish in fp16"),
        (["trainer.strategy=fsdp"], "hardware=fsdp takes fsdp2"),
        (["trainer.strategy=fsdp3"], "it must be one of auto, fsdp2, fsdp2_in_pieces"),
        (["trainer.accelerator=gpu"], "this machine has none"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused_before_anything_starts(options, sentence, files: Files, in_tmp, capsys):
    ranks = ["hardware=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", *options]
    assert main([*files.overrides(*ranks), "folder=run"]) == 2
    assert sentence in capsys.readouterr().err
    assert not (in_tmp / "run").exists()


def test_compiling_needs_a_compiler(files: Files, in_tmp, capsys, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("encdec_lightning.training.arrange.COMPILERS", ())
    assert main([*files.overrides("training.compile=true"), "folder=run"]) == 2
    assert "training.compile is True: it needs a C++ compiler" in capsys.readouterr().err
