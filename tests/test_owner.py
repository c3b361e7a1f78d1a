"""One process works in a folder, on whatever machine; what a process that is gone has left is taken over."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from encdec_lightning import owner
from encdec_lightning.errors import UserError
from encdec_lightning.owner import OWNER, Taken, flocked, owned
from encdec_lightning.run import Run

HOLD = """
import sys, time
from encdec_lightning import owner
from encdec_lightning.run import Run
owner.BEAT, owner.STILL = 0.1, 3.0
owner.os.fsync = lambda file: None  # beside a busy disk it may take longer than that
if len(sys.argv) > 2:
    owner.machine = lambda: "another machine"
    owner.flocked = lambda *_: False
    import encdec_lightning.run
    encdec_lightning.run.flocked = owner.flocked
with Run(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "BEAT", 0.1)
    monkeypatch.setattr(owner, "STILL", 3.0)
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {}, "abc")


@pytest.fixture
def holder(run: Run):
    """Starts processes that hold the run's lock, on this machine or as if on another one, whose `flock` is not seen."""
    started = []

    def start(*more: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(run.folder), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout.readline() == b"held\n", process.stderr.read()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_process_of_another_machine_is_seen_by_its_signs_of_life(run, holder):
    process = holder("elsewhere")
    with pytest.raises(UserError, match=rf"another process is working in this run \(process {process.pid} on "):
        run.lock().__enter__()
    process.kill()
    process.wait()
    began = time.monotonic()
    with run.lock():
        assert 2.9 < time.monotonic() - began < 60  # the stated time, and no clock is compared
    assert not (run.folder / OWNER).exists()


def test_what_a_killed_process_of_this_machine_has_left_is_taken_over_at_once(run, holder, monkeypatch):
    process = holder()
    with pytest.raises(UserError, match="another process is working in this run"):
        run.lock().__enter__()
    process.kill()
    process.wait()
    assert (run.folder / OWNER).exists()
    monkeypatch.setattr(owner, "STILL", 1000.0)
    with run.lock():
        pass


ORPHAN = """
import subprocess, sys
from encdec_lightning.run import Run
with Run(sys.argv[1]).lock() as lock:
    worker = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    print(worker.pid, flush=True)
    worker.wait()
"""


def test_the_processes_of_a_killed_one_are_waited_for(run, capsys, monkeypatch):
    command = [sys.executable, "-c", ORPHAN, str(run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        worker = int(process.stdout.readline())
        with pytest.raises(UserError, match="another process is working in this run"):
            run.lock().__enter__()
        process.kill()
    monkeypatch.setattr(owner.time, "sleep", lambda seconds: os.kill(worker, signal.SIGKILL))  # it has begun to wait
    with run.lock():
        assert "waiting for the processes of a killed one to end" in capsys.readouterr().err


def test_where_flock_is_refused_the_file_alone_holds(run, holder, monkeypatch):
    """As on Lustre without its mount option; before, this was called another process."""

    def refuses(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuses)
    with run.lock(), pytest.raises(UserError, match=f"process {os.getpid()} on "), run.lock():
        pass
    process = holder()
    with pytest.raises(UserError, match=f"process {process.pid} on "):
        run.lock().__enter__()
    process.kill()
    process.wait()
    monkeypatch.setattr(owner, "STILL", 1000.0)
    with run.lock():  # its process number tells that it is gone
        pass


def test_a_process_that_was_still_for_too_long_ends(run, holder):
    process = holder("elsewhere")
    process.send_signal(signal.SIGSTOP)
    with run.lock():
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == owner.LOST
        assert b"another one works there now" in process.stderr.read()
        assert (run.folder / OWNER).exists()


@pytest.mark.parametrize("rounds", [4, 12], ids=["that work", "that hardly work"])
def test_of_many_that_take_over_one_does(tmp_path: Path, monkeypatch, rounds):
    """All see the same file that has been left, and none of them holds a lock of `flock`."""
    file, lost = tmp_path / "owner", []
    monkeypatch.setattr(os, "_exit", lost.append)
    for _ in range(rounds):
        file.write_text(json.dumps({"process": 1 << 30, "host": "here", "machine": owner.machine(), "beat": "0"}))
        holding, most, done, start = [0], [0], [], threading.Barrier(8)

        def work(holding=holding, most=most, done=done, start=start) -> None:
            start.wait()
            try:
                with owned(file, flocked=False):
                    holding[0] += 1
                    most[0] = max(most[0], holding[0])
                    time.sleep(2 / rounds)
                    holding[0] -= 1
                    done.append(True)
            except Taken:
                pass

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1] and done and not lost
        assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_held_up_over_its_claim_gives_up(tmp_path: Path, monkeypatch):
    """Before, two took over where a busy disk held one up for so long that its claim was passed over."""
    file, write = tmp_path / "owner", os.pwrite
    file.write_bytes(b"left")
    (tmp_path / "own").write_bytes(b"own")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *given: (time.sleep(1.6), write(*given)))
        assert not owner._taken_over(tmp_path / "own", file, b"left")
    assert file.read_bytes() == b"left"
    monkeypatch.setattr(owner, "STILL", 60.0)
    assert owner._taken_over(tmp_path / "own", file, b"left")
    assert [each.name for each in tmp_path.iterdir()] == ["owner"] and file.read_bytes() == b"own"


def test_works_that_follow_each_other_never_say_the_same(tmp_path: Path):
    """Before, several short ones of one process looked like one that stands still, and were taken over."""
    seen = set()
    for _ in range(5):
        with owned(tmp_path / "owner", flocked=False):
            seen.add((tmp_path / "owner").read_bytes())
    assert len(seen) == 5


def test_who_saw_what_was_left_too_late_does_not_remove_what_came_after(tmp_path: Path):
    """Two have read the same file; the second comes to the taking over when the first one works already."""
    file = tmp_path / "owner"
    left = json.dumps({"process": 1 << 30, "host": "here", "machine": owner.machine(), "beat": "0"}).encode()
    file.write_bytes(left)
    with owned(file, flocked=False):
        before = file.stat().st_ino
        (tmp_path / "late").write_text("{}")
        assert not owner._taken_over(tmp_path / "late", file, left)
        assert file.stat().st_ino == before


@pytest.mark.parametrize("content", [b"", json.dumps({"process": 1 << 30, "machine": "ours"}).encode()])
def test_a_claim_whose_process_is_gone_is_passed_over(tmp_path: Path, monkeypatch, content):
    monkeypatch.setattr(owner, "machine", lambda: "ours")
    file = tmp_path / "owner"
    file.write_text(json.dumps({"process": 1 << 30, "host": "here", "machine": "ours", "beat": "0"}))
    name = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    for number in range(2):
        (tmp_path / f"owner.{name}.{number}").write_bytes(content)
    with owned(file, flocked=False):
        assert json.loads(file.read_bytes())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]"])
def test_a_file_of_nobody_is_taken_over(tmp_path: Path, content):
    (tmp_path / "owner").write_bytes(content)
    with owned(tmp_path / "owner", flocked=True):
        told = json.loads((tmp_path / "owner").read_bytes())
        assert told["process"] == os.getpid()
    assert not (tmp_path / "owner").exists()


def test_flock(tmp_path: Path, monkeypatch):
    with (tmp_path / "a").open("w") as first, (tmp_path / "a").open("w") as second:
        assert flocked(first.fileno(), tmp_path / "owner")
        with pytest.raises(Taken):
            flocked(second.fileno(), tmp_path / "owner")
