"""The partial file of an output: locks that a file system has not, and what a second process leaves."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from encdec_lightning.errors import UserError
from encdec_lightning.prediction.partial import Done, check_output, opened_output


def test_a_file_system_without_locks_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuses)
    with opened_output(str(tmp_path / "out"), {"a": 1}) as output:
        output.write("one\n", Done(1))
    assert (tmp_path / "out").read_text() == "one\n" and [each.name for each in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["texts.json", "texts.jsonl.gz", "texts.CSV", "texts.parquet"])
def test_a_name_that_promises_what_is_not_written(name: str, tmp_path: Path):
    with pytest.raises(UserError, match=r"no such file is written: one in \.jsonl has a record a line, others"):
        check_output(str(tmp_path / name))
    check_output(str(tmp_path / "texts.txt"))


def test_a_process_that_comes_too_late_leaves_nothing(tmp_path: Path):
    (tmp_path / "out").write_text("done\n")
    with pytest.raises(UserError, match="the file exists already"), opened_output(str(tmp_path / "out"), {}):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_a_partial_file_that_came_in_between_is_not_taken_for_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    renamed = Path.rename

    def another_begins(self: Path, target: str) -> Path:
        place = renamed(self, target)
        self.write_text("")
        return place

    monkeypatch.setattr(Path, "rename", another_begins)
    with opened_output(str(tmp_path / "out"), {}) as output:
        output.write("one\n", Done(1))
    assert (tmp_path / "out").read_text() == "one\n"
