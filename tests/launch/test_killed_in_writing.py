"""A job that is killed at any operation on a file, or meets a full disk, goes on and ends bit-equal."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import Files

from encdec_lightning import files as our_files
from encdec_lightning.errors import UserError
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.job import job as _imported_once_for_all_children  # noqa: F401
from encdec_lightning.launch.prepare import prepare
from encdec_lightning.launch.processes import start
from encdec_lightning.launch.run_folder import make_run
from encdec_lightning.run import Run

OPERATIONS = [
    (os, "fsync"),
    (os, "link"),
    (Path, "replace"),
    (Path, "rename"),
    (Path, "unlink"),
    (our_files.Stream, "write"),
]


def at_each_operation(act: Callable[[int], None]) -> None:
    """Call `act(number)` before each operation on a file, here and in what is called from here.

    Of the many writes every fiftieth counts.
    """
    counter, writes = itertools.count(), itertools.count()
    for owner, name in OPERATIONS:
        original = getattr(owner, name)

        def counted(*arguments, _original=original, _name=name, **keywords):
            if _name != "write" or next(writes) % 50 == 0:
                act(next(counter))
            return _original(*arguments, **keywords)

        setattr(owner, name, counted)


def in_child(work: Callable[[], None]) -> int:
    """Do `work` in a process of its own; gives its status: 0, the exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        signal.alarm(600)  # should a lock be held by a thread that a fork does not take along
        try:
            torch.set_num_threads(1)
            work()
            os._exit(0)
        except UserError:
            os._exit(2)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.fixture(scope="module")
def config(files: Files, tmp_path_factory: pytest.TempPathFactory):
    """Four steps with dropout, two validations, a test and an export."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("configs"))
        return compose_config(files.overrides("variant=bertshare", "validate_every=2"), [])


@pytest.fixture(scope="module")
def job(config, tmp_path_factory: pytest.TempPathFactory):
    """A run made anew; the one that was never killed; how many operations that took."""
    folder = tmp_path_factory.mktemp("runs")
    numbers = itertools.count()

    def fresh() -> Run:
        from dataclasses import replace

        return make_run(replace(config, folder=str(folder / str(next(numbers)))))

    prepare(config, with_model=False)  # the examples are written once, and not counted
    whole, told = fresh(), folder / "operations"

    def count() -> None:
        at_each_operation(lambda number: told.write_text(str(number + 1)) and None)
        start(whole)

    assert in_child(count) == 0
    return fresh, whole, int(told.read_text())


def same(first: Run, second: Run) -> None:
    for choice in ("last", "best"):
        one, other = (torch.load(each.checkpoint(choice), weights_only=True) for each in (first, second))
        assert one["global_step"] == other["global_step"]
        assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())
    assert first.predictions() == second.predictions()
    assert first.metrics()["test/rouge1"] == second.metrics()["test/rouge1"]
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (first.model / name).read_bytes() == (second.model / name).read_bytes()
    assert second.status()["state"] == "finished"
    assert [path for path in second.folder.rglob(".*") if path.name != ".lock"] == []
    assert not second.before_last.exists()


def killed_and_continued(job, number: int) -> None:
    fresh, whole, _ = job
    run = fresh()

    def killed() -> None:
        at_each_operation(lambda now: os.kill(os.getpid(), signal.SIGKILL) if now == number else None)
        start(run)

    assert in_child(killed) == -signal.SIGKILL
    assert in_child(lambda: start(run)) == 0
    same(whole, run)


@pytest.mark.parametrize("part", [0.45, 0.8])  # among the checkpoints, and among results and export
def test_a_kill_while_files_are_written_changes_nothing(part, job):
    killed_and_continued(job, int(part * job[2]))


@pytest.mark.slow
def test_a_kill_at_any_operation_changes_nothing(job):
    for number in range(job[2]):
        killed_and_continued(job, number)
        print(f"killed at operation {number} of {job[2]}")


@pytest.mark.parametrize("part", [0.6, pytest.param(0.3, marks=pytest.mark.slow)])
def test_a_full_disk_leaves_what_was_there(part, job, capfd):
    """From one operation on no byte more can be written; then there is room again."""
    fresh, whole, operations = job
    run = fresh()

    def full() -> None:
        def refuse(now: int) -> None:
            if now >= part * operations:
                raise OSError(28, "No space left on device")

        at_each_operation(refuse)
        start(run)

    assert in_child(full) == 2
    assert in_child(lambda: start(run)) == 0
    same(whole, run)


def stopped(job) -> Run:
    """A run killed after two checkpoints of each name."""
    run = job[0]()
    original = our_files.sync_folder

    def killed() -> None:
        def after(folder: Path) -> None:
            original(folder)
            if folder == run.checkpoints and run.last.exists() and run.before_last.exists():
                os.kill(os.getpid(), signal.SIGKILL)

        our_files.sync_folder = after
        start(run)

    assert in_child(killed) == -signal.SIGKILL
    return run


MORE = [pytest.param(harm, marks=pytest.mark.slow) for harm in ("empty", "half", "gone")]


@pytest.mark.parametrize("harm", ["flipped", "a pipe", *MORE])
def test_a_broken_last_checkpoint_falls_back_to_the_one_before(harm, job, capfd):
    run = stopped(job)
    content = run.last.read_bytes()
    run.last.unlink()
    if harm == "a pipe":
        os.mkfifo(run.last)
    elif harm != "gone":
        at = len(content) // 2
        broken = {
            "empty": b"",
            "half": content[:at],
            "flipped": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
        }
        run.last.write_bytes(broken[harm])
    assert in_child(lambda: start(run)) == 0
    assert f"training goes on from {run.before_last}" in capfd.readouterr().err
    same(job[1], run)


def test_where_no_checkpoint_is_whole_the_sentence_says_what_to_do(job):
    run = stopped(job)
    for path in run.checkpoints.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no other one is whole; delete .* to train from the start"):
        run.resumable()
