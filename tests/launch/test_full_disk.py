"""A disk that is full while `encdec-predict` writes: one sentence, nothing lost, and the same command goes on."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from encdec_lightning.errors import UserError
from encdec_lightning.prediction.partial import Done, check_output, opened_output

JOB = {"seed": 1}
LINE = "x" * 400 + "\n"


def write(count: int) -> int:
    """Write the lines that are lacking; gives how many were there."""
    with opened_output("out.txt", JOB) as sink:
        first = sink.done.sources
        for number in range(first, count):
            sink.write(LINE, Done(number + 1, "digest", 1))
    return first


def fill_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """`os.fsync` says that the disk is full after so many calls."""
    left, real = iter(range(calls)), os.fsync

    def full(descriptor: int) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.parametrize("calls", range(8))
def test_wherever_the_disk_is_full_the_same_command_goes_on(calls, in_tmp, monkeypatch):
    with monkeypatch.context() as patched:
        fill_after(patched, calls)
        with pytest.raises(UserError, match=r"No space left on device.*make room\), then give the same command again"):
            write(4)
    assert not Path("out.txt").exists()
    done = write(4)
    assert done == max(0, (calls - 1) // 2)
    assert Path("out.txt").read_text() == LINE * 4 and [path.name for path in in_tmp.iterdir()] == ["out.txt"]


def test_an_empty_record_is_of_a_power_cut(in_tmp):
    Path("out.txt.partial").write_text("half a li")
    Path("out.txt.partial.json").touch()
    assert write(2) == 0 and Path("out.txt").read_text() == LINE * 2


def test_a_folder_that_goes_away_is_said(in_tmp, monkeypatch):
    Path("a").mkdir()
    with pytest.raises(UserError, match="No such file or directory"), opened_output("a/out.txt", JOB) as sink:
        Path("a").rename("b")
        sink.write(LINE, Done(1, "digest", 1))


def test_outputs_that_are_no_files(in_tmp):
    os.mkfifo("pipe")
    os.mkfifo("x.partial")
    for output, sentence in {
        "/dev/null": "no regular file",
        "pipe": "no regular file",
        ".": "it must be the name of a file",
        str(in_tmp): "it is a folder",
        "x": "x.partial is no regular file",
        "nowhere/x": "its folder does not exist",
        "": "it must be the name of a file",
    }.items():
        with pytest.raises(UserError, match=sentence):
            check_output(output)
