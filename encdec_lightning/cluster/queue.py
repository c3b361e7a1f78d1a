"""Slurm's commands: a job submitted, found in the queue, and queued again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from encdec_lightning.cluster.script import REQUEUES
from encdec_lightning.errors import UserError

PATIENCE = 60  # seconds for an answer of Slurm's
IDLE = 4  # starts without progress after which a job is not queued again


def check_here() -> None:
    """Raise `UserError` where nothing can be submitted."""
    if shutil.which("sbatch") is None:
        expected = "there is no sbatch on PATH: give the command where Slurm is, or slurm.print=true to see the script"
        raise UserError("hydra/launcher", "slurm", expected)


def check_one_task() -> None:
    """Raise `UserError` where `srun` or `torchrun` starts a command several times: each would be a run of its own."""
    if os.environ.get("TORCHELASTIC_RUN_ID") is not None:
        expected = "torchrun starts this command in its ranks: give it once without, with hardware=ddp or hardware=fsdp"
        raise UserError("torchrun", os.environ["TORCHELASTIC_RUN_ID"], expected)
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1":
        expected = "srun starts this command so often: give it once, with hydra/launcher=slurm, which starts the ranks"
        raise UserError("SLURM_STEP_NUM_TASKS", tasks, expected)


def devices_of(value: object) -> int | None:
    """How many devices `trainer.devices` asks for on each node; None where nobody says a number."""
    if isinstance(value, list):
        return len(value)
    text = str(value)
    if "," in text:
        return len([each for each in text.split(",") if each.strip()])
    return int(text) if text.isdecimal() and int(text) else None


def check_tasks(devices: object, nodes: object) -> None:
    """Raise `UserError` where this job, its script edited perhaps, has other tasks than its run has processes."""
    each = devices_of(devices) or 1
    wanted = {"NNODES": int(str(nodes)), "NTASKS_PER_NODE": each, "NTASKS": each * int(str(nodes))}
    for name, number in wanted.items():
        told = os.environ.get(f"SLURM_{name}", str(number))
        if told != str(number):
            expected = f"its run wants {number} (trainer.devices is {each}, trainer.num_nodes {nodes}); mend the script"
            raise UserError(f"SLURM_{name}", told, expected)


def submitted(script: Path) -> str:
    """Submit a script; gives the job's number. Raises `UserError` with what Slurm refuses."""
    done = _asked("sbatch", "--parsable", str(script))
    if done is None or done.returncode:
        said = "sbatch does not answer" if done is None else _last_line(done.stderr)
        raise UserError("sbatch", str(script), f"Slurm refuses it ({said})")
    return done.stdout.strip().partition(";")[0]


def check_array(points: int) -> None:
    """Raise `UserError` for more points than the site takes in one array; nothing is known without `scontrol`."""
    done = _asked("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", "" if done is None else done.stdout, re.MULTILINE)
    if found and points > int(found[1]):
        expected = f"this site takes at most {found[1]} in one array (MaxArraySize): split the sweep"
        raise UserError("--multirun", f"{points} points", expected)


def in_queue(jobs: Iterable[str]) -> set[str]:
    """The jobs, `<number>` or `<number>_<task>`, that wait or run; raises `UserError` where Slurm does not say."""
    asked = set(jobs)
    if not asked:
        return set()
    if shutil.which("squeue") is None:
        return set()
    done = _asked("squeue", "--noheader", "--array", "--format=%i", "--me")
    if done is None or done.returncode != 0:
        said = "" if done is None else done.stderr.strip()
        raise UserError("squeue", ", ".join(sorted(asked)), f"Slurm does not answer ({said or 'no answer in time'})")
    return asked & set(done.stdout.split())


def is_slurm_job() -> bool:
    """Whether this process belongs to a job of a script of `cluster/script.py`."""
    return REQUEUES in os.environ and "SLURM_JOB_ID" in os.environ


def srun() -> list[str]:
    """How a job starts its ranks, which end together when one fails. Raises `UserError` where there is no srun."""
    if shutil.which("srun") is None:
        raise UserError("PATH", os.environ.get("PATH"), "there is no srun on it in the job, which starts the ranks")
    cores = os.environ.get("SLURM_CPUS_PER_TASK")  # which srun does not take over by itself
    more = [] if cores is None else [f"--cpus-per-task={cores}"]
    return ["srun", "--kill-on-bad-exit=1", "--export=ALL", "--input=none", *more]


def own_job() -> str:
    """This job's name in Slurm's commands. The number alone may name a whole array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def is_preempted() -> bool:
    """Whether Slurm asks this job to end for the sake of another one, rather than because a user has cancelled it."""
    done = _asked("scontrol", "show", "job", own_job())
    found = re.search(r"\bPreemptTime=(\S+)", "" if done is None else done.stdout)
    return found is not None and found[1] not in ("None", "Unknown")


def requeue(record: Path, progress: bool) -> str:
    """Queue this job again, unless it has been too often or does not get on; gives what has become of it, in words.

    `progress`: whether this start has brought the run further. The file `record` counts the starts that have not.
    """
    idle = 0 if progress else 1 + len(record.read_bytes() if record.exists() else b"")
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text("." * idle, encoding="utf-8")
    if idle >= IDLE:
        record.unlink()
        return f"{idle} starts of the job have left no checkpoint: it needs more time (slurm.time)"
    before, most = int(os.environ.get("SLURM_RESTART_COUNT", "0")), int(os.environ[REQUEUES])
    if before >= most:
        return f"the job was queued again {before} times, and slurm.requeues is {most}"
    done = _asked("scontrol", "requeue", own_job())
    if done is not None and "pending" in done.stderr:  # Slurm itself has done it
        return f"the job {own_job()} is queued again"
    if done is None or done.returncode:
        said = "scontrol does not answer" if done is None else _last_line(done.stderr)
        return f"the job cannot be queued again ({said})"
    return f"the job {own_job()} is queued again"


def _asked(*command: str) -> subprocess.CompletedProcess[str] | None:
    """What one of Slurm's commands answers; None where there is none, or no answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["without a word"])[-1]
