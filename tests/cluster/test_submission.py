"""What is known before a job is submitted: the script that is printed, and what is refused; no Slurm is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import Files

from encdec_lightning.cli.train import main
from encdec_lightning.cluster.options import Slurm
from encdec_lightning.config import Config
from encdec_lightning.errors import UserErrors
from encdec_lightning.run import Run

SLURM = "hydra/launcher=slurm"


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main([*argv, SLURM, "slurm.print=true"]) == 0
    out, err = capsys.readouterr()
    (script,) = re.findall(r"^Nothing is submitted; sbatch (.*) does it\.$", err, re.MULTILINE)
    assert Path(script).read_text() == out
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    return out


def test_the_shipped_preset_and_numbers_of_a_preset_of_ones_own(files: Files, in_tmp, capsys):
    """Before, `gpus_per_node: 1` was refused in a preset, since it is no text there."""
    out = printed(capsys, *files.overrides("slurm=one_gpu", "folder=run"))
    asked = ("--gpus-per-node=1", "--cpus-per-task=8", "--mem=64G", "--time=24:00:00")
    assert all(f"#SBATCH {each}\n" in out for each in asked)
    (in_tmp / "presets" / "slurm").mkdir(parents=True)
    (in_tmp / "presets" / "slurm" / "mine.yaml").write_text("gpus_per_node: 2\nmem: 4096\n")
    out = printed(capsys, "--config-dir", "presets", *files.overrides("slurm=mine", "folder=mine"))
    assert "#SBATCH --gpus-per-node=2\n" in out and "#SBATCH --mem=4096\n" in out


def test_the_script_of_a_run(files: Files, in_tmp, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "hunter2hunter2")
    monkeypatch.setenv("HF_HOME", "/some/cache")
    options = ["slurm.time=30", "slurm.mem=64G", "slurm.gpus_per_node=a100:2", "slurm.setup=[module load cuda]"]
    more = ["trainer.devices=2", "trainer.num_nodes=3", "slurm.options=[--exclude=node7]", "slurm.constraint='[a|b]'"]
    text = printed(
        capsys, *files.overrides(), *options, *more, "folder=runs/été (1)", "slurm.environment=[WANDB_API_KEY]"
    )
    lines = text.splitlines()
    wanted = ["--time=30", "--mem=64G", "--gpus-per-node=a100:2", "--nodes=3", "--ntasks-per-node=2", "--exclude=node7"]
    wanted += ["--constraint=[a|b]", "--requeue", "--open-mode=append", "--signal=B:USR1@120", f"--chdir={in_tmp}"]
    assert {f"#SBATCH {each}" for each in wanted} <= {*lines}
    assert f'#SBATCH --output="{in_tmp}/runs/été (1)/slurm/%j.log"' in lines
    (export,) = [line for line in lines if "--export=" in line]
    assert {"WANDB_API_KEY", "HF_HOME", "PATH"} <= {*export.partition("--export=")[2].split(",")}
    assert "=ALL" not in export and "=" not in export.partition("--export=")[2]
    assert lines[0] == "#!/bin/bash -l" and "module load cuda" in lines
    assert lines[-1].startswith("exec ") and lines[-1].endswith(f"'run={in_tmp}/runs/été (1)'")
    run = Run.open("runs/été (1)")
    assert "slurm" not in run.config() and "state" not in run.status()
    kept = [file for file in in_tmp.rglob("*") if file.is_file()]
    assert len(kept) >= 3 and all("hunter2" not in file.read_text() for file in kept)


def test_signs_of_a_path_and_secrets_that_stay_behind(files, in_tmp, capsys, monkeypatch):
    for name in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "hunter2hunter2")
    monkeypatch.setenv("WANDB_TAGS", "mine")
    options = ["folder=50%a", "slurm.print=true", "logger=wandb", "slurm.environment=[HF_TOKEN]", SLURM]
    assert main(files.overrides(*options)) == 0
    out, err = capsys.readouterr()
    assert f"#SBATCH --output={in_tmp}/50%%a/slurm/%j.log\n" in out  # %a alone is the number of an array's task
    assert "WANDB_API_KEY is set here and not in the job: slurm.environment=[WANDB_API_KEY] takes it along." in err
    assert "HF_TOKEN" not in err
    (export,) = [line for line in out.splitlines() if "--export=" in line]
    assert "WANDB_TAGS" in export and "HF_TOKEN" in export and "WANDB_API_KEY" not in export


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("30", 1800), ("30:15", 1815), ("08:00:00", 28800), ("2-00", 172800), ("2-01:30", 178200), ("0", None)],
)
def test_a_signal_fits_into_the_time_limit(time, seconds):
    most = 65535 if seconds is None else min(65535, seconds - 1)
    Slurm(time=time, signal_seconds=most)
    with pytest.raises(UserErrors, match="signal_seconds is"):
        Slurm(time=time, signal_seconds=most + 1)


def test_the_script_of_a_sweep_names_the_folders(files, in_tmp, capsys):
    text = printed(capsys, "--multirun", *files.overrides("seed=3,1,3"), "slurm.array_throttle=1")
    assert "#SBATCH --array=0-1%1\n" in text
    told = re.sub("^exec .* ", "echo ", text, flags=re.MULTILINE)
    for task, seed in enumerate((3, 1)):
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(task)}
        done = subprocess.run(["bash", "-c", told], env=environment, capture_output=True, text=True, check=True)
        assert Run.open(done.stdout.removeprefix("run=").rstrip("\n")).config()["seed"] == seed


def test_a_preset_of_the_sites_own(files, in_tmp, capsys):
    (in_tmp / "presets" / "slurm").mkdir(parents=True)
    (in_tmp / "presets" / "slurm" / "mine.yaml").write_text("time: 30\n")
    assert main(["--config-dir=presets", *files.overrides("slurm=mine"), SLURM]) == 2
    assert capsys.readouterr().err == "slurm.time is 30: it must be a text, which a preset has in quotes.\n"
    (in_tmp / "presets" / "slurm" / "mine.yaml").write_text('partition: gpu\ntime: "08:00:00"\n')
    text = printed(capsys, "--config-dir=presets", *files.overrides("slurm=mine", "folder=run"))
    assert "#SBATCH --partition=gpu\n#SBATCH --time=08:00:00\n" in text


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["slurm.nodes=2"], "slurm.nodes is 2: it must equal trainer.num_nodes (1)."),
        (
            ["slurm.ntasks_per_node=2"],
            "slurm.ntasks_per_node is 2: it must equal trainer.devices (1), since each process is a task of Slurm's.",
        ),
        (["precision=auto"], "precision is 'auto': this machine cannot know what is fast on the job's"),
        (["trainer.devices=auto"], "trainer.devices is 'auto': in a job of Slurm's it must be the number of processes"),
        (["trainer.accelerator=gpu"], "slurm.gpus_per_node is None: trainer.accelerator=gpu needs GPUs."),
        (
            ["slurm.time=1"],
            "slurm.signal_seconds is 120: slurm.time=1 are 60 seconds: a run would be asked to end before it has begun",
        ),
        (["slurm.signal_seconds=100000"], "slurm.signal_seconds is 100000: sbatch takes 65535 seconds at most."),
        (["slurm.time=1h"], "slurm.time is '1h': it must be such as 30 or 08:00:00."),
        (
            ["slurm.partition=a b"],
            "slurm.partition is 'a b': it must be a text without spaces and quotes, as in sbatch.",
        ),
        (["slurm.signal_seconds=0"], "slurm.signal_seconds is 0: it must be at least 1."),
        (["slurm.partiton=a"], "slurm.partiton is 'a': there is no such option in slurm (did you mean 'partition'?)."),
        (["--multirun", "seed=1,2", "trainer.devices=1,2"], "trainer.devices is '1,2': it must be the same for all"),
        (["--multirun", "slurm.mem=1G,2G"], "slurm.mem is '2G': it must be the same for all points of a sweep"),
        ([], "hydra/launcher is 'slurm': there is no sbatch on PATH: give the command where Slurm is"),
    ],
    ids=str,
)
def test_what_is_refused_before_there_is_a_folder(lines, sentence, files, in_tmp, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(in_tmp))
    flags = [line for line in lines if line.startswith("--")]
    assert main([*flags, *files.overrides(), *(line for line in lines if line not in flags), SLURM]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(sentence)
    assert not [*in_tmp.iterdir()]


@pytest.mark.parametrize("flag", [[], ["--multirun"]], ids=str)
def test_options_of_a_job_act_in_a_job_alone(flag, files, in_tmp, capsys):
    assert main([*flag, *files.overrides("slurm.partition=gpu")]) == 2
    assert capsys.readouterr().err == "slurm.partition is 'gpu': it acts with hydra/launcher=slurm alone.\n"


@pytest.mark.parametrize("line", ["export WANDB_API_KEY=abcd", "export HF_TOKEN='abcd'", "curl -u password=x y"])
def test_secrets_are_refused(line):
    for option in ("setup", "options"):
        with pytest.raises(UserErrors, match="must not hold a secret") as found:
            Slurm(**{option: [line]})
        assert "abcd" not in str(found.value)
    Slurm(setup=["export TOKENIZERS_PARALLELISM=false", "export HF_TOKEN=$(cat ~/.token)", "source ~/keys"])


def test_the_job_is_no_part_of_a_runs_identity(files, in_tmp):
    from encdec_lightning.launch.command_line.overrides import compose_config

    first, second = (compose_config(files.overrides(*more)) for more in ([], ["slurm.mem=1G"]))
    assert isinstance(first, Config) and first.identity() == second.identity()
    assert first.frozen() == second.frozen()


def test_srun_does_not_start_the_command_several_times(files, in_tmp, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert main(files.overrides("folder=run")) == 2
    assert capsys.readouterr().err.startswith("SLURM_STEP_NUM_TASKS is '2': srun starts this command so often")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert main(["run=somewhere"]) == 2
    assert capsys.readouterr().err.startswith("torchrun is 'none': torchrun starts this command in its ranks")
    assert not [*in_tmp.iterdir()]


def test_a_further_rank_says_that_its_node_does_not_see_the_run(in_tmp):
    job = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "ENCDEC_LIGHTNING_REQUEUES": "1"}
    command = [sys.executable, "-m", "encdec_lightning.launch.worker", str(in_tmp / "run")]
    done = subprocess.run(command, env={**os.environ, **job}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"folder is '{in_tmp}/run': ") and line.endswith(" all nodes must share its folder.")
