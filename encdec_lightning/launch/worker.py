"""`python -m encdec_lightning.launch.worker FOLDER`: the job of a run folder, in a process without Hydra.

Lightning starts the further ranks of a distributed run with this same command.
"""

from __future__ import annotations

import os
import sys

from encdec_lightning.errors import FAILED, TERMINATED, JobFailed, exit_code
from encdec_lightning.launch.processes import recorded
from encdec_lightning.run import Run
from encdec_lightning.signals import follow_parent


def main() -> int:
    """Run the job and end with the parent at the latest; mistakes are said by rank 0 alone.

    A further rank that was asked to end gives 0: Lightning kills rank 0, which may still have to close its loggers, at
    once when a rank has another exit code.
    """
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    follow_parent()

    def job() -> None:
        run = Run.open(sys.argv[1])
        try:
            with recorded(run, rank):
                from encdec_lightning.launch.job.job import train

                train(run)
        except JobFailed:  # the parent says it
            sys.exit(FAILED)

    code = exit_code(job, silent=rank != 0)
    return 0 if rank and code == TERMINATED else code


if __name__ == "__main__":
    sys.exit(main())
