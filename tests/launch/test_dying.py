"""What ends a job from within or beside it: no finite number, a data worker or a rank that dies; all in one sentence."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import Files

from encdec_lightning.cli.train import main
from encdec_lightning.run import Run

MINE = '''
import math, multiprocessing, os, signal, time
import lightning

class Mine(lightning.Callback):
    """$ACCIDENT in the ninth step."""

    def on_train_batch_start(self, trainer, module, batch, index):
        accident = os.environ.get("ACCIDENT") if trainer.global_step == 8 else None
        if accident:
            open("accident", "a").close()
        if accident == "not finite" and trainer.global_rank == trainer.world_size - 1:
            parameter = next(module.parameters())
            hook = parameter.register_hook(lambda gradient: hook.remove() or gradient * math.inf)
        elif accident == "worker":
            [child.kill() for child in multiprocessing.active_children()]
            time.sleep(1)
        elif accident == "rank" and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        elif accident == "bug" and trainer.global_rank == 1:
            raise RuntimeError("what happened")
'''


@pytest.fixture
def options(files: Files, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Twelve steps with dropout, a validation every three."""
    (in_tmp / "mine.py").write_text(MINE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(in_tmp), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(in_tmp)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    mine = ["callbacks.mine._target_=mine.Mine", "trainer.max_steps=12", "validate_every=3", "export=false"]
    return files.overrides(*mine, "variant=bertshare", "data.batch_tokens=200", "task.metrics=[exact_match]")


def told(options: list[str], accident: str, *more: str) -> tuple[int, str]:
    """The exit code of a training in which the accident happens, and stderr."""
    command = [str(Path(sys.executable).with_name("encdec-train")), *options, *more, "folder=run"]
    done = subprocess.run(command, env={**os.environ, "ACCIDENT": accident}, capture_output=True, text=True, check=False)  # fmt: skip
    assert not accident or time.time() - Path("accident").stat().st_mtime < 300
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.checkpoint("last"), weights_only=True)["state_dict"]


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_no_finite_number(ranks, options, capfd):
    more = ["hardware=ddp_cpu"] if ranks == 2 else []
    assert main([*options, *more, "folder=whole"]) == 0, capfd.readouterr().err
    code, said = told(options, "not finite", *more)
    sentence = said.strip().splitlines()[-1]
    assert code == 2, said
    assert re.match(r"gradient norm is (inf|nan): it must be a finite number: step 9 ends the fit with the examples 'row-", sentence)  # fmt: skip
    run = Run.open("run")
    assert (run.status()["state"], run.status()["error"]) == ("failed", sentence)
    assert torch.load(run.checkpoint("last"), weights_only=True)["global_step"] == 6
    assert main(["run=run"]) == 0, capfd.readouterr().err
    expected, found = weights(Run.open("whole")), weights(run)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_learning_rate_without_measure(options, capfd):
    code, said = told(options, "", "training.learning_rate=1e30", "training.schedule=constant")
    assert (code, "a lower training.learning_rate" in said) == (2, True)
    assert not list(Path("run/checkpoints").glob("*")) if Path("run/checkpoints").exists() else True
    assert main([*options, "folder=run"]) == 2  # a step was taken: it is not replaced
    assert f"encdec-train run={Path('run').resolve()} continues it" in capfd.readouterr().err


def test_a_data_worker_that_dies(options, capfd):
    code, said = told(options, "worker", "data.workers=2")
    assert (code, said.strip().splitlines()[-1].startswith("data.workers is 'DataLoader worker")) == (2, True)
    assert Run.open("run").status()["error"] == said.strip().splitlines()[-1]
    assert main(["run=run"]) == 0


@pytest.mark.parametrize(
    ("accident", "why"),
    [
        ("rank", "its rank 1 ended with signal SIGKILL"),
        pytest.param("bug", "RuntimeError: what happened", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_dies(accident, why, options):
    code, said = told(options, accident, "hardware=ddp_cpu") if accident == "rank" else bug(options)
    run = Run.open("run")
    assert (code, said.strip().splitlines()[-1]) == (1, f"The run {run.folder} failed: {why}")
    assert (run.status()["state"], run.status()["error"]) == ("failed", why)


KILLED_BY_LIGHTNING = """
import os, subprocess, sys, time
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from encdec_lightning.launch.job.ranks import ranks_watched
from encdec_lightning.run import Run

run = Run.create("run", {}, "")
run.set_state("running")
ranks = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
with ranks_watched(run, lambda: ranks):
    while "send_signal" not in vars(ranks[1]):
        time.sleep(0.01)
    _ChildProcessObserver(os.getpid(), ranks, sleep_period=0.001).start()
    os.kill(ranks[1].pid, 9)
    time.sleep(600)
"""


def test_a_rank_that_dies_just_before_lightning_looks(in_tmp):
    """It kills rank 0 before that has looked again: every five seconds there is a moment for it."""
    done = subprocess.run([sys.executable, "-c", KILLED_BY_LIGHTNING], check=False)
    status = Run.open("run").status()
    assert (done.returncode, status["state"], status["error"]) == (-9, "failed", "its rank 2 ended with signal SIGKILL")


def bug(options: list[str]) -> tuple[int, str]:
    """Its own traceback stays, in the other rank's output and in the logs; none follows it."""
    command = [str(Path(sys.executable).with_name("encdec-train")), *options, "hardware=ddp_cpu", "folder=run"]
    done = subprocess.run(command, env={**os.environ, "ACCIDENT": "bug"}, capture_output=True, text=True, check=False)
    assert done.stderr.count("Traceback") == 1
    assert "what happened" in (Path("run/logs") / "error-rank1.txt").read_text()
    return done.returncode, done.stderr
