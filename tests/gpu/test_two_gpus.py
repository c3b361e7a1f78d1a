"""DDP and FSDP2 on two GPUs; on two processes of the processor that is tests/training/test_sharded.py."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch


@pytest.mark.gpu
@pytest.mark.parametrize("hardware", ["ddp", "fsdp"])
def test_two_gpus_learn_what_one_learns(files, tmp_path, hardware: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    losses = {}
    for name, options in (("one", ["hardware=gpu"]), ("two", [f"hardware={hardware}", "trainer.devices=2"])):
        folder = tmp_path / name
        done = run(files, folder, *options, "data.update_examples=16")
        assert done.returncode == 0, done.stdout + done.stderr
        losses[name] = json.loads((folder / "metrics.json").read_text())
    keys = [key for key in losses["one"] if key.startswith("test/rouge") and isinstance(losses["one"][key], float)]
    assert keys
    assert all(abs(losses["one"][key] - losses["two"][key]) < 2 for key in keys)


@pytest.mark.slow
def test_the_command_of_this_test_runs_here(files, tmp_path) -> None:
    """On the processor."""
    done = run(files, tmp_path / "run", "hardware=cpu", "data.update_examples=16")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [key for key in json.loads((tmp_path / "run" / "metrics.json").read_text()) if key.startswith("test/rouge")]


def run(files, folder, *options: str) -> subprocess.CompletedProcess:
    chosen = [each for each in files.overrides() if not each.startswith("hardware=")]
    command = [
        sys.executable,
        "-m",
        "encdec_lightning.cli.train",
        *chosen,
        "variant=bertshare",
        f"folder={folder}",
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)
