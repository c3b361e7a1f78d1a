"""encdec-train: one run, continued, shown, refused."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny import pairs, write_rows

import encdec_lightning
from encdec_lightning.cli.train import main
from encdec_lightning.files import damage
from encdec_lightning.run import Run

LIGHT = """
import sys
from encdec_lightning.cli.train import main
code = main({argv!r})
print(code, [name for name in ("torch", "transformers", "lightning") if name in sys.modules])
"""


@pytest.fixture
def options(files, in_tmp):
    return files.overrides("debug=step", "folder=run")


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    capsys.readouterr()
    assert main([*argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err.splitlines()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_three_mistakes_are_three_lines_before_torch_is_loaded():
    argv = ["sed=1", "variant=bertshar", "training.learning_rate=-1"]
    result = subprocess.run([sys.executable, "-c", LIGHT.format(argv=argv)], capture_output=True, text=True, check=True)
    assert result.stdout == "2 []\n"
    assert [line.split(" is ")[0] for line in result.stderr.splitlines()] == [
        "sed",
        "variant",
        "training.learning_rate",
    ]


def test_help_names_groups_and_options(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "bertshare" in text and "training.learning_rate=5e-05" in text and "--multirun" in text


def test_help_explains_every_option_within_the_terminals_width(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.partition("options, each with its default:\n")[2].splitlines()
    options = [at for at, line in enumerate(lines) if re.match(r"  \w", line)]
    assert len(options) > 70
    assert all(line.startswith("      ") for line in (lines[at + 1] for at in options)), "an option has no explanation"
    assert max(map(len, lines)) <= 80


def test_cfg_shows_the_config_and_makes_nothing(options, in_tmp, capsys):
    assert main([*options, "--cfg", "seed=3"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["seed"], shown["trainer"]["accelerator"]) == (3, "cpu")
    assert list(in_tmp.iterdir()) == []


def test_a_run_then_the_same_command_shows_it(options, in_tmp, capsys):
    assert main(options) == 0
    run = Run.open("run")
    first = capsys.readouterr().out
    assert "Test scores" in first and str(run.folder) in first.replace("\n", "")
    before = contents(in_tmp)
    assert main(options) == 0 and main(["run=run"]) == 0
    assert capsys.readouterr().out.count("Test scores") == 2
    (line,) = refused(capsys, *options, "seed=1")
    assert line.startswith("folder is 'run': the folder holds a run with another configuration")
    with run.lock():
        assert main(options) == 0  # a finished run is shown, whoever works in it
        run.set_state("preempted")
        (line,) = refused(capsys, *options)
        run.set_state("finished")
    assert "another process is working in this run" in line
    assert contents(in_tmp) == before


def test_the_default_folder_has_the_name_and_the_time(options, in_tmp):
    assert main([*options[:-1], "name=study"]) == 0
    (folder,) = (in_tmp / "runs" / "study").iterdir()
    assert Run.open(folder).status()["state"] == "finished"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["run=nowhere"], "run is 'nowhere': it is not the folder of a run"),
        (["run=a", "seed=1"], "run is 'a': a run continues with its own frozen config, without seed=1."),
        (["run=a", "run=b"], "run is 'a': a run continues with its own frozen config, without run=b."),
        (["--nope"], "arguments is 'unrecognized arguments: --nope': see encdec-train --help."),
        (["--config-dir"], "arguments is 'argument --config-dir/-cd: expected one argument': see"),
    ],
)
def test_arguments_that_make_no_sense(argv, says, in_tmp, capsys):
    (line,) = refused(capsys, *argv)
    assert line.startswith(says)


def test_a_folder_of_something_else_is_untouched(options, in_tmp, capsys):
    (in_tmp / "run").mkdir()
    (in_tmp / "run" / "thesis.tex").write_text("words")
    (line,) = refused(capsys, *options)
    assert line.startswith("folder is 'run': it exists, is not empty and holds no run")
    assert [path.name for path in (in_tmp / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "task.train is 'data.jsonl': it holds no example."),
        (b'{"key": "1", "document": "a", "summary": "b"}\n{"key": "2", "docum', "task.train line 2 is "),
        (b'{"key": "1", "document": "a", "summary": "b"}\n' * 2, "task.train row 2 is '1': an example before has"),
        (b'{"key": "1", "document": "a", "summary": 3}\n', "task.train line 1 column summary is 3: "),
        (b"\xff\xfe", "task.train line 1 is "),
        (gzip.compress(b'{"key": "1"', mtime=0)[:20], "task.train line 1 is "),
    ],
)
def test_data_that_are_broken_are_one_sentence(content, says, options, in_tmp, capsys):
    (in_tmp / "data.jsonl").write_bytes(content)
    (line,) = refused(capsys, *options, "task.train=data.jsonl")
    assert line.startswith(says)


def test_a_run_that_failed_over_its_data_goes_on_once_they_are_mended(options, in_tmp, capsys):
    rows = write_rows(in_tmp / "data.jsonl", pairs(30, seed=4))
    whole = rows.read_text()
    rows.write_text(whole[:-20])
    (line,) = refused(capsys, *options, "task.train=data.jsonl")
    assert line.startswith("task.train line 30 is ")
    assert Run.open("run").status()["state"] == "failed"
    rows.write_text(whole)
    assert main(["run=run"]) == 0
    assert Run.open("run").metrics()["data/train_examples"] == 30


@pytest.mark.parametrize("more", [["encoder=bert", "decoder=gpt2", "weights=tied"], ["model.encoder=no/such-folder"]])
def test_a_pair_that_cannot_be_composed(more, options, in_tmp, capsys):
    lines = refused(capsys, *options, *more)
    assert all(line.startswith("model.") for line in lines)
    assert list(in_tmp.iterdir()) == []


def test_a_checkpoint_that_is_half_written_is_one_sentence(options, in_tmp, capsys):
    assert main(options) == 0
    run = Run.open("run")
    last = run.checkpoints / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    run.set_state("preempted")
    assert main(["run=run"]) == 0  # from the best one
    assert (
        f"last.ckpt is damaged or gone: training goes on from {run.checkpoints / 'best.ckpt'}"
        in capsys.readouterr().err
    )
    run.before_last.write_bytes((run.checkpoints / "best.ckpt").read_bytes())
    assert damage(last)  # the fit had ended
    run.set_state("preempted")
    assert main(["run=run"]) == 0
    assert f"training goes on from {run.before_last}" in capsys.readouterr().err
    assert damage(last) is None and not run.before_last.exists()  # whose place the damaged one would have taken
    for path in run.checkpoints.iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    run.set_state("preempted")
    (line,) = refused(capsys, "run=run")
    assert "last.ckpt': it is broken off or no checkpoint, and no other one is whole; delete" in line


def test_starting_from_another_run(options, in_tmp, capsys):
    frozen = ["optimizer=null", "optimizer._target_=torch.optim.SGD", "training.learning_rate=1e-12"]
    assert main([*options[:-1], "folder=first", "seed=1"]) == 0
    assert main([*options[:-1], "folder=second", "seed=2", "init_from=first", *frozen]) == 0
    states = [
        torch.load(Run.open(name).checkpoint("best"), weights_only=True)["state_dict"] for name in ("first", "second")
    ]
    assert all(torch.allclose(states[0][name], states[1][name]) for name in states[0])
    (line,) = refused(capsys, *options, "init_from=first", "variant=bertshare")
    assert line == "init_from is 'first': its model shares fewer parameters than this run's (model.weights)."
    (line,) = refused(capsys, *options[:-1], "folder=other", "init_from=first", "decoder=roberta")
    assert line == "init_from is 'first': its model has other parameters than this run's."


MINE = """
import numpy as np
from dataclasses import replace

class Length:
    names = ("length",)
    signature = "letters"

    def statistics(self, prediction):
        return np.array([float(len(prediction.reference))])

    def aggregate(self, total, count):
        return total / count

def loud(pair):
    return None if pair.id.endswith("-0") else replace(pair, target="LOUD")
"""


def test_metrics_and_preprocessing_of_ones_own_from_the_working_folder(files, in_tmp):
    (in_tmp / "of_my_own.py").write_text(MINE)
    options = files.overrides(
        "debug=step", "folder=run", "task.metrics=[of_my_own.Length]", "task.preprocess=[of_my_own.loud]"
    )
    command = [str(Path(sys.executable).with_name("encdec-train")), *options, "~trainer.limit_test_batches"]
    environment = {**os.environ, "PYTHONPATH": str(Path(encdec_lightning.__file__).parents[1])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    run = Run.open("run")
    assert run.metrics()["test/length"] == 4.0
    assert len(run.predictions()) == 11 and {each.reference for each in run.predictions()} == {"LOUD"}
