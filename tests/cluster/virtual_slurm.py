"""A real Slurm of two virtual nodes on this machine, in a folder of its own, started and ended by the tests."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from encdec_lightning.run import Run

NODES = ("127.0.0.1", "127.0.0.2")
FIRST_TO_ASK_FOR_CGROUPS = 23.11  # a node of this Slurm or a later one does not start without them, unless it is told
CONF = """
ClusterName=ci
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge/sock,cred_expire=10
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool/%n
SlurmctldPidFile={place}/run/slurmctld.pid
SlurmdPidFile={place}/run/slurmd.%n.pid
SlurmctldLogFile={place}/log/slurmctld.log
SlurmdLogFile={place}/log/slurmd.%n.log
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=20
SlurmdTimeout=60
MinJobAge=3600
MaxArraySize=4
FirstJobId={first_job}
Waittime=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SlurmdParameters=config_overrides
NodeName={nodes[0]} NodeHostname=localhost NodeAddr={nodes[0]} Port={ports[1]} CPUs=4 RealMemory=64000 State=UNKNOWN
NodeName={nodes[1]} NodeHostname=localhost NodeAddr={nodes[0]} Port={ports[2]} CPUs=4 RealMemory=64000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 DefaultTime=10 State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=60 DefaultTime=10 State=UP PriorityTier=10 PreemptMode=OFF
"""


def runs_of(script: Path) -> list[Run]:
    """The runs of an array, by its script."""
    text = script.read_text(encoding="utf-8")
    (listed,) = re.findall(r"^folders=\(\n(.*?)^\)$", text, re.MULTILINE | re.DOTALL)
    return [Run.open(folder) for folder in shlex.split(listed)]


def why_not() -> str | None:
    """Why there can be no such Slurm here; None where it can be."""
    if os.geteuid():
        return "a Slurm of the tests' own needs root"
    lacking = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun") if shutil.which(name) is None]
    return f"not installed: {', '.join(lacking)} (apt-get install slurm-wlm munge)" if lacking else None


class VirtualSlurm:
    """The cluster. `slurmd` are the processes of its nodes."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._started: list[subprocess.Popen[bytes]] = []
        self.slurmd: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, *command: str) -> str:
        """What one of Slurm's commands says."""
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def field(self, job: str, name: str) -> str:
        """A field of `scontrol show job`."""
        words = self.run("scontrol", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def wait(self, job: str, state: str = "COMPLETED", timeout: float = 600) -> None:
        """Wait until a job is in a state; fails with its output if it ends in another."""
        until = time.monotonic() + timeout
        while (now := self.field(job, "JobState")) != state:
            over = now in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
            if over or time.monotonic() > until:
                output = Path(self.field(job, "StdOut"))
                said = output.read_text() if output.exists() else "nothing"
                raise AssertionError(f"job {job} is {now}, not {state}; it said:\n{said}")
            time.sleep(0.2)

    def start(self, first_job: int) -> None:
        """Start munge, the controller and two nodes; raises `AssertionError` with their logs."""
        for name in ("munge", "state", "spool", "run", "log"):
            (self.place / name).mkdir(mode=0o755)
        munge, logs = self.place / "munge", self.place / "log"
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o400)
        conf = CONF.format(place=self.place, ports=_ports(3), nodes=NODES, first_job=first_job)
        (self.place / "slurm.conf").write_text(conf)
        for node in NODES:
            (self.place / "spool" / node).mkdir()
        if float(self.run("slurmd", "-V").split()[1].rpartition(".")[0]) >= FIRST_TO_ASK_FOR_CGROUPS:
            (self.place / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        files = {"key": "key", "socket": "sock", "pid": "pid", "seed": "seed"}
        options = [f"--{name}-file={munge / file}" for name, file in files.items() if name != "socket"]
        self._start("munged", "--foreground", "--force", f"--socket={munge / 'sock'}", *options,
                    f"--log-file={logs / 'munged.log'}", "--num-threads=2")  # fmt: skip
        self._until((munge / "sock").exists)
        self._start("slurmctld", "-D", "-c", "-i")
        for node in NODES:
            self.start_node(node)
        self._until(lambda: len({*self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split()}) == len(NODES))

    def start_node(self, name: str) -> None:
        """Start the daemon of a node."""
        self.slurmd[name] = self._start("slurmd", "-D", "-N", name)

    def clear(self) -> None:
        """Cancel all jobs and wait until they have ended."""
        until = time.monotonic() + 30
        while self.run("squeue", "-h") and time.monotonic() < until:
            self.run("scancel", "--full", "--user=root")
            time.sleep(0.2)

    def stop(self) -> None:
        """Cancel all jobs and end what was started, by its pid."""
        with suppress(subprocess.SubprocessError, OSError):
            self.clear()
        for process in reversed(self._started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.place / "log" / f"{command[0]}.out").open("ab") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self._started.append(process)
        return process

    def _until(self, reached: Callable[[], bool], timeout: float = 120) -> None:
        until = time.monotonic() + timeout
        while True:
            with suppress(subprocess.CalledProcessError):
                if reached():
                    return
            if time.monotonic() > until:
                logs = "\n".join(file.read_text()[-2000:] for file in (self.place / "log").iterdir())
                raise AssertionError(f"the tests' Slurm does not start:\n{logs}")
            time.sleep(0.1)


@contextmanager
def virtual_slurm(first_job: int) -> Iterator[VirtualSlurm]:
    """A running cluster; the environment's SLURM_CONF must not be set meanwhile by anyone else."""
    place = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path is short
    place.chmod(0o755)
    cluster, before = VirtualSlurm(place), os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(place / "slurm.conf")
    try:
        cluster.start(first_job)
        yield cluster
    finally:
        cluster.stop()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(place, ignore_errors=True)


def _ports(count: int) -> list[int]:
    """Free ports."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process by force."""
    process.send_signal(signal.SIGKILL)
    process.wait()
