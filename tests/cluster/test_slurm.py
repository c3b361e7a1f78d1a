"""Jobs of a real Slurm of two virtual nodes: a sweep, ranks on two nodes, and requests to end, after which a run goes on to the same bits."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import Files
from virtual_slurm import VirtualSlurm, kill, runs_of, virtual_slurm, why_not

from encdec_lightning.cli.train import main
from encdec_lightning.run import Run

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.xdist_group("slurm"),
]
MINE = '''
import os, signal, time
from pathlib import Path
import lightning
from encdec_lightning.signals import TERMINATION

class Waiting(lightning.Callback):
    """After the fifth step of a job's first start, says so by a file and does what $PLACE says."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step != 5 or os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
            return
        place = os.environ.get("PLACE", "")
        if place.startswith("wait"):
            Path(trainer.default_root_dir, f"reached-by-{trainer.global_rank}").write_text(str(os.getpid()))
            until = time.monotonic() + 400
            while not TERMINATION.asked and time.monotonic() < until:
                time.sleep(0.05)
        if place == f"rank {trainer.global_rank} dies":
            os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture(scope="module")
def cluster() -> Iterator[VirtualSlurm]:
    worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0)
    with virtual_slurm(first_job=1 + 1000 * worker) as running:  # Lightning's port is made of the job's number
        yield running


@pytest.fixture
def options(cluster: VirtualSlurm, files: Files, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Nine steps with dropout, a validation every three, on two ranks."""
    (in_tmp / "waiting.py").write_text(MINE)
    monkeypatch.setenv("PYTHONPATH", str(in_tmp), prepend=os.pathsep)
    monkeypatch.syspath_prepend(in_tmp)
    mine = ["callbacks.waiting._target_=waiting.Waiting", "trainer.max_steps=9", "validate_every=3", "export=false"]
    more = ["variant=bertshare", "data.batch_tokens=200", "hardware=ddp_cpu", "slurm.environment=[PLACE]"]
    yield files.overrides(*mine, *more)
    cluster.clear()


SLURM = "hydra/launcher=slurm"
TWO_NODES = ["trainer.devices=1", "trainer.num_nodes=2"]


def submitted(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Submit a job; gives its number."""
    capsys.readouterr()
    assert main([*argv, SLURM]) == 0, capsys.readouterr().err
    (number,) = re.findall(r"Job (\d+) is submitted", capsys.readouterr().out)
    return number


def reached(run: Run, ranks: int = 2) -> None:
    """Wait until all ranks are in the middle of the training."""
    until = time.monotonic() + 600
    while len(list(run.folder.glob("reached-by-*"))) < ranks:
        assert time.monotonic() < until, [file.read_text() for file in run.slurm.glob("*.log")]
        time.sleep(0.1)


def output(run: Run) -> str:
    return "".join(file.read_text() for file in sorted(run.slurm.glob("*.log")))


def same(first: Run, second: Run) -> None:
    expected, found = (torch.load(run.checkpoint("last"), weights_only=True) for run in (first, second))
    assert expected["global_step"] == found["global_step"] == 9
    assert all(torch.equal(expected["state_dict"][name], each) for name, each in found["state_dict"].items())
    assert first.predictions() == second.predictions()
    assert first.metrics()["best/val/loss"] == second.metrics()["best/val/loss"]


def without_slurm(options: list[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same training by two processes that no one disturbs."""
    monkeypatch.delenv("PLACE", raising=False)
    chosen = [each for each in options if not each.startswith("slurm.")]
    assert main([*chosen, "folder=whole"]) == 0
    return Run.open("whole")


def test_two_nodes_that_are_asked_to_end_are_queued_again_and_go_on(cluster, options, monkeypatch, capsys):
    monkeypatch.setenv("PLACE", "wait")
    more = ["folder=run", *TWO_NODES, "logger=wandb", "logger.wandb.offline=true"]
    job, run = submitted(capsys, *options, *more), Run("run")
    reached(run)
    cluster.run("scancel", "--signal=USR1", job)  # to the ranks, as a user does
    cluster.wait(job)
    assert cluster.field(job, "Restarts") == "1"
    assert cluster.field(job, "BatchHost") == "127.0.0.1" and cluster.field(job, "NumNodes") == "2"
    assert run.status()["state"] == "finished"
    assert f"The run is preempted; the job {job} is queued again." in output(run)
    assert "5 are done on 2 x cpu" in output(run)
    names = [folder.name for folder in run.logs.rglob("offline-run-*")]
    assert len(names) == 2 and all(name.endswith(run.id) for name in names)
    same(without_slurm(options, monkeypatch), run)


def test_a_sweep_is_one_job_and_what_is_done_is_not_submitted_again(cluster, options, monkeypatch, capsys):
    job = submitted(capsys, "--multirun", *options, "seed=1,2", "trainer.max_steps=2")
    (script,) = Path("runs/sweeps").rglob("job.sh")
    runs = runs_of(script)
    assert [run.config()["seed"] for run in runs] == [1, 2]
    assert all("slurm" not in run.config() for run in runs)
    assert main(["--multirun", *options, "seed=1,2", "trainer.max_steps=2", SLURM]) == 0
    assert capsys.readouterr().out.count("is in the queue already") == 2
    for task in range(2):
        cluster.wait(f"{job}_{task}")
    assert {run.status()["state"] for run in runs} == {"finished"}
    assert all(len(run.predictions()) == 12 for run in runs)
    said = [file.read_text() for file in sorted(script.parent.glob(f"{job}_*.log"))]
    assert len(said) == 2 and all("2 steps on 2 x cpu" in each and "Test scores" in each for each in said)
    assert main(["--multirun", *options, "seed=1,2", "trainer.max_steps=2", SLURM]) == 0
    assert capsys.readouterr().out == "Nothing is submitted: 2 runs are finished.\n"
    again = cluster.run("sbatch", "--parsable", "--array=1", str(script)).strip()
    cluster.wait(f"{again}_1")  # a task whose run is finished


def test_more_points_than_the_site_takes(cluster, options, in_tmp, capsys):
    assert main(["--multirun", *options, f"seed={','.join(map(str, range(5)))}", SLURM]) == 2
    expected = "--multirun is '5 points': this site takes at most 4 in one array (MaxArraySize): split the sweep.\n"
    assert capsys.readouterr().err == expected
    assert not (in_tmp / "runs").exists()


def test_other_tasks_than_the_run_has_processes(cluster, options, capsys):
    """Somebody has edited the script."""
    assert main([*options, "folder=run", SLURM, "slurm.print=true"]) == 0
    script = Path("run/slurm/job.sh")
    for number in (1, 3):
        script.write_text(re.sub(r"--ntasks-per-node=\d", f"--ntasks-per-node={number}", script.read_text()))
        cluster.wait(cluster.run("sbatch", "--parsable", str(script)).strip(), "FAILED")
    said = [line for line in output(Run("run")).splitlines() if line.startswith("SLURM_")]
    sentence = (
        "SLURM_NTASKS_PER_NODE is '{}': its run wants 2 (trainer.devices is 2, trainer.num_nodes 1); mend the script."
    )
    assert said == [sentence.format(number) for number in (1, 3)]


def test_what_slurm_refuses_is_said(cluster, options, capsys):
    assert main([*options, "folder=run", SLURM, "slurm.partition=mian"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sbatch is '") and "Invalid partition name specified" in line


def test_a_rank_that_dies_fails_the_run_within_a_minute(cluster, options, monkeypatch, capsys):
    monkeypatch.setenv("PLACE", "rank 1 dies")
    job, run = submitted(capsys, *options, "folder=run", *TWO_NODES), Run("run")
    cluster.wait(job, "FAILED")
    assert run.status()["state"] == "failed", output(run)
    assert cluster.field(job, "Restarts") == "0"
    assert re.search(r"The run \S+ failed: ", output(run)), output(run)


@pytest.mark.slow
def test_one_task_of_an_array_is_queued_again_alone(cluster, options, monkeypatch, capsys):
    monkeypatch.setenv("PLACE", "wait")
    job = submitted(capsys, "--multirun", *options, "seed=0,3")
    first, second = runs_of(*Path("runs/sweeps").rglob("job.sh"))
    reached(first)
    reached(second)
    cluster.run("scancel", "--signal=USR1", "--batch", f"{job}_0")
    cluster.wait(f"{job}_0")
    assert second.status()["state"] == "running"
    cluster.run("scancel", "--signal=USR1", "--batch", f"{job}_1")
    cluster.wait(f"{job}_1")
    assert [cluster.field(f"{job}_{task}", "Restarts") for task in range(2)] == ["1", "1"]
    same(without_slurm(options, monkeypatch), first)


@pytest.mark.slow
def test_the_time_limit(cluster, options, monkeypatch, capsys):
    monkeypatch.setenv("PLACE", "wait")
    job, run = submitted(capsys, *options, "folder=run", "slurm.time=2", "slurm.signal_seconds=40"), Run("run")
    reached(run)
    cluster.wait(job, timeout=400)
    assert cluster.field(job, "Restarts") == "1"
    assert "is queued again" in output(run) and "5 are done" in output(run)
    same(without_slurm(options, monkeypatch), run)


@pytest.mark.slow
def test_a_job_that_is_more_urgent(cluster, options, monkeypatch, capsys):
    monkeypatch.setenv("PLACE", "wait")
    job, run = submitted(capsys, *options, "folder=run", "slurm.nodes=2", *TWO_NODES), Run("run")
    reached(run)
    urgent = cluster.run(
        *("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive"),
        "--output=/dev/null",
        "--wrap=sleep 5",
    ).strip()
    cluster.wait(urgent)
    cluster.wait(job)
    assert cluster.field(job, "Restarts") == "1"
    assert "5 are done" in output(run)
    same(without_slurm(options, monkeypatch), run)


@pytest.mark.slow
def test_a_job_that_is_cancelled_leaves_a_checkpoint_and_is_not_queued_again(cluster, options, monkeypatch, capsys):
    monkeypatch.setenv("PLACE", "wait")
    job, run = submitted(capsys, *options, "folder=run"), Run("run")
    reached(run)
    cluster.run("scancel", job)
    cluster.wait(job, "CANCELLED")
    until = time.monotonic() + 30
    while run.status()["state"] == "running" and time.monotonic() < until:
        time.sleep(0.2)
    assert run.status()["state"] == "preempted"
    assert torch.load(run.checkpoint("last"), weights_only=True)["global_step"] == 5
    assert f"encdec-train run={run.folder} continues it" in output(run)
    monkeypatch.delenv("PLACE")
    cluster.wait(submitted(capsys, *options, "folder=run"))
    same(without_slurm(options, monkeypatch), run)


@pytest.mark.slow
def test_the_limit_of_requeues(cluster, options, monkeypatch, capsys):
    monkeypatch.setenv("PLACE", "wait")
    job, run = submitted(capsys, *options, "folder=run", "slurm.requeues=0"), Run("run")
    reached(run)
    cluster.run("scancel", "--signal=USR1", "--batch", job)
    cluster.wait(job, "FAILED")
    assert run.status()["state"] == "preempted"
    assert "the job was queued again 0 times, and slurm.requeues is 0" in output(run)


@pytest.mark.slow
def test_a_job_that_never_gets_on_is_not_queued_for_ever(cluster, options, monkeypatch, capsys):
    monkeypatch.setenv("PLACE", "wait")
    job, run = submitted(capsys, *options, "folder=run", "trainer.devices=1", "slurm.requeues=9"), Run("run")
    starts = 0
    while cluster.field(job, "JobState") not in ("FAILED", "COMPLETED"):
        if cluster.field(job, "JobState") == "RUNNING" and run.status().get("state") == "running":
            assert cluster.field(job, "Restarts") == str(starts)
            time.sleep(1)
            cluster.run("scancel", "--signal=USR1", "--batch", job)
            starts += 1
            until = time.monotonic() + 60
            while run.status()["state"] == "running" and time.monotonic() < until:
                time.sleep(0.1)
        time.sleep(0.2)
    assert cluster.field(job, "JobState") == "FAILED" and starts == 4, output(run)
    assert "4 starts of the job have left no checkpoint: it needs more time (slurm.time)" in output(run)


@pytest.mark.slow
def test_a_node_that_dies(cluster, options, monkeypatch, capsys):
    """The daemon, its step and the rank of the second node are killed: Slurm itself queues the job again."""
    monkeypatch.setenv("PLACE", "wait")
    job, run = submitted(capsys, *options, "folder=run", *TWO_NODES), Run("run")
    reached(run)
    kill(cluster.slurmd["127.0.0.2"])
    rank = int((run.folder / "reached-by-1").read_text())
    step = int(subprocess.run(["ps", "-o", "ppid=", str(rank)], check=True, capture_output=True, text=True).stdout)
    for pid in (step, rank):
        os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 600
    while cluster.field(job, "Restarts") != "1":  # Slurm has noticed
        assert time.monotonic() < until
        time.sleep(0.5)
    cluster.start_node("127.0.0.2")
    cluster.wait(job, timeout=300)
    assert cluster.field(job, "Restarts") == "1"
    same(without_slurm(options, monkeypatch), run)
