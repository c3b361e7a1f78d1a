"""Commands given twice, or at once: folders of their own, jobs that wait, and options that would do nothing."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from tiny import Files

from encdec_lightning.cli.prepare import main as prepare
from encdec_lightning.cli.train import main
from encdec_lightning.cluster import queue
from encdec_lightning.errors import UserError
from encdec_lightning.files import new_folder
from encdec_lightning.launch import run_folder
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.run_folder import make_run


class OneMoment(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz=None):
        return datetime(2026, 1, 2, 3, 4, 5)


def test_runs_that_begin_in_one_second_have_folders_of_their_own(files: Files, in_tmp, monkeypatch):
    monkeypatch.setattr(run_folder, "datetime", OneMoment)
    made = [
        make_run(compose_config(files.overrides("variant=bertshare", f"seed={seed}")), checked=True) for seed in (1, 2)
    ]
    assert [run.folder.name for run in made] == ["2026-01-02_03-04-05", "2026-01-02_03-04-05-2"]
    assert [run.config()["seed"] for run in made] == [1, 2]


def test_a_new_folder_is_nobody_elses(tmp_path: Path):
    with ThreadPoolExecutor(8) as several:
        found = [*several.map(lambda _: new_folder(tmp_path / "runs" / "a"), range(20))]
    assert len({*found}) == 20 and {each.parent for each in found} == {tmp_path / "runs"}
    assert sorted(each.name for each in found)[:3] == ["a", "a-10", "a-11"]
    (tmp_path / "file").write_text("")
    assert new_folder(tmp_path / "file" / "a") == tmp_path / "file" / "a"


def test_a_run_that_a_job_waits_for_is_not_replaced(files: Files, in_tmp, monkeypatch, capsys):
    options = files.overrides(
        "variant=bertshare", "folder=run", "hydra/launcher=slurm", "slurm.print=true", "precision=fp32"
    )
    assert main(options) == 0
    (in_tmp / "run" / "slurm" / "job").write_text("17")
    monkeypatch.setattr(run_folder, "in_queue", lambda jobs: {*jobs})
    assert main(options) == 0
    capsys.readouterr()
    assert main([*options, "seed=7"]) == 2
    assert "folder is 'run': job 17 waits for the run in it: scancel 17 first" in capsys.readouterr().err.replace(
        f"{in_tmp}/", ""
    )
    monkeypatch.setattr(run_folder, "in_queue", lambda jobs: set())
    assert main([*options, "seed=7"]) == 0


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["seed=1,2", "hydra.job.env_set.OMP_NUM_THREADS=4"], "it has no effect on a job of Slurm's"),
        (["seed=1,2", "search.trials=7"], "search.trials is 7: it acts with hparams_search=optuna alone"),
    ],
)
def test_what_would_do_nothing_in_a_sweep_of_jobs_is_refused(more, sentence, files: Files, in_tmp, capsys):
    given = ["variant=bertshare", "hydra/launcher=slurm", "slurm.print=true", "precision=fp32", *more]
    assert main(["--multirun", *files.overrides(*given)]) == 2
    assert sentence in capsys.readouterr().err
    assert not (in_tmp / "runs").exists()


def test_a_preset_of_ones_own_chooses_slurm_for_one_run_too(files: Files, in_tmp, capsys):
    (in_tmp / "presets" / "experiment").mkdir(parents=True)
    (in_tmp / "presets" / "experiment" / "cluster.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /hydra/launcher: slurm\nslurm:\n  print: true\n  partition: gpu\n"
    )
    options = files.overrides("experiment=cluster", "variant=bertshare", "folder=run", "precision=fp32")
    assert main(["--config-dir", "presets", *options]) == 0
    assert "#SBATCH --partition=gpu" in capsys.readouterr().out
    assert main(["--config-dir", "presets", *options, "seeed=1"]) == 2
    assert "seeed" in capsys.readouterr().err


def test_several_machines_need_a_job(files: Files, in_tmp, capsys):
    assert main(files.overrides("variant=bertshare", "hardware=ddp_cpu", "trainer.num_nodes=2")) == 2
    assert "trainer.num_nodes is 2: processes on several machines need a job of Slurm's" in capsys.readouterr().err


def test_a_command_without_sweeps_names_the_one_that_takes_them(files: Files, capsys):
    assert prepare(files.overrides("seed=1,2")) == 2
    assert "several values need encdec-train --multirun" in capsys.readouterr().err


def test_a_queue_that_does_not_answer_is_not_an_empty_one(monkeypatch):
    monkeypatch.setattr(queue.shutil, "which", lambda name: "/usr/bin/squeue")
    answers = [
        subprocess.CompletedProcess([], 1, "", "slurm_load_jobs error: Unable to contact slurm controller"),
        None,
    ]
    monkeypatch.setattr(queue, "_asked", lambda *command: answers.pop(0))
    for _ in range(2):
        with pytest.raises(UserError, match="Slurm does not answer"):
            queue.in_queue(["17"])
    monkeypatch.setattr(queue.shutil, "which", lambda name: None)
    assert queue.in_queue(["17"]) == set()
