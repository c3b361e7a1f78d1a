"""Multirun: a folder for each point, named by its identity; all points are checked before the first one starts."""

from __future__ import annotations

import os
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest
from tiny import listed

from encdec_lightning.cli.train import main
from encdec_lightning.launch import processes, sweep
from encdec_lightning.launch.command_line.names import check_overrides
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.settle import settle
from encdec_lightning.run import Run


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Points train in this process, which is what a worker does; gives the folders that were trained."""
    from encdec_lightning.launch.job.job import train

    trained: list[str] = []

    def work(run: Run, *_: object) -> None:
        trained.append(run.folder.name)
        with processes.recorded(run):
            train(run)

    monkeypatch.setattr(processes, "_in_worker", work)
    return trained


def folders(where: Path) -> list[str]:
    return sorted(path.name for path in (where / "runs" / "run").iterdir())


def refused(capsys: pytest.CaptureFixture[str], where: Path, *argv: str) -> list[str]:
    before = sorted(where.rglob("*"))
    capsys.readouterr()
    assert main(["--multirun", *argv]) == 2
    assert sorted(where.rglob("*")) == before
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err.splitlines()


def test_points_lie_in_folders_by_identity_and_are_not_run_twice(files, in_tmp, in_process, capsys):
    options = files.overrides("debug=step", "training.learning_rate=1e-4,1e-3")
    assert main(["--multirun", *options]) == 0
    expected = [
        settle(compose_config([*options[:-1], f"training.learning_rate={rate}"])).identity()[:12]
        for rate in (1e-4, 1e-3)
    ]
    assert in_process == expected
    assert folders(in_tmp) == sorted(expected)
    assert {Run.open(in_tmp / "runs/run" / name).status()["state"] for name in expected} == {"finished"}
    assert listed(capsys.readouterr().out) == 2
    assert main(["-m", *options[:-1], "training.learning_rate=1e-4,1e-3,2e-3"]) == 0
    assert in_process[:2] == expected and len(in_process) == 3
    assert listed(capsys.readouterr().out) == 3


def test_a_point_trains_in_a_process_of_its_own(files, in_tmp, monkeypatch):
    commands = []
    real = subprocess.Popen

    def spy(command: list[str], **options: object) -> object:
        commands.append(command[1:3])
        return real(command, **options)

    monkeypatch.setattr(subprocess, "Popen", spy)
    assert main(["--multirun", *files.overrides("debug=step", "seed=7,8")]) == 0
    assert commands == [["-m", "encdec_lightning.launch.worker"]]  # the nursery, of which both are forked
    runs = [Run.open(in_tmp / "runs/run" / name) for name in folders(in_tmp)]
    assert len(runs) == 2 and all(run.predictions() for run in runs)


def test_a_bad_point_refuses_the_whole_sweep(files, in_tmp, in_process, capsys):
    lines = refused(capsys, in_tmp, *files.overrides("training.learning_rate=1e-4,-1", "model.weights=tied,tide"))
    assert sorted(line.split(" is ")[0] for line in lines) == ["model.weights", "training.learning_rate"]
    (line,) = refused(
        capsys,
        in_tmp,
        *files.overrides("task.source=document,documnt", "task.test=null", "task.validation=${task.train}"),
    )[:1]
    assert line.startswith("task.source is 'documnt'")
    (line,) = refused(capsys, in_tmp, *files.overrides("seed=1,2", "folder=one"))
    assert line == "folder is 'one': each point of a sweep needs a folder of its own."
    assert in_process == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("sed=1,2", "sed is '1,2': there is no such option or group (did you mean 'seed'?)."),
        ("variant=bertshare,bertshar", "variant is 'bertshar': it must be one of"),
        ("hydra.sweep.dri=x", "hydra.sweep.dri is 'x': Hydra has no such option (did you mean 'dir'?)."),
        ("hydra/sweeper=optna", "hydra/sweeper is 'optna': it must be one of basic, optuna."),
        ("seed=interval(0,1)", "seed is 'interval(0,1)': a grid takes its values, such as a,b or range(1,4); hparams_"),
        ("training.learning_rate=tag(log,interval(1e-5,1e-3))", "training.learning_rate is 'tag(log,interval(1e-5,1"),
        ("variant=glob(x*)", "variant is 'glob(x*)': no preset has such a name; it must be one of bert2bert, "),
        ("seed=glob(1*)", "seed is 'glob(1*)': glob() takes names of presets alone: give the values."),
        ("run=folder", "--multirun is 'folder': a sweep takes neither run= nor --cfg."),
    ],
)
def test_mistakes_are_restated(line, sentence, files, in_tmp, capsys):
    argv = [line] if line.startswith("run=") else files.overrides(line)
    (found,) = refused(capsys, in_tmp, *argv)
    assert found.startswith(sentence)


def test_a_pattern_means_the_presets_that_it_fits(files):
    mistakes, usable = check_overrides(["variant=glob(*share)", "seed=1,2"], multirun=True)
    assert (mistakes, usable) == ([], ["variant=bertshare,lmshare,robertashare", "seed=1,2"])


def test_a_working_folder_that_cannot_be_written_to(files, in_tmp, capsys):
    (in_tmp / "runs").write_text("a file")
    (line,) = refused(capsys, in_tmp, *files.overrides("seed=1,2"))
    assert line.startswith("hydra.sweep.dir is 'runs/sweeps/")
    assert "the folder of the sweep cannot be made (Not a directory); a file is where a folder must be" in line


@pytest.mark.slow
def test_a_search_preset_is_checked_and_overridden_like_what_is_typed(files, in_tmp, in_process, capsys):
    (in_tmp / "mine" / "hparams_search").mkdir(parents=True)
    preset = in_tmp / "mine" / "hparams_search" / "mine.yaml"
    head = "# @package _global_\nhydra:\n  sweeper:\n    params:\n"
    preset.write_text(f"{head}      trainer.gradient_clip_val: 1.0,2.0\n      seed: 1,2\n")
    options = ["--config-dir=mine", *files.overrides("hparams_search=mine", "debug=step")]
    assert main(["--multirun", *options, "seed=3"]) == 0
    configs = [Run.open(in_tmp / "runs/run" / name).config() for name in in_process]
    assert [(each["seed"], each["trainer"]["gradient_clip_val"]) for each in configs] == [(3, 1.0), (3, 2.0)]
    preset.write_text(f"{head}      seed: 1,x\n      sed: 1,2\n")
    (line,) = refused(capsys, in_tmp, *options)
    assert line.startswith("sed is '1,2'")
    preset.write_text(f"{head}      seed: 1,x\n")
    assert refused(capsys, in_tmp, *options) == ["seed is 'x': it must be a whole number."]


def test_the_shipped_search_is_a_grid_of_nine(files, in_tmp, monkeypatch):
    started = []

    def start(run: Run, own_process: bool) -> None:
        started.append((run.config(), own_process))
        run.set_state("finished")

    monkeypatch.setattr(processes, "start", start)
    monkeypatch.setattr(sweep, "nursery", nullcontext)
    paths = sweep.sweep(files.overrides("hparams_search=learning_rate"), []).finished
    rates = {(each["training"]["learning_rate"], each["training"]["fresh_learning_rate"]) for each, _ in started}
    assert len(paths) == len(rates) == 9
    assert all(own_process for _, own_process in started)


PICKY = '''
import os
import lightning

class Picky(lightning.Callback):
    """Fails in the run that $FAILS names."""

    def on_train_start(self, trainer, module):
        if os.environ.get("FAILS") == os.path.basename(trainer.default_root_dir):
            raise RuntimeError("not this one\\nat all")
'''


def test_a_point_that_fails_is_told_at_the_end_and_the_others_run(files, in_tmp, monkeypatch, capfd):
    (in_tmp / "picky.py").write_text(PICKY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(in_tmp), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(in_tmp)
    options = files.overrides("debug=step", "callbacks.picky._target_=picky.Picky")
    first, second = (settle(compose_config([*options, f"seed={seed}"])).identity()[:12] for seed in (1, 2))
    monkeypatch.setenv("FAILS", first)
    assert main(["--multirun", *options, "seed=1,2"]) == 1
    bad, good = (Run.open(in_tmp / "runs/run" / name) for name in (first, second))
    out, err = capfd.readouterr()
    assert err.splitlines()[-2:] == ["1 of 2 points failed:", f"{bad.folder}: RuntimeError: not this one at all"]
    assert bad.status()["error"] == "RuntimeError: not this one at all"
    assert (good.status()["state"], out.count("Test scores")) == ("finished", 1)
    log = bad.logs / "error.txt"
    assert "RuntimeError: not this one\nat all" in log.read_text() and f"This traceback is also in {log}." in err
    assert err.count("Traceback") == 1  # the worker's own
    before = good.folder.stat().st_mtime_ns
    monkeypatch.delenv("FAILS")
    assert main(["--multirun", *options, "seed=1,2"]) == 0
    assert (bad.status()["state"], good.folder.stat().st_mtime_ns) == ("finished", before)
    assert listed(capfd.readouterr().out) == 2


@pytest.mark.slow
def test_a_point_that_is_refused_when_its_turn_comes(files, in_tmp, in_process, capsys):
    """The data of the second point are wrong in a row that no check before the start reads."""
    rows = Path(files.train).read_text()
    (in_tmp / "bad.jsonl").write_text(rows[:-20])
    options = files.overrides("debug=step", f"task.train={files.train},bad.jsonl")
    del options[next(i for i, line in enumerate(options) if line == f"task.train={files.train}")]
    assert main(["--multirun", *options]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2] == "1 of 2 points failed:"
    assert lines[-1].startswith(f"{in_tmp}/runs/run/{in_process[1]}: task.train line 64 is ")
