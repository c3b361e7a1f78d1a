"""A sweep whose launcher runs each point in a process of its own: results and failures are read from files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from tiny import listed

from encdec_lightning.cli.train import main
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.points import Point, folder_of_points, points_in
from encdec_lightning.launch.settle import settle
from encdec_lightning.run import Run

LAUNCHER = '''
import os, pickle, signal, subprocess, sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import open_dict


class Elsewhere(Launcher):
    """Starts all points at once, in processes that inherit nothing but what is pickled."""

    def setup(self, *, hydra_context, task_function, config):
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides, initial_job_idx):
        setup_globals()
        started = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = number
            work = pickle.dumps((self.context.callbacks, self.task, config))
            process = subprocess.Popen([sys.executable, "-m", "hydra_plugins.elsewhere"], stdin=subprocess.PIPE)
            process.stdin.write(work)
            process.stdin.close()
            started.append(process)
        codes = [process.wait() for process in started]
        if os.environ.get("LAUNCHER_GIVES_UP") and any(codes):
            raise RuntimeError("a process died")
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=None) for _ in codes]


if __name__ == "__main__":
    setup_globals()
    callbacks, task, config = pickle.load(sys.stdin.buffer)
    context = HydraContext(config_loader=None, callbacks=callbacks)
    run_job(task, config, "hydra.sweep.dir", "hydra.sweep.subdir", context, configure_logging=False)
'''
PICKY = '''
import os, signal
import lightning

class Picky(lightning.Callback):
    """Fails in the run that $FAILS names; takes the process that started the worker away in that of $KILLS."""

    def on_train_start(self, trainer, module):
        name = os.path.basename(trainer.default_root_dir)
        if os.environ.get("FAILS") == name:
            raise RuntimeError("not this one")
        if os.environ.get("KILLS") == name:
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
'''


@pytest.fixture
def options(files, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (in_tmp / "hydra_plugins").mkdir()  # Hydra takes plugins from this package alone
    (in_tmp / "hydra_plugins" / "elsewhere.py").write_text(LAUNCHER)
    (in_tmp / "picky.py").write_text(PICKY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(in_tmp), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(in_tmp)
    for name in ("hydra_plugins", "hydra_plugins.elsewhere"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from hydra_plugins.elsewhere import Elsewhere

    Plugins.instance().register(Elsewhere)
    ConfigStore.instance().store(
        group="hydra/launcher", name="elsewhere", node={"_target_": "hydra_plugins.elsewhere.Elsewhere"}
    )
    return [*files.overrides("debug=step", "callbacks.picky._target_=picky.Picky"), "hydra/launcher=elsewhere"]


def point(options: list[str], seed: int, where: Path) -> Run:
    identity = settle(compose_config([*options[:-1], f"seed={seed}"])).identity()
    return Run(where / "runs" / "run" / identity[:12])


@pytest.mark.slow
def test_results_failures_and_deaths_of_points_elsewhere(options, in_tmp, monkeypatch, capfd):
    good, bad, dead = (point(options, seed, in_tmp) for seed in (1, 2, 3))
    monkeypatch.setenv("FAILS", bad.folder.name)
    monkeypatch.setenv("KILLS", dead.folder.name)
    monkeypatch.setenv("LAUNCHER_GIVES_UP", "yes")
    assert main(["--multirun", *options, "seed=1,2,3"]) == 1
    out, err = capfd.readouterr()
    assert err.splitlines()[-3:] == [
        "2 of 3 points failed:",
        f"{bad.folder}: RuntimeError: not this one",
        f"{dead.folder}: the process that started it ended before the run did",
    ]
    assert (good.status()["state"], bad.status()["state"]) == ("finished", "failed")
    assert out.count("Test scores") == 1
    for name in ("FAILS", "KILLS", "LAUNCHER_GIVES_UP"):
        monkeypatch.delenv(name)
    assert main(["--multirun", *options, "seed=1,2"]) == 0
    assert listed(capfd.readouterr().out) == 2
    assert list(in_tmp.rglob(".points-*")) == []


def test_what_points_say_is_read_in_their_order_and_then_gone(tmp_path: Path) -> None:
    runs = [Run.create(tmp_path / name, {}, name) for name in ("a", "b", "c", "d")]
    with folder_of_points(tmp_path / "sweep") as folder:
        assert points_in(folder) == points_in(tmp_path / "nothing")
        for number, run in reversed(list(enumerate(runs))):
            Point(folder, number).is_at(run.folder)
        runs[0].set_state("finished")
        runs[1].set_state("failed", "for a reason")
        Point(folder, 2).has_failed(runs[2], ValueError("another process\nis working"))
        runs[3].set_state("finished")
        Point(folder, 11).is_at("nowhere", "it was refused")
        found = points_in(folder)
    assert found.finished == (runs[0].folder, runs[3].folder)
    assert found.failed == (
        f"{runs[1].folder}: for a reason",
        f"{runs[2].folder}: ValueError: another process is working",
        "nowhere: it was refused",
    )
    assert not (tmp_path / "sweep").exists()
