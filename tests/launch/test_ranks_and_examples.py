"""Ranks without work, and checkpoints of another number of ranks: one sentence, before there are ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import Files, pairs, write_rows

from encdec_lightning.cli.train import main
from encdec_lightning.cluster.queue import check_tasks
from encdec_lightning.errors import UserError
from encdec_lightning.run import Run
from encdec_lightning.signals import Terminated


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param([], "data.accumulate is 1: with 3 devices an update has 3 batches, and there are 2 examples in all.", marks=pytest.mark.slow),
        (["data.update_examples=2"], "data.update_examples is 2: each of 3 devices needs at least one of the 2 examples for an update."),
    ],
    ids=str,
)  # fmt: skip
def test_more_ranks_than_examples(options, sentence, files: Files, in_tmp: Path, capfd):
    write_rows(in_tmp / "two.jsonl", pairs(2))
    more = ["hardware=ddp_cpu", "trainer.devices=3", "task.train=two.jsonl", "folder=run"]
    assert main(files.overrides(*more, *options)) == 2
    assert capfd.readouterr().err.splitlines()[-1] == sentence
    assert Run.open("run").status()["state"] == "failed"
    assert not Run.open("run").checkpoints.exists()


def test_a_checkpoint_in_mid_epoch_of_another_number_of_ranks(files: Files, in_tmp: Path, capfd, monkeypatch):
    """As a machine with another number of GPUs finds it, where `trainer.devices` is -1."""

    def asked(*_: object) -> None:
        raise Terminated

    with monkeypatch.context() as stop:
        stop.setattr("encdec_lightning.launch.job.job.training_metrics", asked)
        assert main(files.overrides("data.batch_tokens=200", "trainer.max_steps=2", "folder=run")) == 143
    last = Run.open("run").last
    checkpoint = torch.load(last, weights_only=True)
    (loader,) = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert loader["yielded"] and loader["plan"]["devices"] == 1
    loader["plan"]["devices"] = 2
    torch.save(checkpoint, last)
    assert main(["run=run"]) == 2
    sentence = "devices is 1: the checkpoint stands in the middle of an epoch planned with 2, resume with that."
    assert capfd.readouterr().err.splitlines()[-1] == sentence


def test_tasks_of_slurm_beside_devices(monkeypatch):
    for name in ("NNODES", "NTASKS", "NTASKS_PER_NODE"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    check_tasks(2, 1)
    for name, value in {"NNODES": "2", "NTASKS": "4", "NTASKS_PER_NODE": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    check_tasks("2", "2")
    check_tasks([0, 1], 2)
    for devices, nodes, said in ((2, 1, "SLURM_NNODES is '2'"), (4, 2, "SLURM_NTASKS_PER_NODE is '2'")):
        with pytest.raises(UserError, match=said):
            check_tasks(devices, nodes)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(UserError, match="SLURM_NTASKS is '4': its run wants 2"):
        check_tasks(1, 2)
