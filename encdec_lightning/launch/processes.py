"""A run folder's job in the right processes: this one for one device, workers of its own for several."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from encdec_lightning.config import Config
from encdec_lightning.errors import EXIT_CODE, INTERRUPTED, TERMINATED, JobFailed, UserError, UserErrors, reason
from encdec_lightning.rules import convert
from encdec_lightning.run import Run
from encdec_lightning.signals import GRACE, PARENT, TERMINATION, Terminated

Ranks = Callable[[], Sequence["subprocess.Popen[bytes]"]]
LEFT = 2.0  # seconds that further ranks have after rank 0 has ended without being asked to


def start(run: Run, own_process: bool = False) -> None:
    """Train the run to its end, or do nothing if it is finished. Keeps `status.json`; holds the run's lock meanwhile.

    Several devices, or `own_process`, run in processes that have never loaded Hydra. When this process is interrupted
    or asked to end, they end too, and the run is `preempted`.
    """
    if run.status().get("state") == "finished":
        return
    with run.lock() as lock:
        recover(run)
        if run.status().get("state") == "finished":
            return
        config = convert(run.config())
        if config.identity() != run.identity():
            raise UserError("run", str(run.folder), f"its config.yaml is not as it was made; {run.anew}")
        run.set_state("running")
        try:
            if own_process or _several_devices(config):
                _in_worker(run, lock)
            else:
                from encdec_lightning.launch.job import train

                with recorded(run):
                    train(run)
        except (KeyboardInterrupt, Terminated):
            run.set_state("preempted")
            print(f"The run is preempted; encdec-train run={run.folder} continues it.", file=sys.stderr)
            raise
        run.set_state("finished")


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
def refusals_of_the_disk(run: Run) -> Iterator[None]:
    """What the system refuses in a run's folder, as a `UserError`: no room, no permission, a folder for a file."""
    try:
        yield
    except OSError as error:
        place = None if error.filename is None else Path(os.fsdecode(error.filename)).absolute()
        inside = place is not None and place.is_relative_to(run.folder)
        if not inside and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        expected = f"the system refuses it ({error.strerror}); mend that, then give the same command again"
        raise UserError("file", str(place or run.folder), expected) from error


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
            error.add_note(f"This traceback is also in {run.keep_traceback(error, rank)}.")
        raise


def _in_worker(run: Run, lock: int) -> None:
    """Run the job in a process of its own, which Lightning may multiply; raises what it reports by its exit code.

    It inherits the lock: should this process be killed, the run stays locked for as long as the worker lives, which
    notices and ends. The worker and its further ranks are a process group, of which nothing is left afterwards.
    """
    command = [sys.executable, "-m", "encdec_lightning.launch.worker", str(run.folder)]
    environment = {**os.environ, PARENT: str(os.getpid())}
    worker = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[lock], process_group=0)
    try:
        code = worker.wait()
    except BaseException:
        worker.terminate()
        with suppress(subprocess.TimeoutExpired):
            worker.wait(GRACE)
        raise
    finally:
        _end_group(worker)
    state = run.status().get("state")
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code == TERMINATED or (code and state == "preempted"):  # as it ended, Lightning may have killed it
        raise Terminated
    if code and state != "failed":  # it could not say so itself
        run.set_state("failed", f"its process ended with {_described(code)}")
    if code == EXIT_CODE:
        raise UserErrors([])  # the worker has said it
    if code:
        raise JobFailed(f"The run {run.folder} failed: {run.status()['error']}")


def _end_group(worker: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a worker and its further ranks, which have a moment to end, unless they were asked to."""
    asked = worker.poll() in (None, INTERRUPTED, TERMINATED)
    until = time.monotonic() + (0 if asked else LEFT)
    with suppress(OSError):  # the group is empty
        while time.monotonic() < until:
            os.killpg(worker.pid, 0)
            time.sleep(0.02)
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def _described(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"


def further_ranks(trainer: Any) -> Ranks:
    """The processes that Lightning starts for a Trainer beside this one, at any moment."""
    return lambda: list(getattr(trainer.strategy.launcher, "procs", []))


@contextmanager
def ranks_watched(run: Run, ranks: Ranks) -> Iterator[None]:
    """While rank 0 works in the block, further ranks that die fail the run, and their end is the reason it gives.

    Without them rank 0 fails in a communication or waits in one for ever; after some seconds Lightning kills it. Raises
    `JobFailed` instead of what follows from another rank's end. `ranks` gives their processes, none before their start.
    """
    ended, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            codes = [(rank, each.poll()) for rank, each in enumerate(ranks(), start=1)]
            died = [(rank, code) for rank, code in codes if code not in (None, 0, INTERRUPTED, TERMINATED)]
            if died:
                if run.status().get("state") == "running":  # it could not say so itself
                    run.set_state("failed", f"its rank {died[0][0]} ended with {_described(died[0][1] or 0)}")
                over.set()
                return

    watcher = threading.Thread(target=watch, name="ranks", daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError | UserErrors) and ranks() and over.wait(LEFT):
            raise JobFailed(f"The run {run.folder} failed: {run.status().get('error')}") from error
        raise
    finally:
        ended.set()
        watcher.join()


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
