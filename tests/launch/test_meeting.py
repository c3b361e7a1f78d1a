"""Ranks that cannot work together find it out before the first step: another config, or a folder that is not shared."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from encdec_lightning.cli.train import main
from encdec_lightning.launch.job import meeting
from encdec_lightning.launch.job.meeting import Seen, disagreement, missing, separation
from encdec_lightning.run import Run

MINE = '''
import os
import lightning
from encdec_lightning.launch.job import meeting
from encdec_lightning.run import Run

meeting.VISIBLE = 1.0

class Elsewhere(lightning.Callback):
    """Rank 1 sees another folder than rank 0, as on a node that does not share it."""

    def __init__(self):
        if os.environ.get("LOCAL_RANK") == "1":
            meet = meeting.RanksMeet.setup

            def setup(self, *arguments, **named):
                self._run = Run(os.environ["ELSEWHERE"])
                meet(self, *arguments, **named)

            meeting.RanksMeet.setup = setup
'''


@pytest.mark.slow
def test_two_ranks_with_two_folders(files, in_tmp, monkeypatch, capfd):
    (in_tmp / "elsewhere.py").write_text(MINE)
    monkeypatch.setenv("PYTHONPATH", str(in_tmp), prepend=os.pathsep)
    monkeypatch.syspath_prepend(in_tmp)
    monkeypatch.setenv("ELSEWHERE", str(in_tmp / "copy"))
    monkeypatch.setattr(meeting, "VISIBLE", meeting.VISIBLE)  # importing the callback changes it
    options = files.overrides("hardware=ddp_cpu", "callbacks.elsewhere._target_=elsewhere.Elsewhere", "folder=run")
    (in_tmp / "copy").mkdir()
    (in_tmp / "copy" / "config.yaml").write_text("another")
    assert main(options) == 2
    said = capfd.readouterr().err
    assert f"folder is '{in_tmp / 'run'}': rank 1 (" in said and "reads another config.yaml there than rank 0" in said
    run = Run.open("run")
    assert run.status()["state"] == "failed" and not run.checkpoints.exists()
    shutil.copy(run.config_file, in_tmp / "copy")
    assert main(options) == 2
    said = capfd.readouterr().err
    assert "writes there is not seen on" in said and "all nodes must share it" in said
    assert not [*run.folder.glob(".rank-*")] and not run.checkpoints.exists()


def test_what_is_compared(tmp_path: Path, monkeypatch, capsys):
    run = Run(tmp_path)
    seen = [Seen("a", "config", 100.0), Seen("b", "config", 101.0)]
    assert disagreement(run, seen) is None and capsys.readouterr().err == ""
    assert disagreement(run, [*seen, Seen("c", "config", 200.0)]) is None
    assert capsys.readouterr().err == "The clock of c is 100 s ahead of that of a; times in logs differ.\n"
    assert "rank 2 (c) reads another config.yaml" in str(disagreement(run, [*seen, Seen("c", "other", 100.0)]))
    monkeypatch.setattr(meeting, "VISIBLE", 0.1)
    (tmp_path / "0").touch()
    assert missing([tmp_path / "0"]) == [] and missing([tmp_path / "0", tmp_path / "1"]) == [1]
    assert separation(run, seen, []) is None and "what b writes" in str(separation(run, seen, [1]))


def test_one_process_meets_nobody(files, in_tmp):
    assert not torch.distributed.is_initialized()
    assert main(files.overrides("folder=run", "debug=step")) == 0
    assert json.loads((in_tmp / "run" / "status.json").read_text())["state"] == "finished"
