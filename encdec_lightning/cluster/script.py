"""The script that `sbatch` takes."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from encdec_lightning.cluster.options import Slurm
from encdec_lightning.signals import GRACE_VARIABLE

REQUEUES = "ENCDEC_LIGHTNING_REQUEUES"
"""The environment variable that says how often a job may be queued again; the command is a job's where it is set."""
ENVIRONMENT = (
    *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "MODULEPATH"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE"),
    "XDG_CACHE_HOME",
    *("ENCDEC_LIGHTNING_CACHE", "WANDB_MODE", "WANDB_DIR", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_SILENT"),
    *("WANDB_TAGS", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_NOTES", "WANDB_BASE_URL", "WANDB_INIT_TIMEOUT"),
    *("MLFLOW_TRACKING_URI", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "no_proxy"),
    *("SLURM_CONF", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"),
)
"""What a job takes from the shell that submits it, by name: the script holds no value, and the rest stays where it is.
"""
SPARE = 10  # seconds between the end that a run gives itself and the time limit


@dataclass(frozen=True)
class Work:
    """What a job is to do."""

    name: str
    """The job's."""
    folders: tuple[Path, ...]
    """Of the runs."""
    array: bool
    """Whether each run is a task of an array; else there is one run."""
    log: Path
    """The file of the job's output, with Slurm's signs for its number."""
    nodes: int
    ntasks_per_node: int


def script(work: Work, slurm: Slurm) -> str:
    """The text of the script, for people too."""
    asked = [
        ("job-name", f"{work.name}-run" if work.name in ("bash", "interactive") else work.name),
        ("chdir", str(Path.cwd())),
        ("output", str(work.log)),
        ("open-mode", "append"),
        ("export", ",".join(dict.fromkeys([*ENVIRONMENT, *slurm.environment]))),
        ("signal", f"B:USR1@{slurm.signal_seconds}"),
        ("nodes", work.nodes),
        ("ntasks-per-node", work.ntasks_per_node),
        ("partition", slurm.partition),
        ("account", slurm.account),
        ("qos", slurm.qos),
        ("time", slurm.time),
        ("cpus-per-task", slurm.cpus_per_task),
        ("gpus-per-node", slurm.gpus_per_node),
        ("mem", slurm.mem),
        ("constraint", slurm.constraint),
    ]
    if work.array:
        throttle = "" if slurm.array_throttle is None else f"%{slurm.array_throttle}"
        asked.insert(1, ("array", f"0-{len(work.folders) - 1}{throttle}"))
    lines = [f"#SBATCH --{name}={_quoted(str(value))}" for name, value in asked if value is not None]
    lines += ["#SBATCH --requeue", *(f"#SBATCH {each}" for each in slurm.options)]
    command = f"exec {shlex.quote(sys.executable)} -m encdec_lightning.cli.train"
    if work.array:  # the folders are here, since Slurm keeps a copy of this script alone
        run = ["folders=(", *(f"  {shlex.quote(str(each))}" for each in work.folders), ")"]
        run.append(f'{command} "run=${{folders[$SLURM_ARRAY_TASK_ID]}}"')
    else:
        run = [f"{command} {shlex.quote(f'run={work.folders[0]}')}"]
    grace = max(slurm.signal_seconds - SPARE, slurm.signal_seconds // 2)
    return "\n".join(
        [
            "#!/bin/bash -l" if slurm.setup else "#!/bin/bash",  # a login shell knows the command `module`
            *lines,
            "",
            "trap '' USR1  # the request to end; encdec-train listens to it",
            f"export {REQUEUES}={slurm.requeues}  # so often at most; the ranks are started with srun",
            f"export {GRACE_VARIABLE}={grace}  # seconds from that request to the end",
            *slurm.setup,
            *run,
            "",
        ]
    )


def _quoted(value: str) -> str:
    """A value as `sbatch` reads it."""
    return value if re.fullmatch(r"[\w./:@%,+|&*\[\]()=-]+", value, re.ASCII) else f'"{value}"'
