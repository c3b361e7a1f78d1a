"""One wandb run for all starts of a training, each step in it once, on the server and after `wandb sync`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import Files
from wandb_server import KEY, Kept, Server, read, serving

from encdec_lightning.cli.train import main
from encdec_lightning.run import Run

KILLER = '''
import os, signal
import lightning

class Killer(lightning.Callback):
    """Kills its process after the step that $KILLED_AT names, with all that wandb holds in memory if $WITH_WANDB."""

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_step == int(os.environ.get("KILLED_AT", "-1")):
            if os.environ.get("WITH_WANDB"):
                mine = f"--pid {os.getpid()}"
                for process in filter(str.isdigit, os.listdir("/proc")):
                    try:
                        line = open(f"/proc/{process}/cmdline", "rb").read().replace(b"\\0", b" ").decode()
                    except OSError:
                        continue
                    if mine in line and "wandb" in line:
                        os.kill(int(process), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
'''
TIMES = ("second", "mfu", "memory")
FACTS = {"encoder": "bert", "decoder": "bert", "weights": "tied", "task": "train.jsonl", "seed": "0"}


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    with serving() as (made, url):
        yield made, url


@pytest.fixture
def options(files: Files, in_tmp: Path) -> list[str]:
    (in_tmp / "killer.py").write_text(KILLER)
    mine = ["callbacks.killer._target_=killer.Killer", "trainer.max_steps=8", "validate_every=3", "export=false"]
    generated = ["task.validation_generate=2"]
    return files.overrides(*mine, *generated, "variant=bertshare", "logger=wandb", "data.batch_tokens=200", "name=blue")


def environment(url: str, **more: str) -> dict[str, str]:
    told = {**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online", "PYTHONPATH": ""}
    told.pop("WANDB_SERVICE", None)  # the address of this process's own
    told["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), *sys.path])
    return told | more


def trained(*argv: str, url: str, **more: str) -> int:
    command = [sys.executable, "-m", "encdec_lightning.cli.train", *argv]
    return subprocess.run(command, env=environment(url, **more), check=False).returncode


def comparable(rows: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Without times, and with nothing of a table but its number of rows: wandb names each upload anew."""
    return {
        step: {
            key: value["nrows"] if isinstance(value, dict) else value
            for key, value in row.items()
            if key[0] != "_" and not any(map(key.__contains__, TIMES))
        }
        for step, row in rows.items()
    }


def on_server(run: Kept) -> dict[int, dict[str, Any]]:
    """What the server has, by wandb's step; each is there once, in order, and is the trainer's."""
    steps = [row["_step"] for row in run.history]
    assert steps == sorted({*steps}) == [row["trainer/global_step"] for row in run.history]
    return comparable({row["_step"]: row for row in run.history})


def in_file(file: Path) -> dict[int, dict[str, Any]]:
    """What a file has, by wandb's step."""
    found: dict[int, dict[str, Any]] = {}
    for record in read(file):
        row = found.setdefault(record.history.step.num, {}) if record.HasField("history") else {}
        for each in record.history.item:
            first, *rest = each.nested_key or [each.key]
            if rest:
                row.setdefault(first, {})[rest[0]] = json.loads(each.value_json)
            else:
                row[first] = json.loads(each.value_json)
    return comparable(found)


@pytest.fixture
def expected(options, in_tmp) -> dict[int, dict[str, Any]]:
    """What a run logs that nobody disturbs."""
    assert main([*options, "logger.wandb.offline=true", "folder=whole"]) == 0
    (file,) = Path("whole/logs/wandb").glob("offline-run-*/*.wandb")
    rows = in_file(file)
    assert [*rows] == [*range(9)]
    assert {"val/loss", "val/rouge1", "val/predictions"} <= rows[2].keys() & rows[5].keys()
    assert {"test/rouge1", "test/predictions"} <= rows[8].keys() and rows[0]["parameters"] == 8
    return rows


def check_summary(kept: Kept, run: Run) -> None:
    scores = {name: value for name, value in run.metrics().items() if name.startswith("test/rouge1")}
    assert {"test/rouge1", "test/rouge1/low", "test/rouge1/high"} <= scores.keys()
    assert {name: kept.summary[name] for name in scores} == scores


def test_a_killed_run_goes_on_in_the_servers_run(server, options, expected, in_tmp):
    kept, url = server
    assert trained(*options, "folder=begun", url=url, KILLED_AT="5") == -9
    shutil.move("begun", "moved")
    run = Run("moved")
    assert trained("run=moved", url=url) == 0
    assert on_server(kept.runs[run.id]) == expected
    assert (len(kept.runs), kept.runs[run.id].exit_code) == (1, 0)
    check_summary(kept.runs[run.id], run)
    fields = kept.runs[run.id].fields
    assert (fields["displayName"], fields["tags"]) == ("blue", [f"{what}:{value}" for what, value in FACTS.items()])
    assert kept.runs[run.id].config["task"]["test"] == run.config()["task"]["test"]
    assert KEY not in kept.text


@pytest.mark.slow
def test_sync_makes_one_run_of_what_killed_starts_left_offline(server, options, expected, in_tmp, monkeypatch):
    kept, url = server
    assert trained(*options, "logger.wandb.offline=true", "folder=begun", url=url, KILLED_AT="5") == -9
    assert trained("run=begun", url=url, KILLED_AT="7", WITH_WANDB="1") == -9
    shutil.move("begun", "moved")
    run = Run("moved")
    assert main(["run=moved"]) == 0
    folders = sorted(Path("moved/logs/wandb").glob("offline-run-*"))
    assert len(folders) == 3 and kept.runs == {}
    command = [sys.executable, "-m", "wandb", "sync", *map(str, reversed(folders))]
    subprocess.run(command, env=environment(url, WANDB_SILENT="false"), check=True)
    assert on_server(kept.runs[run.id]) == expected
    assert (len(kept.runs), kept.runs[run.id].exit_code) == (1, 0)
    check_summary(kept.runs[run.id], run)
