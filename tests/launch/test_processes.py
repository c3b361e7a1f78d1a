"""A run folder's job: its states, a killed process that is continued, two processes that train as one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from tiny import Files

from encdec_lightning import EncoderDecoder
from encdec_lightning.cli.train import main
from encdec_lightning.errors import JobFailed, UserError, UserErrors
from encdec_lightning.launch import processes, worker
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.run_folder import make_run
from encdec_lightning.rules import convert
from encdec_lightning.run import Run
from encdec_lightning.signals import Terminated

ACCIDENT = '''
import os, signal
import lightning

class Accident(lightning.Callback):
    """What $ACCIDENT says, after the eighth step."""

    def on_train_batch_end(self, trainer, *_):
        accident = os.environ.get("ACCIDENT")
        if trainer.global_step == 8 and accident == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if trainer.global_step == 8 and accident:
            raise {"interrupted": KeyboardInterrupt, "error": RuntimeError}[accident]("what happened")
'''


@pytest.fixture
def options(files: Files, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Twelve steps with dropout, a validation every three, and a callback of the user's own in the working folder."""
    (in_tmp / "accident.py").write_text(ACCIDENT)
    monkeypatch.syspath_prepend(in_tmp)
    monkeypatch.delitem(sys.modules, "accident", raising=False)
    mine = ["callbacks.accident._target_=accident.Accident", "trainer.max_steps=12", "validate_every=3"]
    return files.overrides(*mine, "variant=bertshare", "export=false")


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.checkpoint("last"), weights_only=True)["state_dict"]


def same(first: Run, second: Run) -> None:
    expected, found = weights(first), weights(second)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert first.predictions() == second.predictions()
    assert first.metrics()["test/rouge1"] == second.metrics()["test/rouge1"]
    assert first.metrics()["best/val/loss"] == second.metrics()["best/val/loss"]


def test_a_killed_run_continues_to_the_same_weights(options, in_tmp, capfd):
    assert main([*options, "folder=whole"]) == 0
    command = [str(Path(sys.executable).with_name("encdec-train")), *options, "folder=killed"]
    process = subprocess.run(command, env={**os.environ, "ACCIDENT": "killed"}, check=False)
    assert process.returncode == -signal.SIGKILL, capfd.readouterr().err
    run = Run.open("killed")
    assert (run.status()["state"], run.metrics()) == ("running", {})
    assert torch.load(run.checkpoint("last"), weights_only=True)["global_step"] == 6
    assert main(["run=killed"]) == 0
    assert run.status()["state"] == "finished"
    same(Run.open("whole"), run)


@pytest.mark.parametrize(
    ("accident", "state", "code"), [("interrupted", "preempted", 130), ("error", "failed", RuntimeError)]
)
def test_states_and_continuing(accident, state, code, options, monkeypatch, capfd):
    monkeypatch.setenv("ACCIDENT", accident)
    handler = signal.getsignal(signal.SIGINT)
    try:
        if code is RuntimeError:  # a bug keeps its traceback
            with pytest.raises(RuntimeError, match="what happened") as caught:
                main([*options, "folder=run"])
            log = Run.open("run").logs / "error.txt"
            assert caught.value.__notes__ == [f"This traceback is also in {log}."]
            assert log.read_text().rstrip().endswith("RuntimeError: what happened")
        else:
            assert main([*options, "folder=run"]) == code
    finally:
        signal.signal(signal.SIGINT, handler)
    run = Run.open("run")
    assert run.status()["state"] == state
    assert run.status().get("error") == ("RuntimeError: what happened" if state == "failed" else None)
    monkeypatch.delenv("ACCIDENT")
    assert main([*options, "folder=run"]) == 0  # the same command, the same identity
    assert (run.status(), run.metrics()["train/steps"]) == ({**run.status(), "state": "finished"}, 12)
    assert "error" not in run.status()


def test_a_finished_run_is_left_alone(options, monkeypatch):
    run = make_run(compose_config([*options, "folder=run"]))
    run.set_state("finished")
    monkeypatch.setattr(processes, "_in_worker", pytest.fail)
    processes.start(run, own_process=True)
    assert {path.name for path in run.folder.iterdir()} == {"config.yaml", "status.json", ".lock"}


def test_a_finished_run_is_exported_when_its_command_asks_for_it(files, in_tmp, capsys):
    command = [*files.overrides("trainer.max_steps=2"), "folder=run"]
    command = [each for each in command if not each.startswith("export")]
    assert main([*command, "export=false"]) == 0
    run = Run.open("run")
    before = run.metrics()
    assert not run.model.exists()
    assert main([*command, "export=false"]) == 0 and not run.model.exists()
    capsys.readouterr()
    assert main([*command, "export=true"]) == 0
    assert f"its model is now in {run.model}" in capsys.readouterr().err
    assert EncoderDecoder.from_pretrained(run.model).config.decoder.vocab_size and (run.model / "README.md").exists()
    assert run.metrics() == before and run.config()["export"] is True
    shutil.rmtree(run.model)
    assert main([*command, "export=true"]) == 0 and not run.model.exists()  # who removes it later has no use for it


def test_a_changed_config_is_refused(options):
    run = make_run(compose_config([*options, "folder=run"]))
    file = run.folder / "config.yaml"
    file.write_text(file.read_text().replace("max_steps: 12", "max_steps: 13"))
    with pytest.raises(UserError, match="is not as it was made; delete that file"):
        processes.start(run)
    assert "state" not in run.status()


WORKER_OF_A_TEST = """
import os, signal, sys
from encdec_lightning.run import Run
run = Run.open("run")
assert os.fstat(int({lock})).st_ino == (run.folder / ".lock").stat().st_ino
{ends}
"""
SAYS = 'run.set_state("failed", "task.train is 1: it must be 2."); sys.exit(2)'


@pytest.mark.parametrize(
    ("ends", "error", "state", "reason"),
    [
        (SAYS, UserErrors, "failed", "task.train is 1: it must be 2."),
        (SAYS.replace("exit(2)", "exit(1)"), JobFailed, "failed", "task.train is 1: it must be 2."),
        ("sys.exit(1)", JobFailed, "failed", "its process ended with exit code 1"),
        ("os.kill(os.getpid(), signal.SIGKILL)", JobFailed, "failed", "its process ended with signal SIGKILL"),
        ("sys.exit(130)", KeyboardInterrupt, "preempted", None),
        ("sys.exit(143)", Terminated, "preempted", None),
        ('run.set_state("preempted"); os.kill(os.getpid(), signal.SIGKILL)', Terminated, "preempted", None),
        ("os.kill(os.getppid(), signal.SIGINT); signal.pause()", KeyboardInterrupt, "preempted", None),
    ],
)
def test_what_a_worker_reports(ends, error, state, reason, options, monkeypatch, capfd):
    run = make_run(compose_config([*options, "folder=run"]))
    real = subprocess.Popen

    def popen(command: list[str], pass_fds: list[int], **more: object) -> object:
        assert command[1:] == ["-m", "encdec_lightning.launch.worker", str(run.folder)]
        code = WORKER_OF_A_TEST.format(lock=pass_fds[0], ends=ends)
        return real([command[0], "-c", code], pass_fds=pass_fds, **more)

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(error) as caught:
        processes.start(run, own_process=True)
    assert (run.status()["state"], run.status().get("error")) == (state, reason)
    if error is JobFailed:
        assert str(caught.value) == f"The run {run.folder} failed: {reason}"
    assert str(caught.value) == "" or error is JobFailed
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("rank", "error", "code", "state"),
    [
        ("0", Terminated(), 143, "preempted"),
        ("1", Terminated(), 0, "preempted"),  # with another code Lightning would kill rank 0 before it is done
        ("1", UserError("a", 1, "b"), 2, "failed"),
    ],
)
def test_what_a_rank_reports(rank, error, code, state, options, monkeypatch):
    run = make_run(compose_config([*options, "folder=run"]))
    run.set_state("running")

    def ends(run: Run) -> None:
        raise error

    monkeypatch.setattr("encdec_lightning.launch.job.job.train", ends)
    monkeypatch.setattr(worker, "follow_parent", lambda: None)
    monkeypatch.setattr(sys, "argv", ["worker", str(run.folder)])
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert worker.main() == code
    assert run.status()["state"] == state
    run.set_state("failed", "the first reason")  # by another rank
    worker.main()
    assert run.status()["error"] == "the first reason"


@pytest.mark.parametrize(
    ("trainer", "several"),
    [
        ({}, False),
        ({"devices": 1}, False),
        ({"devices": "1"}, False),
        ({"devices": None}, False),
        ({"devices": "auto"}, False),
        ({"devices": -1}, False),
        ({"devices": [1]}, False),
        ({"devices": "1,"}, False),
        ({"devices": 2}, True),
        ({"devices": "2"}, True),
        ({"devices": [0, 1]}, True),
        ({"devices": "0,1"}, True),
        ({"num_nodes": 2}, True),
    ],
)
def test_where_processes_of_their_own_are_needed(trainer, several):
    config = convert(
        {
            "model": {"encoder": "a", "decoder": "b"},
            "task": {"train": "a", "validation": "b"},
            "trainer": {"_target_": "lightning.Trainer", "accelerator": "cpu", "max_steps": 1, **trainer},
        }
    )
    assert processes._several_devices(config) is several


@pytest.mark.parametrize(
    ("gpus", "accelerator", "several"), [(2, "auto", True), (2, "gpu", True), (1, "auto", False), (2, "cpu", False)]
)
@pytest.mark.parametrize("devices", ["auto", -1, "-1", None])
def test_all_gpus_of_a_machine_are_processes_of_their_own(devices, gpus, accelerator, several, monkeypatch):
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", staticmethod(lambda: gpus))
    trainer = {"_target_": "lightning.Trainer", "accelerator": accelerator, "max_steps": 1, "devices": devices}
    sides, files = {"encoder": "a", "decoder": "b"}, {"train": "a", "validation": "b"}
    assert processes._several_devices(convert({"model": sides, "task": files, "trainer": trainer})) is several


def test_two_processes_train_as_one(files, in_tmp, capfd):
    exact = ["model.dropout=0.0", "trainer.max_steps=3", "validate_every=3", "variant=bertshare", "export=false"]
    assert main(files.overrides(*exact, "data.accumulate=2", "folder=one")) == 0
    assert main(files.overrides(*exact, "hardware=ddp_cpu", "folder=two")) == 0, capfd.readouterr().err
    one, two = Run.open("one"), Run.open("two")
    assert (one.metrics()["train/devices"], two.metrics()["train/devices"]) == (1, 2)
    assert abs(one.metrics()["best/val/loss"] - two.metrics()["best/val/loss"]) < 1e-5
    found = weights(two)
    for name, expected in weights(one).items():
        assert torch.allclose(expected, found[name], atol=1e-5), name
    ids = [json.loads(line)["key"] for line in Path(files.test).read_text().splitlines()]
    assert sorted(each.id for each in two.predictions()) == sorted(ids)
    assert two.metrics()["test/examples"] == len(ids)
    assert "sync_dist" not in capfd.readouterr().err


WORKER = """
import sys
from encdec_lightning.launch.worker import main
sys.argv = ["worker", sys.argv[1]]
assert main() == 0
print(sorted(name for name in sys.modules if name.partition(".")[0] == "hydra"))
"""


def test_a_worker_never_loads_hydra(files, in_tmp):
    run = make_run(compose_config(files.overrides("debug=step", "folder=run")))
    command = [sys.executable, "-c", WORKER, str(run.folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
    assert run.predictions()
