"""`python -m encdec_lightning.launch.worker FOLDER`: the job of a run folder, in a process without Hydra.

Lightning starts the further ranks of a distributed run with this same command.
"""

from __future__ import annotations

import os
import sys

from encdec_lightning.errors import exit_code
from encdec_lightning.run import Run


def main() -> int:
    """Run the job; mistakes are said by rank 0 alone."""

    def job() -> None:
        from encdec_lightning.launch.job import train

        train(Run.open(sys.argv[1]))

    return exit_code(job, silent=os.environ.get("LOCAL_RANK", "0") != "0")


if __name__ == "__main__":
    sys.exit(main())
