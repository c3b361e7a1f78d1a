"""One wandb run for all starts of a training, each step in it once, on the server and after `wandb sync`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import Files
from wandb_server import KEY, Kept, Server, serving

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


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    with serving() as (made, url):
        yield made, url


@pytest.fixture
def options(files: Files, in_tmp: Path) -> list[str]:
    (in_tmp / "killer.py").write_text(KILLER)
    mine = ["callbacks.killer._target_=killer.Killer", "trainer.max_steps=8", "validate_every=3", "export=false"]
    generated = ["task.validation_generate=2", "generation.max_new_tokens=3"]
    return files.overrides(*mine, *generated, "variant=bertshare", "logger=wandb", "data.batch_tokens=200", "name=blue")


def environment(url: str, **more: str) -> dict[str, str]:
    told = {**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online", "PYTHONPATH": ""}
    told["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), *sys.path])
    return told | more


def trained(*argv: str, url: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "encdec_lightning.cli.train", *argv]
    return subprocess.run(command, env=environment(url, **more), capture_output=True, text=True, check=False)


def steps(run: Kept) -> dict[int, dict[str, object]]:
    """{trainer's step: what was logged, times left out}; each step is there once, in order."""
    rows = run.history
    assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows})
    assert [row["_step"] for row in rows] == [row["trainer/global_step"] for row in rows]
    return {
        row["_step"]: {key: value for key, value in row.items() if key[0] != "_" and not any(map(key.__contains__, TIMES))}
        for row in rows
    }


def told(run: Kept) -> dict[int, dict[str, object]]:
    """`steps` with nothing of a table but its size: wandb names each upload anew."""
    return {
        step: {key: value["nrows"] if isinstance(value, dict) else value for key, value in row.items()}
        for step, row in steps(run).items()
    }


def test_a_killed_run_goes_on_in_one_wandb_run_on_the_server_and_after_sync(server, options, in_tmp):
    kept, url = server
    assert trained(*options, "folder=whole", url=url).returncode == 0
    whole = kept.runs[Run("whole").id]
    expected = told(whole)
    assert [*expected] == [*range(9)] and whole.exit_code == 0
    assert {"val/loss", "val/rouge1", "val/predictions"} <= expected[2].keys() & expected[5].keys()
    assert {"test/rouge1", "test/predictions"} <= expected[8].keys() and expected[0]["parameters"] == 7

    assert trained(*options, "folder=online", url=url, KILLED_AT="5").returncode == -9
    shutil.move("online", "moved")
    assert trained("run=moved", url=url).returncode == 0
    online = kept.runs[Run("moved").id]
    assert told(online) == expected and online.exit_code == 0

    offline = [*options, "logger.wandb.offline=true", "folder=offline"]
    assert trained(*offline, url=url, KILLED_AT="5", WITH_WANDB="1").returncode == -9
    assert trained("run=offline", url=url, KILLED_AT="7").returncode == -9
    shutil.move("offline", "there")
    said = trained("run=there", url=url)
    assert said.returncode == 0, said.stderr
    folders = sorted(Path("there/logs/wandb").glob("offline-run-*"))
    assert len(folders) == 3 and Run("there").id not in kept.runs
    command = [sys.executable, "-m", "wandb", "sync", *map(str, reversed(folders))]
    subprocess.run(command, env=environment(url), check=True)
    synced = kept.runs[Run("there").id]
    assert told(synced) == expected and synced.exit_code == 0
    for name, value in Run("there").metrics().items():
        if name.startswith("test/rouge1"):
            assert synced.summary[name] == value == online.summary[name]
    assert KEY not in kept.text
