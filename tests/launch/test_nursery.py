"""Workers that are forked from a process that has loaded what they need: they end as others do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tiny import Files

from encdec_lightning.errors import EXIT_CODE, TERMINATED, JobFailed, UserError
from encdec_lightning.launch import nursery as nursery_module
from encdec_lightning.launch import processes
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.nursery import SET_BY_LIBRARIES, Forked, Nursery, forked, nursery
from encdec_lightning.launch.run_folder import make_run
from encdec_lightning.run import Run
from encdec_lightning.signals import Terminated

SLOW = """
import time
import lightning
from encdec_lightning.signals import TERMINATION

class Slow(lightning.Callback):
    '''Waits after the first step until it is asked to end, and says so.'''

    def on_train_batch_end(self, *_):
        open("at-work", "w").close()
        while not TERMINATION.asked:
            time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of `shared` and of the tests that use it."""
    folder = tmp_path_factory.mktemp("nursery")
    (folder / "slow.py").write_text(SLOW)
    return folder


@pytest.fixture(scope="module")
def shared(place: Path) -> Iterator[Nursery]:
    """One for all tests that leave it as it is: it takes seconds to load what jobs need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(nursery_module, "SET_BY_LIBRARIES", (*SET_BY_LIBRARIES, "PYTEST_CURRENT_TEST"))
        with closing(Nursery()) as made:
            yield made


@pytest.fixture
def own(shared: Nursery, place: Path, monkeypatch: pytest.MonkeyPatch) -> Nursery:
    monkeypatch.chdir(place)
    return shared


@pytest.fixture
def opened(own: Nursery, monkeypatch: pytest.MonkeyPatch) -> Nursery:
    """The same, as within `nursery()`."""
    monkeypatch.setattr(nursery_module, "_OPEN", [own])
    return own


@pytest.fixture
def slow(files: Files, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A run that waits in its first step."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "slow", raising=False)
    Path("at-work").unlink(missing_ok=True)
    overrides = files.overrides(f"folder={tmp_path / 'run'}")
    return make_run(compose_config([*overrides, "callbacks.slow._target_=slow.Slow"]))


def ended(pid: int) -> bool:
    """Whether a process, which is nobody's child here, is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until(condition: object, seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def at_work(made: Nursery, run: Run, lock: int) -> Forked:
    worker = made.worker(run.folder, lock)
    assert worker is not None
    until(lambda: Path("at-work").exists() or worker.poll() is not None)
    assert worker.poll() is None
    return worker


def test_workers_are_forked_one_after_the_other_with_their_own_exit_codes(own: Nursery, capfd) -> None:
    for number in range(2):
        worker = own.worker(Path(f"no run {number}"), 0)
        assert worker is not None
        assert worker.wait(60) == worker.poll() == EXIT_CODE
        worker.send_signal(signal.SIGTERM)  # nothing is there


def test_jobs_run_in_it_to_their_end_with_what_an_ordinary_worker_gives(files: Files, in_tmp: Path, capfd) -> None:
    options = files.overrides("trainer.max_steps=3", "validate_every=3", "export=false")
    ordinary, *others = (make_run(compose_config([*options, f"folder=run{number}"])) for number in range(3))
    processes.start(ordinary, own_process=True)
    with nursery():
        for run in others:
            processes.start(run, own_process=True)
            assert run.status()["state"] == "finished"
            assert run.metrics()["best/val/loss"] == ordinary.metrics()["best/val/loss"]
            assert run.predictions() == ordinary.predictions()
    assert "Traceback" not in capfd.readouterr().err and forked(in_tmp, 0) is None


def test_a_run_is_locked_while_its_worker_lives(own: Nursery, slow: Run) -> None:
    with slow.lock() as lock:
        worker = at_work(own, slow, lock)
    assert own.worker(Path("another"), 0) is None
    with pytest.raises(UserError), slow.lock():
        pass
    assert os.getpgid(worker.pid) == worker.pid
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == TERMINATED
    with slow.lock():
        pass


def killed(monkeypatch: pytest.MonkeyPatch, nursery_too: bool, *signals: int) -> list[Forked]:
    """The workers that are forked from now on, to which, or to their nursery, these signals come in their first step."""
    made: list[Forked] = []

    def spied(folder: Path, lock: int) -> Forked | None:
        worker = forked(folder, lock)
        assert worker is not None
        made.append(worker)
        until(lambda: Path("at-work").exists())
        above = int(Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[1])
        for number in signals:
            if nursery_too:
                os.kill(above, number)
            if not nursery_too or number != signal.SIGKILL:
                os.kill(worker.pid, number)
        return worker

    monkeypatch.setattr(processes, "forked", spied)
    return made


def test_a_worker_that_is_killed_fails_its_run(opened: Nursery, slow: Run, monkeypatch) -> None:
    with pytest.raises(JobFailed) as caught:
        killed(monkeypatch, False, signal.SIGKILL)
        processes.start(slow, own_process=True)
    assert str(caught.value) == f"The run {slow.folder} failed: its process ended with signal SIGKILL"


def test_a_worker_ends_in_order_when_a_signal_comes_to_all_processes(opened: Nursery, slow: Run, monkeypatch) -> None:
    """As batch systems send theirs; the nursery goes on."""
    with pytest.raises(Terminated):
        made = killed(monkeypatch, True, signal.SIGUSR1)
        processes.start(slow, own_process=True)
    assert slow.status()["state"] == "preempted"
    until(lambda: ended(made[0].pid))
    worker = opened.worker(Path("no run"), 0)
    assert worker is not None and worker.wait(60) == EXIT_CODE


def test_a_worker_ends_in_order_without_its_nursery(slow: Run, monkeypatch) -> None:
    with nursery(), pytest.raises(Terminated):
        made = killed(monkeypatch, True, signal.SIGKILL)
        processes.start(slow, own_process=True)
    assert slow.status()["state"] == "preempted"
    until(lambda: ended(made[0].pid))


def test_a_parent_that_is_gone_ends_it_without_a_word(in_tmp: Path, capfd) -> None:
    own = Nursery()
    worker = own.worker(Path("no run"), 0)
    assert worker is not None and worker.wait(60) == EXIT_CODE
    capfd.readouterr()
    own._socket.close()  # with the exit code still in it
    assert own._process.wait(60) == 0
    own.close()
    assert capfd.readouterr().err == ""


def test_nothing_is_left_of_it_at_the_end(slow: Run) -> None:
    with closing(Nursery()) as own:
        with slow.lock() as lock:
            worker = at_work(own, slow, lock)
        own.close()
        until(lambda: ended(worker.pid))
        assert own.worker(Path("run"), 0) is None  # one that is gone is not asked


def test_other_surroundings_need_an_ordinary_process(own: Nursery, monkeypatch, tmp_path) -> None:
    with monkeypatch.context() as changed:
        changed.setenv("ANOTHER_VARIABLE", "1")
        assert own.worker(Path("run"), 0) is None
    with monkeypatch.context() as changed:
        changed.chdir(tmp_path)
        assert own.worker(Path("run"), 0) is None
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "x")  # as a library does when it is loaded
    worker = own.worker(Path("run"), 0)
    assert worker is not None and worker.wait(60) == EXIT_CODE


def test_several_devices_are_not_forked(files: Files, in_tmp: Path, monkeypatch) -> None:
    monkeypatch.setattr(processes, "forked", pytest.fail)
    started = []
    monkeypatch.setattr(processes, "_started", lambda *given: started.append(given) or subprocess.Popen(["true"]))
    run = make_run(compose_config(files.overrides("hardware=ddp_cpu", "folder=two")))
    processes.start(run, own_process=True)
    assert len(started) == 1


FORKS = """
import subprocess, sys
from encdec_lightning.launch import nursery
from encdec_lightning.cli.train import main

real, early = nursery.Nursery.__init__, []

def begin(self):
    early.append([name for name in ("torch", "lightning") if name in sys.modules])
    real(self)

nursery.Nursery.__init__ = begin
started, workers = [], nursery.Nursery.worker
nursery.Nursery.worker = lambda *given: started.append(workers(*given)) or started[-1]
code = main(sys.argv[1:])
print("said:", code, early, [worker is not None for worker in started])
"""


def test_a_sweep_begins_it_before_anything_is_loaded(files: Files, in_tmp: Path) -> None:
    options = files.overrides("debug=step", "seed=1,2")
    result = subprocess.run(
        [sys.executable, "-c", FORKS, "-m", *options], capture_output=True, text=True, check=False, cwd=in_tmp
    )
    assert "said: 0 [[]] [True, True]" in result.stdout, result.stderr


CLEAN = """
import threading
import torch

def forbidden(*args, **kwargs):
    raise AssertionError("CUDA was asked")

for name in ("is_available", "init", "_lazy_init", "device_count", "current_device"):
    setattr(torch.cuda, name, forbidden)
import encdec_lightning.launch.job.job
assert threading.active_count() == 1, threading.enumerate()
assert not torch.cuda.is_initialized()
"""


def test_what_it_loads_begins_nothing_that_a_fork_would_break() -> None:
    subprocess.run([sys.executable, "-c", CLEAN], check=True)
