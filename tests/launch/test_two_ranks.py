"""Two processes: killed for real and continued, they end bit-equal to two that were not; and share out every example."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny import Files

from encdec_lightning.cli.train import main
from encdec_lightning.run import Run

WATCHER = '''
import json, os, signal
import lightning

class Watcher(lightning.Callback):
    """Writes each batch's loss and ids, by rank, and kills its process after the eighth step if $ACCIDENT says so."""

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        place = trainer.fit_loop.epoch_loop.total_batch_idx
        with open(f"{trainer.default_root_dir}/trace-{trainer.global_rank}.txt", "a") as stream:
            row = {"batch": place, "loss": outputs["loss"].item().hex(), "examples": batch.examples}
            stream.write(json.dumps(row) + "\\n")
        if trainer.global_step == 8 and os.environ.get("ACCIDENT"):
            os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture
def options(files: Files, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (in_tmp / "watcher.py").write_text(WATCHER)
    monkeypatch.setenv("PYTHONPATH", str(in_tmp), prepend=os.pathsep)
    monkeypatch.syspath_prepend(in_tmp)
    mine = [
        "callbacks.watcher._target_=watcher.Watcher",
        "trainer.max_steps=12",
        "validate_every=3",
        "hardware=ddp_cpu",
    ]
    return files.overrides(*mine, "variant=bertshare", "export=false", "data.batch_tokens=200")


def trace(run: Run, rank: int) -> dict[int, str]:
    """{batch: loss}; what was computed again after the kill replaces what was lost."""
    rows = [json.loads(line) for line in (run.folder / f"trace-{rank}.txt").read_text().splitlines()]
    return {row["batch"]: row["loss"] for row in rows}


@pytest.mark.parametrize(
    ("mode", "workers"),
    [pytest.param("data.accumulate=2", (0, 0), marks=pytest.mark.slow), ("data.update_examples=15", (2, 1))],
    ids=str,
)
def test_two_killed_ranks_continue_to_the_same_losses_and_weights(mode, workers, options, in_tmp, capfd):
    assert main([*options, mode, "folder=whole"]) == 0, capfd.readouterr().err
    command = [str(Path(sys.executable).with_name("encdec-train")), *options, mode, f"data.workers={workers[0]}", "folder=killed"]  # fmt: skip
    process = subprocess.run(command, env={**os.environ, "ACCIDENT": "killed"}, capture_output=True, check=False)
    assert process.returncode != 0
    killed, whole = Run.open("killed"), Run.open("whole")
    assert torch.load(killed.checkpoint("last"), weights_only=True)["global_step"] == 6
    shutil.copy(killed.checkpoint("last"), in_tmp / "at-the-kill.ckpt")
    config = yaml.safe_load((killed.folder / "config.yaml").read_text())
    config["data"]["workers"] = workers[1]  # no part of a run's identity
    (killed.folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["run=killed"]) == 0, capfd.readouterr().err
    for rank in range(2):
        assert trace(killed, rank) == trace(whole, rank)
    expected, found = (torch.load(run.checkpoint("last"), weights_only=True)["state_dict"] for run in (whole, killed))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert whole.predictions() == killed.predictions()
    assert whole.metrics()["best/val/loss"] == killed.metrics()["best/val/loss"]
    rows = [
        json.loads(line) for rank in range(2) for line in (whole.folder / f"trace-{rank}.txt").read_text().splitlines()
    ]
    assert whole.metrics()["train/examples"] == sum(row["examples"] for row in rows)  # of both ranks
    assert killed.metrics()["train/examples"] == whole.metrics()["train/examples"]  # of both starts
    tokens = [run.metrics()["train/tokens_per_second"] * run.metrics()["train/seconds"] for run in (whole, killed)]
    assert tokens[0] == pytest.approx(tokens[1])
    saved = torch.load(in_tmp / "at-the-kill.ckpt", weights_only=True)["callbacks"]["Throughput"]
    assert killed.metrics()["train/seconds"] > saved["seconds"] > 0


@pytest.mark.slow
def test_every_example_once_on_whatever_rank_and_one_wandb_run(options, files, in_tmp, capfd):
    """64 training pairs in updates of 15, 12 test pairs in batches for two ranks, 1 pair to generate for."""
    more = ["data.update_examples=15", "task.validation_generate=1", "trainer.max_steps=5", "folder=run"]
    more += ["logger=wandb", "logger.wandb.offline=true"]
    assert main([*options, *more]) == 0, capfd.readouterr().err
    run = Run.open("run")
    rows = [
        json.loads(line) for rank in range(2) for line in (run.folder / f"trace-{rank}.txt").read_text().splitlines()
    ]
    assert sum(row["examples"] for row in rows) == 64  # one epoch: five updates, the last of four examples
    ids = [json.loads(line)["key"] for line in Path(files.test).read_text().splitlines()]
    assert sorted(each.id for each in run.predictions()) == sorted(ids)
    assert run.metrics()["train/micro_batches"] * 5 * 2 == len(rows)
    assert len([*run.logs.rglob("offline-run-*")]) == 1 and not (in_tmp / "wandb").exists()
