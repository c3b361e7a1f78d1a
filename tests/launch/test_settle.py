"""What a config leaves open is decided before it is frozen: directions by the metric, the checkpoint by what can exist."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from encdec_lightning.cli.train import main
from encdec_lightning.errors import UserErrors
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.run_folder import make_run
from encdec_lightning.launch.settle import contradictions, settle, why_no_best
from encdec_lightning.rules import convert
from encdec_lightning.run import Run

MINE = """
import numpy as np

class Mine:
    names = ("length", "errors")
    signature = "mine"

    def statistics(self, prediction):
        return np.zeros(2)

    def aggregate(self, total, count):
        return total / count

class Directed(Mine):
    higher_is_better = {"length": True, "errors": False}
"""


@pytest.fixture
def config(files, in_tmp, monkeypatch):
    (in_tmp / "metrics_of_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(in_tmp)
    monkeypatch.delitem(sys.modules, "metrics_of_mine", raising=False)

    def config(*overrides: str):
        return compose_config(files.overrides("task.validation_generate=4", *overrides))

    return config


@pytest.mark.parametrize(
    ("overrides", "mode"),
    [
        ([], "min"),
        (["task.monitor_mode=min"], "min"),
        (["task.monitor=val/rouge1"], "max"),
        (["task.monitor=val/rouge1", "task.monitor_mode=max"], "max"),
        (["task.monitor=val/sari", "task.metrics=[rouge,sari]"], "max"),
        (["task.monitor=val/exact", "task.metrics=[exact_match]"], "max"),
        (["task.monitor=val/bleu_uncased", "task.metrics=[bleu_uncased]"], "max"),
        (["task.monitor=val/length", "task.metrics=[metrics_of_mine.Directed]"], "max"),
        (["task.monitor=val/errors", "task.metrics=[metrics_of_mine.Directed]"], "min"),
        (["task.monitor=val/errors", "task.metrics=[metrics_of_mine.Mine]", "task.monitor_mode=min"], "min"),
    ],
    ids=str,
)
def test_the_direction_follows_from_the_metric(overrides, mode, config):
    open_config = config("callbacks=early_stopping", *overrides)
    assert contradictions(open_config, set()) == []
    settled = settle(open_config)
    assert contradictions(settled, set()) == []
    assert settled.task.monitor_mode == mode
    assert [settled.callbacks[name]["mode"] for name in ("best", "early_stopping")] == [mode, mode]
    assert settle(settled) == settled


STOPPING = "callbacks.mine._target_=lightning.pytorch.callbacks.EarlyStopping"


def test_a_callback_that_monitors_something_else_has_its_own_direction(config):
    settled = settle(config(STOPPING, "callbacks.mine.monitor=val/rouge1"))
    assert (settled.callbacks["best"]["mode"], settled.callbacks["mine"]["mode"]) == ("min", "max")
    unknown = config(STOPPING, "callbacks.mine.monitor=val/of_my_own", "callbacks.mine.mode=min")
    assert contradictions(unknown, set()) == []
    assert settle(unknown).callbacks["mine"]["mode"] == "min"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["task.monitor=val/rouge1", "task.monitor_mode=min"],
            "task.monitor_mode is 'min': more of val/rouge1 is better: leave it away, or set max.",
        ),
        (
            ["task.monitor_mode=max"],
            "task.monitor_mode is 'max': less of val/loss is better: leave it away, or set min.",
        ),
        (
            ["task.monitor=val/rouge1", "callbacks.best.mode=min"],
            "callbacks.best.mode is 'min': more of val/rouge1 is better: leave it away, or set max.",
        ),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.mode=max"],
            "callbacks.early_stopping.mode is 'max': less of val/loss is better: leave it away, or set min.",
        ),
        (
            [STOPPING, "callbacks.mine.monitor=val/rouge2", "callbacks.mine.mode=min"],
            "callbacks.mine.mode is 'min': more of val/rouge2 is better: leave it away, or set max.",
        ),
        (
            ["task.monitor=val/errors", "task.metrics=[metrics_of_mine.Mine]"],
            "task.monitor_mode is None: the metric of val/errors does not say whether more is better "
            "(higher_is_better): set min or max.",
        ),
        (
            ["task.metrics=[metrics_of_mine.Mine]", STOPPING, "callbacks.mine.monitor=val/errors"],
            "callbacks.mine.mode is None: the metric of val/errors does not say whether more is better "
            "(higher_is_better): set min or max.",
        ),
        (["trainer.enable_checkpointing=false"], "trainer.enable_checkpointing is False: a run keeps its last"),
        (["trainer.precision=16-true"], "trainer.precision is '16-true': squares of gradients vanish in fp16"),
        (["trainer.barebones=true"], "trainer.barebones is True: a run needs what it switches off"),
    ],
    ids=str,
)
def test_one_contradiction_is_one_sentence_before_there_is_a_run(overrides, says, config, in_tmp):
    with pytest.raises(UserErrors) as caught:
        make_run(config("folder=run", *overrides))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(says)
    assert not (in_tmp / "run").exists()


OWN = "callbacks.mine._target_=lightning.pytorch.callbacks.ModelCheckpoint"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], None),
        (["callbacks.best.save_top_k=3"], None),
        (["callbacks.best.save_top_k=0"], "no callback keeps it"),
        (["callbacks.best.monitor=null"], "no callback keeps it"),
        (["callbacks.best=null"], "no callback keeps it"),
        (["callbacks=null"], "no callback keeps it"),
        (["callbacks.best=null", OWN], "no callback keeps it"),
        (["callbacks.best=null", OWN, "callbacks.mine.monitor=val/loss"], None),
        (["callbacks.best=null", "callbacks.mine._target_=nothing.Such", "callbacks.mine.monitor=x"], "no callback"),
        (["trainer.limit_val_batches=0"], "trainer.limit_val_batches is 0"),
        (["trainer.limit_val_batches=0.0"], "trainer.limit_val_batches is 0"),
        (["trainer.limit_val_batches=0", "trainer.overfit_batches=1"], None),
        (["trainer.fast_dev_run=true"], "trainer.fast_dev_run is True and writes no checkpoint"),
        (["trainer.fast_dev_run=false"], None),
    ],
    ids=str,
)
def test_what_is_tested_is_decided_from_the_config(overrides, reason, config):
    found = why_no_best(config(*overrides))
    assert found is None if reason is None else found.startswith(reason)
    assert settle(config(*overrides)).checkpoint == ("best" if reason is None else "last")
    assert settle(config("checkpoint=last", *overrides)).checkpoint == "last"


def test_a_run_is_frozen_as_it_was_settled_and_shown_so(config, files, capsys):
    chosen = ["task.validation_generate=4", "task.monitor=val/rouge1", "folder=run"]
    run = make_run(config("task.monitor=val/rouge1", "folder=run"))
    assert main([*files.overrides(*chosen), "--cfg"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    del shown["slurm"], shown["search"]  # of the job and of the search, which no run keeps
    assert shown == run.config()
    assert shown["callbacks"]["best"]["mode"] == shown["task"]["monitor_mode"] == "max"
    assert convert(run.config()).identity() == run.identity()
    given = settle(config("task.monitor=val/rouge1", "task.monitor_mode=max", "folder=run"))
    assert given.identity() == run.identity()
    assert replace(given, seed=1).identity() != run.identity()


LIGHT = """
import sys
from encdec_lightning.cli.train import main
assert main([*sys.argv[1:], "--cfg"]) == 0
print([name for name in ("torch", "transformers", "lightning") if name in sys.modules])
"""


def test_a_run_is_the_same_one_with_and_without_progress_bars(config):
    with_bars, without = (settle(config(f"trainer.enable_progress_bar={value}")) for value in ("true", "false"))
    assert with_bars.identity() == without.identity()
    assert with_bars.callbacks == without.callbacks


def test_a_config_is_settled_without_torch(files):
    chosen = files.overrides("task.monitor=val/rouge1", "task.validation_generate=4")
    result = subprocess.run([sys.executable, "-c", LIGHT, *chosen], capture_output=True, text=True, check=True)
    assert "monitor_mode: max" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_highest_rouge_is_kept(files, in_tmp):
    more = ["task.monitor=val/rouge1", "task.validation_generate=16", "trainer.max_steps=40", "validate_every=4"]
    assert main(files.overrides(*more, "training.learning_rate=3e-3", "folder=run", "export=false")) == 0
    run = Run.open("run")
    rows = (next((run.folder / "logs").glob("**/metrics.csv"))).read_text().splitlines()
    column = rows[0].split(",").index("val/rouge1")
    values = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert max(values) > min(values)
    assert run.metrics()["best/val/rouge1"] == pytest.approx(max(values), rel=1e-5)
    step = torch.load(Path(run.checkpoint("best")), weights_only=True)["global_step"]
    assert step == 4 * (1 + values.index(max(values)))
