"""A run folder's job in the right processes: this one for one device, workers of its own for several."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from encdec_lightning.advice import goes_on
from encdec_lightning.cluster.queue import check_tasks, is_preempted, is_slurm_job, requeue, srun
from encdec_lightning.config import Config
from encdec_lightning.credentials import without_secrets
from encdec_lightning.errors import EXIT_CODE, INTERRUPTED, TERMINATED, JobFailed, UserError, UserErrors, reason
from encdec_lightning.launch.job.devices import job_config
from encdec_lightning.launch.job.ranks import Process, described, end_group
from encdec_lightning.launch.job.refusals import refusals_of_the_disk
from encdec_lightning.launch.nursery import WORKER, forked
from encdec_lightning.rules import convert
from encdec_lightning.run import Run
from encdec_lightning.signals import GRACE, PARENT, TERMINATION, Terminated

LOOKS = 0.5
"""Seconds between two looks at a run that may be pruned."""


class Pruned(Exception):
    """The run ended early, because it was not promising."""


def start(run: Run, own_process: bool = False, unpromising: Callable[[], bool] | None = None) -> None:
    """Train the run to its end, or export a finished one where that is lacking. Keeps `status.json`, holds the lock.

    Several devices, a job of Slurm's, or `own_process`, run in processes that have never loaded Hydra. When this
    process is interrupted or asked to end, they end too, and the run is `preempted`; Slurm's job is queued again.

    `unpromising` is called again and again while such processes run. When it is true they are asked to end with a
    checkpoint, the run is `pruned`, and this raises `Pruned`.
    """
    if run.status().get("state") == "finished":
        if run.status().get("export") == "asked":  # since it has ended
            from encdec_lightning.launch.job.late_export import export_late

            export_late(run)
        return
    with run.lock() as lock:
        recover(run)
        if run.status().get("state") == "finished":
            return
        if convert(run.config()).identity() != run.identity():
            raise UserError("run", str(run.folder), f"its config.yaml is not as it was made; {run.anew}")
        config = job_config(run)
        if is_slurm_job():
            check_tasks(config.trainer.get("devices", 1), config.trainer.get("num_nodes", 1))
        run.set_state("running")
        before = _saved(run)
        try:
            several = _several_devices(config)
            if own_process or is_slurm_job() or several:
                _in_worker(run, lock, several, unpromising)
            else:
                from encdec_lightning.launch.job.job import train

                with recorded(run):
                    train(run)
        except Pruned:
            run.set_state("pruned")
            raise
        except (KeyboardInterrupt, Terminated):
            run.set_state("preempted")
            continues = goes_on(run.folder)
            if is_slurm_job() and (TERMINATION.number != signal.SIGTERM or is_preempted()):
                continues = requeue(run.slurm / "idle", progress=_saved(run) != before)
            print(f"The run is preempted; {continues}.", file=sys.stderr)
            raise
        run.set_state("finished")


def _saved(run: Run) -> int:
    """When the last checkpoint was written; 0 if there is none."""
    return run.last.stat().st_mtime_ns if run.last.exists() else 0


def recover(run: Run) -> None:
    """Write a lost status anew from the run's config, put a damaged `metrics.json` aside, and say so."""
    if not run.identity():
        identity = convert(run.config()).identity()
        print(f"{run.status_file} was damaged or gone, it is written anew.", file=sys.stderr)
        run.identify(identity)
    aside = run.put_damaged_metrics_aside()
    if aside is not None:
        print(f"The run's metrics cannot be read and are made anew; what was there is {aside}.", file=sys.stderr)


@contextmanager
def recorded(run: Run, rank: int = 0) -> Iterator[None]:
    """Write into the run's status how a job ends that does not reach its end: preempted, or failed and why.

    Of several ranks' ends the first one counts, since the others may follow from it. Whatever fails after the
    request to end counts as that end: other processes, which a job needs, may be gone. A bug's traceback is kept in
    the run's logs, and a note on the exception says where.
    """
    try:
        with refusals_of_the_disk(run):
            yield
    except BaseException as error:
        if isinstance(error, JobFailed):  # another rank, which has said why if it could
            raise
        undecided = run.status().get("state") == "running"
        if TERMINATION.asked or isinstance(error, KeyboardInterrupt | Terminated):
            if undecided:
                run.set_state("preempted")
            if isinstance(error, KeyboardInterrupt | Terminated):
                raise
            raise Terminated from error
        if undecided:
            run.set_state("failed", reason(error))
        if not isinstance(error, UserError | UserErrors):
            error.add_note(f"This traceback is also in {keep_traceback(run, error, rank)}.")
        raise


def keep_traceback(run: Run, error: BaseException, rank: int = 0) -> Path:
    """Append an exception's traceback and the time to the file of a rank's errors in the logs; returns the file."""
    path = run.logs / ("error.txt" if rank == 0 else f"error-rank{rank}.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        text = without_secrets("".join(traceback.format_exception(error)))
        stream.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}\n{text}\n")
    return path


def _in_worker(run: Run, lock: int, several: bool, unpromising: Callable[[], bool] | None = None) -> None:
    """Run the job in a process of its own, which Lightning may multiply; raises what it reports by its exit code.

    A point of a sweep on one device has one that is forked from a nursery, where there is one.

    In a job of Slurm's the process is `srun`, whose ranks give 0 when they were asked to end: so a code of theirs says
    that one of them failed, even where the others then report that they were asked.

    It inherits the lock: should this process be killed, the run stays locked for as long as the worker lives, which
    notices and ends. The worker and its further ranks are a process group, of which nothing is left afterwards.
    """
    in_job = is_slurm_job()
    worker = (None if in_job or several else forked(run.folder, lock)) or _started(run, lock, in_job)
    pruned = False
    try:
        pruned = unpromising is not None and _becomes(unpromising, worker)
        if pruned:
            _ask_to_end(worker, in_job)
        else:
            worker.wait()
    except BaseException:
        _ask_to_end(worker, in_job)
        raise
    finally:
        end_group(worker)
    code, state = worker.returncode, run.status().get("state")
    if pruned and state != "failed" and (code or state == "preempted"):  # else it has reached its end meanwhile
        raise Pruned
    if in_job:
        if code == 0 and state == "preempted":
            raise Terminated
    elif code == INTERRUPTED:
        raise KeyboardInterrupt
    elif code == TERMINATED or (code and state == "preempted"):  # as it ended, Lightning may have killed it
        raise Terminated
    if code and state != "failed":  # it could not say so itself
        run.set_state("failed", f"its {'ranks' if in_job else 'process'} ended with {described(code)}")
    if code == EXIT_CODE:
        raise UserErrors([])  # the worker has said it
    if code:
        raise JobFailed(f"The run {run.folder} failed: {run.status()['error']}")


def _started(run: Run, lock: int, in_job: bool) -> Process:
    command = [sys.executable, "-m", WORKER, str(run.folder)]
    environment = {**os.environ, PARENT: str(os.getpid())}
    if in_job:
        command = [*srun(), *command]
        del environment[PARENT]  # the ranks' parents are Slurm's
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[lock], process_group=0)


def _becomes(unpromising: Callable[[], bool], worker: Process) -> bool:
    """Wait for the worker's end or until it is not promising; whether it is not."""
    while worker.poll() is None:
        if unpromising():
            return True
        with suppress(subprocess.TimeoutExpired):
            worker.wait(LOOKS)
    return False


def _ask_to_end(worker: Process, in_job: bool) -> None:
    """Ask the worker to end and wait for it; `srun` hands SIGUSR1 on, and dies of SIGTERM."""
    worker.send_signal(signal.SIGUSR1 if in_job else signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        worker.wait(GRACE)


def _several_devices(config: Config) -> bool:
    """Whether Lightning will want more than one process."""
    from lightning.pytorch.accelerators import CUDAAccelerator

    devices, accelerator = config.trainer.get("devices", "auto"), config.trainer.get("accelerator", "auto")
    if str(config.trainer.get("num_nodes", 1)) != "1":
        return True
    if isinstance(devices, str) and "," in devices:
        devices = [each for each in devices.split(",") if each.strip()]
    if isinstance(devices, list):
        return len(devices) > 1
    if devices in ("auto", -1, "-1", None):
        on_gpu = accelerator in ("auto", "gpu", "cuda") and CUDAAccelerator.is_available()
        return on_gpu and CUDAAccelerator.auto_device_count() > 1
    return str(devices) != "1"
