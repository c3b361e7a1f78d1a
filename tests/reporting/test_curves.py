"""Curves from csv logs, those of resumed runs included."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from encdec_lightning.reporting.curves import draw_curves, points
from encdec_lightning.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "study" / "run", {}, "abc")


def write_log(run: Run, version: int, rows: list[str]) -> None:
    file = run.logs / "csv" / f"version_{version}" / "metrics.csv"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(["epoch,step,train/loss,val/loss", *rows]) + "\n")
    os.utime(file, (version, version))


def test_points_of_one_name(run):
    write_log(run, 1, ["0,1,5.0,", "0,2,4.0,", "0,2,,4.5"])
    assert points(run.logs, "train/loss") == [(1, 5.0), (2, 4.0)]
    assert points(run.logs, "val/loss") == [(2, 4.5)]
    assert points(run.logs, "test/loss") == []


def test_a_resumed_run_repeats_steps_and_the_later_count(run):
    write_log(run, 10, ["0,2,3.0,", "0,3,2.0,"])
    write_log(run, 9, ["0,1,5.0,", "0,2,4.0,"])  # an older file, though its name sorts after version_10
    assert points(run.logs, "train/loss") == [(1, 5.0), (2, 3.0), (3, 2.0)]


def test_no_log_no_picture(run):
    draw_curves(run)
    assert not run.curves.exists()


@pytest.mark.parametrize("rows", [["0,1,5.0,", "0,2,,4.5"], ["0,1,5.0,"], ["0,2,,4.5"]])
def test_a_picture(run, rows):
    write_log(run, 1, rows)
    draw_curves(run)
    assert run.curves.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in run.folder.iterdir() if "partial" in path.name] == []
