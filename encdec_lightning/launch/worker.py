"""`python -m encdec_lightning.launch.worker FOLDER`: the job of a run folder, in a process without Hydra.

Lightning starts the further ranks of a distributed run with this same command; in a job of Slurm's `srun` starts all.
"""

from __future__ import annotations

import os
import socket
import sys

from encdec_lightning.cluster.queue import is_slurm_job
from encdec_lightning.errors import FAILED, TERMINATED, JobFailed, UserError, exit_code
from encdec_lightning.launch.processes import recorded
from encdec_lightning.run import Run
from encdec_lightning.signals import follow_parent


def main() -> int:
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
