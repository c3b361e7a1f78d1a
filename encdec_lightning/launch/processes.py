"""A run folder's job in the right processes: this one for one device, workers of its own for several."""

from __future__ import annotations

import subprocess
import sys

from encdec_lightning.config import Config, convert
from encdec_lightning.errors import EXIT_CODE, INTERRUPTED, UserError, UserErrors
from encdec_lightning.run import Run


def start(run: Run, own_process: bool = False) -> None:
    """Train the run to its end, or do nothing if it is finished. Keeps `status.json`; holds the run's lock meanwhile.

    Several devices, or `own_process`, run in processes that have never loaded Hydra.
    """
    with run.lock() as lock:
        if run.status().get("state") == "finished":
            return
        config = convert(run.config())
        if config.identity() != run.identity():
            expected = "its config.yaml was changed after the run was made, start a new run"
            raise UserError("run", str(run.folder), expected)
        run.set_state("running")
        try:
            if own_process or _several_devices(config):
                _in_worker(run, lock)
            else:
                from encdec_lightning.launch.job import train

                train(run)
        except KeyboardInterrupt:
            run.set_state("preempted")
            raise
        except BaseException as error:
            run.set_state("failed", f"{type(error).__name__}: {error}")
            raise
        run.set_state("finished")


def _in_worker(run: Run, lock: int) -> None:
    """Run the job in a process of its own, which Lightning may multiply; raises what it reports by its exit code.

    It inherits the lock: should this process be killed, the run stays locked for as long as the worker lives.
    """
    command = [sys.executable, "-m", "encdec_lightning.launch.worker", str(run.folder)]
    code = subprocess.run(command, check=False, pass_fds=[lock]).returncode
    if code == EXIT_CODE:
        raise UserErrors([])  # the worker has said it
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise subprocess.CalledProcessError(code, command)


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
