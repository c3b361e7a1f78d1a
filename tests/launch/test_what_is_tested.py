"""Whatever is chosen of checkpoints, validation and ends, a fit leaves a model that is tested and exported."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import pytest
import torch
from cases import some
from transformers import AutoModelForSeq2SeqLM

from encdec_lightning.cli.evaluate import main as evaluate
from encdec_lightning.cli.predict import main as predict
from encdec_lightning.cli.train import main
from encdec_lightning.run import Run

OWN = "callbacks.mine._target_=lightning.pytorch.callbacks.ModelCheckpoint"
WITHOUT = {  # no best checkpoint can exist: (options, the line)
    "no validation": (["trainer.limit_val_batches=0"], "trainer.limit_val_batches is 0"),
    "no validation, every 2": (["trainer.limit_val_batches=0", "validate_every=2"], "trainer.limit_val_batches is 0"),
    "no best": (["callbacks.best=null"], "no callback keeps it"),
    "no callbacks": (["callbacks=null"], "no callback keeps it"),
    "none of one's own": (["callbacks=null", OWN], "no callback keeps it"),
}
WITH = {  # options, and whether the best is a file of its own beside best.ckpt
    "plain": ([], False),
    "three": (["callbacks.best.save_top_k=3"], True),
    "name": (["callbacks.best.filename='{epoch}-{step}'"], True),
    "constant name": (["callbacks.best.filename=mine"], True),
    "no last": (["callbacks.last=null"], False),
    "one's own": (["callbacks.best=null", OWN, "callbacks.mine.monitor=val/loss", "callbacks.mine.filename='{step}'"], True),
    "Lightning's own": (["callbacks.best._target_=lightning.pytorch.callbacks.ModelCheckpoint"], True),
}  # fmt: skip


def train(files, *overrides: str) -> Run:
    assert main(files.overrides("folder=run", *overrides)) == 0
    return Run.open("run")


def steps(run: Run) -> dict[str, int]:
    """{file: optimizer steps}"""
    return {path.name: torch.load(path, weights_only=True)["global_step"] for path in run.checkpoints.rglob("*.ckpt")}


def validated(run: Run) -> list[float]:
    """The losses of all validations."""
    (file,) = run.logs.glob("**/metrics.csv")
    return [float(row["val/loss"]) for row in csv.DictReader(file.read_text().splitlines()) if row["val/loss"]]


def same_weights(run: Run, choice: str) -> None:
    """The export is that checkpoint."""
    state = torch.load(run.checkpoint(choice), weights_only=True)["state_dict"]
    exported = AutoModelForSeq2SeqLM.from_pretrained(run.model).state_dict()
    name = "encoder.embeddings.word_embeddings.weight"
    assert torch.equal(state[f"model.{name}"], exported[name])


@pytest.mark.parametrize("case", some(WITHOUT, "no validation, every 2", "no callbacks", "none of one's own"))
def test_where_there_is_no_best_the_last_is_tested(case, files, in_tmp, capfd):
    options, reason = WITHOUT[case]
    run = train(files, *options)
    line = f"checkpoint is 'best': there will be none ({reason}), the last one is tested."
    assert capfd.readouterr().err.count(line) == 1
    assert run.config()["checkpoint"] == "last"
    assert steps(run)["last.ckpt"] == 4 and "best.ckpt" not in steps(run)
    assert "test/rouge1" in run.metrics() and "best/val/loss" not in run.metrics()
    same_weights(run, "last")
    assert list(in_tmp.rglob("*.ckpt")) == [run.checkpoint("last")] or case == "none of one's own"
    before = run.predictions()
    assert evaluate(["run=run"]) == 0  # the run's own choice
    assert run.predictions() == before


@pytest.mark.parametrize("case", some(WITH, "plain", "three", "no last", "one's own"))
def test_where_there_is_a_best_it_is_tested(case, files, in_tmp, capfd):
    options, named = WITH[case]
    run = train(files, "validate_every=1", *options)
    assert "checkpoint is" not in capfd.readouterr().err
    assert run.config()["checkpoint"] == "best"
    losses = validated(run)
    assert run.metrics()["best/val/loss"] == pytest.approx(min(losses), rel=1e-5)
    found = steps(run)
    assert (found["best.ckpt"], found["last.ckpt"]) == (1 + losses.index(min(losses)), 4)
    assert (len(found) > 2) is named
    same_weights(run, "best")


def test_the_worse_of_three_is_never_called_the_best(files, in_tmp):
    """So high a learning rate, and a higher one at each step, make it worse."""
    rates = ["training.learning_rate=2", "training.fresh_learning_rate=2", "training.warmup_steps=4"]
    run = train(files, *rates, "validate_every=1", "callbacks.best.save_top_k=3")
    losses = validated(run)
    kept = sorted(range(1, 5), key=lambda step: losses[step - 1])[:3]
    assert kept[0] != 4
    names = {f"step-{step}.ckpt": step for step in kept}
    assert steps(run) == {"best.ckpt": kept[0], "last.ckpt": 4, **names}
    same_weights(run, "best")
    assert evaluate(["run=run", f"checkpoint=step-{kept[-1]}.ckpt"]) == 0  # a file of the run by its name


def test_a_dry_run_passes_through_everything(files, in_tmp, capfd):
    """In updates of a fixed size, and with an interval, too."""
    more = ["trainer.fast_dev_run=true", "data.update_examples=30", "data.batch_tokens=200", "validate_every=3"]
    run = train(files, *more)
    line = "there will be none (trainer.fast_dev_run is True and writes no checkpoint), the model is tested as it is in memory"
    assert capfd.readouterr().err.count(line) == 1
    assert (run.metrics()["train/steps"], steps(run)) == (1, {})
    assert "test/rouge1" in run.metrics()
    assert AutoModelForSeq2SeqLM.from_pretrained(run.model)


def test_an_end_by_time_is_validated_and_kept(files, in_tmp):
    run = train(files, "trainer.max_time=00:00:00:03", "trainer.max_steps=100000", "validate_every=100000")
    found = steps(run)
    assert found["last.ckpt"] == found["best.ckpt"] == run.metrics()["train/steps"] > 0


@pytest.mark.parametrize("profiler", ["simple", "advanced"])
def test_a_profile_is_a_file_of_the_run(profiler, files, in_tmp):
    run = train(files, f"trainer.profiler={profiler}", "trainer.limit_test_batches=1", "export=false")
    assert "FIT Profiler Report" in (run.logs / "fit-profile.txt").read_text()


ACCIDENT = """
from pathlib import Path

import lightning

class Accident(lightning.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 5 and Path("accident").exists():
            raise RuntimeError("what happened")
"""


@pytest.fixture
def interrupted(files, in_tmp, monkeypatch) -> tuple[Run, Run]:
    """A run of eight steps, the last ones of which get worse; and one like it, broken off after five."""
    (in_tmp / "accident_of_mine.py").write_text(ACCIDENT)
    monkeypatch.syspath_prepend(in_tmp)
    monkeypatch.delitem(sys.modules, "accident_of_mine", raising=False)
    rates = ["training.learning_rate=2", "training.fresh_learning_rate=2", "training.warmup_steps=8"]  # more and more
    worse = [*rates, "validate_every=2"]
    options = files.overrides(*worse, "trainer.max_steps=8", "callbacks.accident._target_=accident_of_mine.Accident")
    assert main([*options, "folder=whole"]) == 0
    (in_tmp / "accident").touch()
    with pytest.raises(RuntimeError, match="what happened"):
        main([*options, "folder=broken"])
    (in_tmp / "accident").unlink()
    return Run.open("whole"), Run.open("broken")


def test_a_run_may_be_moved_at_any_time(interrupted, in_tmp, capfd):
    whole, broken = interrupted
    ident = broken.id
    (in_tmp / "other").mkdir()
    moved = Run(shutil.move(broken.folder, in_tmp / "other" / "place (1)"))
    assert moved.id == ident
    assert main([f"run={moved.folder}"]) == 0
    assert not broken.folder.exists()
    assert steps(moved) == steps(whole) == {"best.ckpt": steps(whole)["best.ckpt"], "last.ckpt": 8}
    assert steps(whole)["best.ckpt"] <= 4  # from before the accident: all that came after it was worse
    for choice in ("best", "last"):
        expected, found = (
            torch.load(run.checkpoint(choice), weights_only=True)["state_dict"] for run in (whole, moved)
        )
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert moved.predictions() == whole.predictions()
    for name in ("best/val/loss", "test/rouge1", "train/examples", "train/steps"):
        assert moved.metrics()[name] == whole.metrics()[name]
    again = Run(shutil.copytree(moved.folder, in_tmp / "copy"))
    assert evaluate([f"run={again.folder}"]) == 0
    assert again.predictions() == whole.predictions()
    Path("input.txt").write_text("The tensor is given.\n")
    written = []
    for run in (whole, again):
        assert predict([f"run={run.folder}", "input=input.txt", f"output={run.folder.name}.txt"]) == 0
        written.append(Path(f"{run.folder.name}.txt").read_text())
    assert written[0] == written[1]
