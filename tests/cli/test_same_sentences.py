"""What can be known of a job is known before weights load and before a folder is made, and all commands say the same."""

from __future__ import annotations

import pytest

from encdec_lightning.cli import check, prepare, train
from encdec_lightning.composition import compose

COMMANDS = (train.main, check.main, prepare.main)
STOPPING = "callbacks=early_stopping"
LOGGERS = "lightning.pytorch.loggers"
MINE = """
import lightning

class Quiet(lightning.Callback):
    def __init__(self, word):
        open("made", "w").close()
"""
NO_STEPS = "it needs a number of steps: set trainer.max_steps or trainer.max_epochs."
NO_TEXTS = "it is only known where texts are generated: set task.validation_generate."
BUILT = "it cannot be built: "


def said(capsys, command, *argv: str) -> list[str]:
    code = command([*argv])
    out, err = capsys.readouterr()
    assert code == 2 and "Traceback" not in err and out == "", (code, out, err)
    return err.splitlines()


TABLE = [
    # what is monitored
    (["task.monitor=val/rogue1"], ["task.monitor is 'val/rogue1': it must be one of val/loss, val/perplexity, val/rouge1, val/rouge2, val/rougeL, as task.metrics has them (did you mean 'val/rouge1'?)."]),
    (["task.monitor=val/rouge1"], [f"task.monitor is 'val/rouge1': {NO_TEXTS}"]),
    (["task.metrics=[bleu]", "task.monitor=val/rouge1", "task.validation_generate=4"], ["task.monitor is 'val/rouge1': it must be one of val/loss, val/perplexity, val/bleu, as task.metrics has them."]),
    ([STOPPING, "callbacks.early_stopping.monitor=val/lss"], ["callbacks.early_stopping.monitor is 'val/lss': it must be one of val/loss, val/perplexity, train/loss, "]),
    ([STOPPING, "callbacks.early_stopping.monitor=val/rouge2"], [f"callbacks.early_stopping.monitor is 'val/rouge2': {NO_TEXTS}"]),
    # packages and modules
    ([f"logger.x._target_={LOGGERS}.CometLogger"], [f"logger.x._target_ is '{LOGGERS}.CometLogger': it needs the package comet_ml, which is not installed."]),
    ([f"logger.x._target_={LOGGERS}.NoLogger"], [f"logger.x._target_ is '{LOGGERS}.NoLogger': it cannot be imported ("]),
    (["callbacks.x._target_=broken.Thing"], ["callbacks.x._target_ is 'broken.Thing': it cannot be imported (NameError: name 'boom' is not defined)."]),
    (["task.metrics=[broken.Thing]"], ["task.metrics is 'broken.Thing': the module broken cannot be imported (NameError: name 'boom' is not defined)."]),
    (["task.preprocess=[broken.thing]"], ["task.preprocess is 'broken.thing': the module broken cannot be imported (NameError: name 'boom' is not defined)."]),
    (["task.metrics=[leaving.Thing]"], ["task.metrics is 'leaving.Thing': the module leaving cannot be imported (SystemExit: 3)."]),
    # arguments of what is built
    (["trainer.max_steps=2.5"], ["trainer.max_steps is 2.5: it must be a whole number."]),
    (["trainer.gradient_clip_val=much"], ["trainer.gradient_clip_val is 'much': it must be a number or null."]),
    (["trainer.precision=bf17"], ["trainer.precision is 'bf17': it must be one of "]),
    (["trainer.profiler=simpl"], [f"trainer is 'lightning.Trainer': {BUILT}When passing string value for the `profiler` "]),
    ([STOPPING, "callbacks.early_stopping.mode=up"], ["callbacks.early_stopping.mode is 'up': "]),
    (["callbacks.best.save_top_k=-5"], [f"callbacks.best is 'encdec_lightning.training.callbacks.checkpoints.BestCheckpoint': {BUILT}Invalid value for save_top_k=-5. Must be >= -1."]),
    (["callbacks.last.train_time_interval=60"], ["callbacks.last.train_time_interval is 60: it must be a timedelta or null."]),
    (["optimizer.betas=3"], ["optimizer.betas is 3: it must be a list."]),
    (["optimizer.betas=[2,3]"], [f"optimizer is 'torch.optim.AdamW': {BUILT}Invalid beta parameter at index 0: 2."]),
    (["callbacks.x._target_=mine.Quiet"], [f"callbacks.x is 'mine.Quiet': {BUILT}missing a required argument: 'word'."]),
    ([f"logger.x._target_={LOGGERS}.WandbLogger", "logger.x.ofline=true"], ["logger.x.ofline is True: neither the logger nor wandb.init takes such an argument (did you mean 'offline'?)."]),
    (["trainer.accelerator=gpuu"], ["trainer.accelerator is 'gpuu': it must be one of auto, gpu, "]),
    (["trainer.strategy=ddpp"], ["trainer.strategy is 'ddpp': it must be one of auto, fsdp2, "]),
    # places
    (["folder=."], ["folder is '.': it exists, is not empty and holds no run, choose another folder."]),
    (["init_from=nowhere"], ["init_from is 'nowhere': it is not the folder of a run (it has no config.yaml)."]),
    ([f"task.train={'x' * 300}.jsonl"], ["task.train is 'xxx"]),
    ([f"folder={'x' * 300}"], ["folder is 'xxx"]),
    # one mistake and no consequence of it
    (["~trainer.max_steps", "trainer.max_step=5"], ["trainer.max_step is 5: lightning.Trainer takes no such argument (did you mean 'max_steps'?)."]),
    (["~trainer.max_steps", "trianer.max_steps=5"], ["trianer.max_steps is 5: there is no such option (did you mean 'trainer'?)."]),
    (["trainer.max_steps=some", ], ["trainer.max_steps is 'some': it must be a whole number."]),
    (["trainer.max_steps=-1"], [f"training.schedule is 'linear': {NO_STEPS}"]),
    (["training.schedule=noam", "training.warmup_steps=few", "training.learning_rate=-1"], ["training.warmup_steps is 'few': ", "training.learning_rate is -1.0: "]),
    (["task.max_source_length=9000"], ["task.max_source_length is 9000: "]),
    (["variant=bertshar", "training.freeze=encoder"], ["variant is 'bertshar': it must be one of "]),
    (["task.metrics=[rogue]", "task.monitor=val/rogue1", "task.validation_generate=4"], ["task.metrics is 'rogue': "]),
    (["experiment=rothee"], ["experiment is 'rothee': it must be one of liu2019/abstractive, liu2019/cnn_dailymail_abs, "]),
    # what has no effect
    (["hydra.run.dir=x"], ["hydra.run.dir is 'x': it has no effect here: a run's folder is set with folder=<folder>."]),
    (["hparams_search=learning_rate"], ["hparams_search is 'learning_rate': a search needs --multirun."]),
]  # fmt: skip


@pytest.mark.parametrize(("options", "sentences"), TABLE, ids=lambda value: value[-1][:40])
def test_every_command_says_it_once_and_before_weights(options, sentences, files, in_tmp, capsys, monkeypatch):
    monkeypatch.setattr(compose, "load_weights", pytest.fail, raising=False)
    monkeypatch.syspath_prepend(in_tmp)
    (in_tmp / "mine.py").write_text(MINE)
    (in_tmp / "broken.py").write_text("boom\n")
    (in_tmp / "leaving.py").write_text("raise SystemExit(3)\n")
    before = sorted(path for path in in_tmp.rglob("*") if "__pycache__" not in path.parts)
    row = [each for each, _ in TABLE].index(options)  # each takes 0.3 s to read: two of the three, in turns
    found = [
        said(capsys, command, *files.overrides(*options)) for command in (COMMANDS[row % 3], COMMANDS[(row + 1) % 3])
    ]
    assert len(found[0]) == len(sentences) and all(map(str.startswith, found[0], sentences)), found[0]
    assert found[0] == found[1]
    assert sorted(path for path in in_tmp.rglob("*") if "__pycache__" not in path.parts) == before


def test_hardware_that_is_elsewhere_is_no_reason_not_to_prepare(files, in_tmp, capsys, monkeypatch):
    from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

    for accelerator in (CUDAAccelerator, MPSAccelerator):
        monkeypatch.setattr(accelerator, "is_available", staticmethod(lambda: False))
    options = files.overrides("hardware=ddp", "data.batch_tokens=500", f"data.cache={in_tmp / 'cache'}")
    expected = "trainer.accelerator is 'gpu': this machine has none; hardware=auto takes what it has, hardware=cpu the processor."
    assert said(capsys, train.main, *options) == said(capsys, check.main, *options) == [expected]
    assert prepare.main([*options, "--no-model"]) == 0
    capsys.readouterr()
    (line,) = said(capsys, prepare.main, *options, "trainer.gradient_clip_val=much")
    assert line.startswith("trainer.gradient_clip_val is 'much'")


def test_what_is_checked_leaves_no_trace(files, in_tmp, capsys):
    import os

    import torch

    check.main(files.overrides())  # what every command sets for its process
    torch.use_deterministic_algorithms(False)  # an earlier test's fit may have asked for them
    torch.backends.cudnn.benchmark = False
    environment = dict(os.environ)
    assert check.main(files.overrides("trainer.deterministic=true", "trainer.benchmark=true")) == 0
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    assert dict(os.environ) == environment and list(in_tmp.iterdir()) == []
