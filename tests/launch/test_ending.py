"""A run that is asked to end (SIGTERM), interrupted, or left by its parent: preempted, no process left, continued exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import Files

from encdec_lightning.cli.evaluate import main as evaluate
from encdec_lightning.cli.train import main
from encdec_lightning.errors import UserError
from encdec_lightning.run import Run
from encdec_lightning.signals import GRACE_VARIABLE

MINE = '''
import os, signal, time
from pathlib import Path
import lightning
from encdec_lightning.evaluation.exact_match import ExactMatch

def ask(place):
    if os.environ.get("PLACE") == place:
        signal.raise_signal(int(os.environ["SIGNAL"]))

class Places(lightning.Callback):
    """Sends this process $SIGNAL at $PLACE."""

    def on_train_batch_end(self, trainer, *_):
        rank = os.environ.get("LOCAL_RANK", "0")
        ask(f"step {trainer.global_step} of rank {rank}")
        if trainer.global_step == 4:
            Path(f"{os.getpid()}-of-rank-{rank}").touch()

    def on_validation_batch_end(self, trainer, *_):
        if not trainer.sanity_checking:
            ask("validation")

    def on_test_epoch_end(self, trainer, *_):
        ask("test")
        if os.environ.get("PLACE") == "sleep in test":
            Path(f"{os.getpid()}-of-rank-{trainer.global_rank}").touch()
            time.sleep(600)

def reading(pair):
    if not pair.id.endswith("-0"):  # the first row is read before there is a run
        ask("reading")
    return pair

class Scoring(ExactMatch):
    def statistics(self, prediction):
        ask("scoring")
        return super().statistics(prediction)
'''


@pytest.fixture
def options(files: Files, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Twelve steps with dropout, a validation every three."""
    (in_tmp / "places.py").write_text(MINE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(in_tmp), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(in_tmp)
    monkeypatch.delitem(sys.modules, "places", raising=False)
    mine = ["callbacks.places._target_=places.Places", "trainer.max_steps=12", "validate_every=3", "export=false"]
    return files.overrides(*mine, "variant=bertshare", "task.preprocess=[places.reading]")


def asked(monkeypatch: pytest.MonkeyPatch, place: str, number: int, *argv: str) -> int:
    monkeypatch.setenv("PLACE", place)
    monkeypatch.setenv("SIGNAL", str(int(number)))
    try:
        return main([*argv])
    finally:
        monkeypatch.delenv("PLACE")


def steps(run: Run) -> int:
    return int(torch.load(run.checkpoint("last"), weights_only=True)["global_step"])


def same(first: Run, second: Run) -> None:
    expected, found = (torch.load(run.checkpoint("last"), weights_only=True)["state_dict"] for run in (first, second))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert first.predictions() == second.predictions()
    assert first.metrics()["best/val/loss"] == second.metrics()["best/val/loss"]


def test_after_each_request_it_continues_to_the_same_bits(options, monkeypatch, capfd):
    assert main([*options, "folder=whole"]) == 0
    run = Run(Path("run"))
    for place, saved in {
        "validation": 4,
        "step 5 of rank 0": 5,
        "step 6 of rank 0": 6,  # the validation comes first, and saves
        "step 12 of rank 0": 12,
    }.items():
        assert asked(monkeypatch, place, signal.SIGTERM, *options, "folder=run") == 143, place
        assert run.status()["state"] == "preempted"
        assert "encdec-train run=" in capfd.readouterr().err
        assert steps(run) == saved, place
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert main(["run=run"]) == 0
    same(Run.open("whole"), run)


@pytest.mark.parametrize(
    ("place", "number", "code"),
    [
        ("reading", signal.SIGTERM, 143),
        ("test", signal.SIGTERM, 143),
        ("scoring", signal.SIGINT, 130),
        pytest.param("reading", signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param("test", signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param("scoring", signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_before_and_after_the_fit(place, number, code, options, monkeypatch):
    handler = signal.getsignal(signal.SIGINT)
    options += ["folder=run", "debug=step", "task.metrics=[places.Scoring]", f"data.cache=cache-{place}"]
    try:
        assert asked(monkeypatch, place, number, *options) == code
    finally:
        signal.signal(signal.SIGINT, handler)
    run = Run.open("run")
    assert (run.status()["state"], run.metrics().get("test/exact")) == ("preempted", None)
    assert run.checkpoints.exists() is (place != "reading")
    if place == "scoring":
        assert run.predictions()
        assert evaluate(["run=run"]) == 0
        assert run.metrics()["test/examples"] == 12
    assert main(["run=run"]) == 0
    assert run.status()["state"] == "finished"


def lives(process: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for its exit code does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def within(seconds: float, what) -> bool:
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        time.sleep(0.02)
    return bool(what())


def free(run: Run) -> bool:
    try:
        with run.lock():
            return True
    except UserError:
        return False


TWO = ["hardware=ddp_cpu"]
SWEEP = ["--multirun", "seed=1,2"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("more", "number", "told", "code", "place"),
    [
        pytest.param(TWO, signal.SIGTERM, "all", 143, "", marks=pytest.mark.slow),
        pytest.param(TWO, signal.SIGTERM, "parent", 143, "sleep in test", marks=pytest.mark.slow),
        (TWO, signal.SIGKILL, "parent", -9, ""),
        (SWEEP, signal.SIGTERM, "parent", 143, ""),
    ],
    ids=str,
)
def test_no_process_is_left(more, number, told, code, place, options, in_tmp):
    length = [f"trainer.max_steps={6 if place else 100_000}", "validate_every=3"]
    command = [str(Path(sys.executable).with_name("encdec-train")), *options, *length, *more, "name=mine"]
    ranks = 2 if more is TWO else 1
    environment = {**os.environ, "PLACE": place}
    if place:  # it sleeps: it ends by force after a while
        environment[GRACE_VARIABLE] = "6"
    with (in_tmp / "err").open("w") as stream:
        parent = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)

    def found() -> list[int]:
        return [int(path.name.partition("-")[0]) for path in in_tmp.glob("*-of-rank-*")]

    def said() -> str:
        return (in_tmp / "err").read_text()

    try:
        assert within(600, lambda: len(found()) == ranks or parent.poll() is not None), said()
        workers = found()
        (folder,) = (in_tmp / "runs" / "mine").iterdir()
        for process in [parent.pid, *(workers if told == "all" else [])]:
            os.kill(process, number)
        assert parent.wait(60) == code, said()
        assert within(30, lambda: not any(map(lives, workers))), said()
    finally:
        for process in [parent.pid, *found()]:
            if lives(process):
                os.kill(process, signal.SIGKILL)
        parent.wait()
    run = Run.open(folder)
    assert run.status()["state"] == "preempted"
    assert "Traceback" not in said()
    assert within(30, lambda: free(run))
    assert steps(run) >= 3
    assert len(list(folder.parent.iterdir())) == 1  # the sweep's second point was not begun


@pytest.mark.slow
def test_two_ranks_end_at_the_same_step_and_continue_to_the_same_bits(options, monkeypatch, capfd):
    options += [*TWO, "data.accumulate=2", "data.batch_tokens=200"]
    assert main([*options, "folder=whole"]) == 0, capfd.readouterr().err
    assert asked(monkeypatch, "step 8 of rank 1", signal.SIGTERM, *options, "folder=run") == 143
    run = Run.open("run")
    assert (run.status()["state"], steps(run)) == ("preempted", 8)
    assert "Traceback" not in capfd.readouterr().err
    assert main(["run=run"]) == 0, capfd.readouterr().err
    same(Run.open("whole"), run)
