"""Who starts the ranks of a run: Lightning on this machine, or Slurm on all nodes of a job."""

from __future__ import annotations

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from encdec_lightning.cluster.queue import is_slurm_job


def rank_starter() -> ClusterEnvironment:
    """Slurm inside a job that the command has submitted, which it also queues again; elsewhere Lightning.

    Lightning left to itself takes each process of an allocation, such as that of a shell, for a rank.
    """
    return SLURMEnvironment(auto_requeue=False) if is_slurm_job() else LightningEnvironment()
