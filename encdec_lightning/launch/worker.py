"""`python -m encdec_lightning.launch.worker FOLDER`: the job of a run folder, in a process without Hydra.

Lightning starts the further ranks of a distributed run with this same command; in a job of Slurm's `srun` starts all.
With `--fork N` in place of the folder it is a nursery, whose other end is the socket N: see `nursery.py`.
"""

from __future__ import annotations

import gc
import os
import random
import select
import signal
import socket
import sys
import warnings
from contextlib import suppress
from importlib import import_module

import numpy as np

from encdec_lightning.cluster.queue import is_slurm_job
from encdec_lightning.errors import FAILED, TERMINATED, JobFailed, UserError, exit_code
from encdec_lightning.launch.garbage import collect_rarely
from encdec_lightning.launch.nursery import FORK, REQUEST, sent
from encdec_lightning.launch.processes import recorded
from encdec_lightning.run import Run
from encdec_lightning.signals import PARENT, REQUESTS, follow_parent

LOOKS = 0.05
"""Seconds between two looks at a forked worker."""


def main() -> int:
    """What the command says; the exit code."""
    collect_rarely()
    if sys.argv[1] == FORK:
        return _nursery(socket.socket(fileno=int(sys.argv[2])))
    return work()


def _nursery(parent: socket.socket) -> int:
    """Load what jobs need, then fork a worker for each run that the parent sends, until that ends.

    It watches its parent by their socket, not by a thread: a process that forks should have none.
    """
    above = os.getppid()
    for number in (*REQUESTS, signal.SIGINT):  # which batch systems send to all processes
        signal.signal(number, signal.SIG_IGN)
    os.environ[PARENT] = str(os.getpid())  # of the workers
    import_module("encdec_lightning.launch.job.job")
    import_module("nltk.stem.porter")  # ROUGE's stemmer takes half a second

    gc.collect()
    gc.freeze()  # what all share is not written to, and so not copied
    while True:
        while not select.select([parent], [], [], 20 * LOOKS)[0]:
            if os.getppid() != above:
                return 0
        try:
            folder, locks, _, _ = socket.recv_fds(parent, REQUEST, 1)
        except ConnectionError:  # the parent has ended before it has read all
            return 0
        if not folder:
            return 0
        signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: OpenBLAS has one of its own
            pid = os.fork()
        if pid == 0:
            parent.close()
            os.setpgid(0, 0)
            for number in REQUESTS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
            random.seed()  # else all workers would draw the same until they are seeded
            np.random.seed()  # noqa: NPY002  # the one that libraries draw from
            sys.argv[1:] = [os.fsdecode(folder)]
            return work()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
        with suppress(OSError):  # it has done so itself, or has even ended
            os.setpgid(pid, pid)
        for lock in locks:  # the worker's alone
            os.close(lock)
        sent(parent, pid)
        ended, status = os.waitpid(pid, os.WNOHANG)
        while not ended:
            if select.select([parent], [], [], LOOKS)[0] or os.getppid() != above:
                return 0  # the parent has ended, and the worker, which follows this process, ends too
            ended, status = os.waitpid(pid, os.WNOHANG)
        sent(parent, os.waitstatus_to_exitcode(status))


def work() -> int:
    """Run the job and end with the parent at the latest; mistakes are said by rank 0 alone.

    A further rank that was asked to end gives 0: Lightning kills rank 0, which may still have to close its loggers, at
    once when a rank has another exit code. So does `srun`, whatever the rank.
    """
    rank = int(os.environ.get("SLURM_PROCID" if is_slurm_job() else "LOCAL_RANK", "0"))
    follow_parent()

    def job() -> None:
        run = _opened(rank)
        try:
            with recorded(run, rank):
                from encdec_lightning.launch.job.job import train

                train(run)
        except JobFailed:  # the parent says it
            sys.exit(FAILED)

    code = exit_code(job, silent=rank != 0)
    return 0 if (rank or is_slurm_job()) and code == TERMINATED else code


def _opened(rank: int) -> Run:
    """The run; what it is that another node does not see, is said by whatever rank."""
    try:
        return Run.open(sys.argv[1])
    except UserError:
        if rank:
            expected = f"{socket.gethostname()} does not see this run: all nodes must share its folder"
            print(UserError("folder", sys.argv[1], expected), file=sys.stderr)
        raise


if __name__ == "__main__":
    sys.exit(main())
