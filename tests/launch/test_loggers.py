"""What runs are called in dashboards, what a dashboard that fails does to a training, and what its files hold."""

from __future__ import annotations

import importlib.util
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from cases import some
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.loggers import CSVLogger
from wandb_server import read

from encdec_lightning.cli.train import main
from encdec_lightning.launch.checks.checks import check_all
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.job.trainer import build_trainer
from encdec_lightning.launch.loggers.journal import Journal
from encdec_lightning.launch.loggers.labels import Table, labels, point_label
from encdec_lightning.launch.loggers.wandb_files import files_of, last_steps, mend, records
from encdec_lightning.launch.loggers.wandb_run import STEP, WandbRun
from encdec_lightning.launch.run_folder import make_run
from encdec_lightning.rules import convert
from encdec_lightning.run import Run

BEGIN = """
import sys
from encdec_lightning.errors import UserError
from encdec_lightning.launch.loggers.wandb_run import WandbRun
try:
    WandbRun(save_dir=sys.argv[1], id="mine").experiment
except UserError as error:
    sys.exit(str(error))
"""


def offline(folder: Path, **arguments: object) -> WandbRun:
    return WandbRun(save_dir=folder, offline=True, project="mine", **{"id": "own", **arguments})  # type: ignore[arg-type]


def run_record(folder: Path):
    (file,) = folder.rglob("offline-run-*/*.wandb")
    return next(each.run for each in read(file) if each.HasField("run"))


def test_points_of_a_sweep_are_called_by_what_sets_them_apart(files, in_tmp, monkeypatch):
    begun: list[Run] = []
    monkeypatch.setattr("encdec_lightning.launch.processes.start", lambda run, **_: begun.append(run))
    swept = ["seed=1,2", "variant=bertshare,bert2gpt", "+trainer.gradient_clip_val=1.0"]
    main(["--multirun", *files.overrides(*swept, "name=grid")])
    told = [labels(run, compose_config([*files.overrides("name=grid"), "variant=bert2gpt"])) for run in begun]
    assert [each["name"] for each in told] == [
        *("seed=1, variant=bertshare", "seed=1, variant=bert2gpt"),
        *("seed=2, variant=bertshare", "seed=2, variant=bert2gpt"),
    ]
    assert {each["group"] for each in told} == {"grid"}
    run = begun[0]
    run.set_state("running")  # as a start does
    again = make_run(compose_config([*files.overrides("name=grid"), "seed=1", "variant=bertshare", "trainer.gradient_clip_val=1.0"]), "x")  # fmt: skip
    assert (again.folder, again.status()["point"]) == (run.folder, "x")


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        (["training.learning_rate=1e-4", "a=b"], "learning_rate=1e-4"),
        (["++optimizer.x=1", "trainer.x=2"], "optimizer.x=1, trainer.x=2"),
        (["model.encoder=/models/tiny one", "weights=tied"], "encoder=tiny one, weights=tied"),
        (["a=b"], ""),
    ],
)
def test_a_label_names_what_differs(overrides, label):
    assert point_label(overrides, ["a=b"]) == label


def test_a_single_run_is_called_by_its_name_or_its_first_folder(files, in_tmp):
    config = compose_config(files.overrides("variant=bert2gpt", "folder=first", "seed=3"))
    run = make_run(config)
    run.folder.rename("second")
    facts = {"encoder": "bert", "decoder": "gpt2", "weights": "untied", "task": "train.jsonl", "seed": "3"}
    assert labels(Run("second"), config) == {"name": "first", "group": None, "facts": facts}
    named = compose_config(files.overrides("variant=bert2gpt", "name=mine"))
    assert labels(Run("second"), named)["name"] == "mine"


def test_a_users_own_words_win(files, in_tmp):
    own = {"id": "other", "name": "mine", "group": "all", "project": "p", "tags": "[a,b]", "notes": "n"}
    given = [f"logger.wandb.{name}={value}" for name, value in own.items()]
    options = files.overrides("variant=bertshare", "logger=wandb", *given, "logger.wandb.offline=true", "folder=run")
    config = compose_config(options)
    assert check_all(config) == []
    run = make_run(config)
    trainer = build_trainer(convert(run.config()), run)
    (logger,) = (each for each in trainer.loggers if isinstance(each, WandbRun))
    logger.log_hyperparams(config.frozen())
    logger.end(0)
    told = run_record(in_tmp)
    assert (told.run_id, told.display_name, told.run_group, told.project) == ("other", "mine", "all", "p")
    assert (list(told.tags), told.notes) == (["a", "b"], "n")
    assert any(isinstance(each, CSVLogger) for each in trainer.loggers)


@pytest.mark.parametrize("reachable", some([True, False], False), ids=["no login", "no server"])
def test_without_wandb_one_sentence_and_no_question(tmp_path, reachable):
    main_side, terminal = pty.openpty()  # where wandb would ask
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    if not reachable:
        nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a1" * 20, "WANDB_INIT_TIMEOUT": "1"}
        environment |= nowhere
    command = [sys.executable, "-c", BEGIN, str(tmp_path)]
    ended = subprocess.run(command, env=environment, stdin=terminal, capture_output=True, text=True, check=False)
    os.close(main_side)
    os.close(terminal)
    sentence = ended.stderr.splitlines()[-1]
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert sentence.startswith("logger.wandb.offline is False: wandb begins no run (")
    assert ("API key" in sentence) is reachable and "logger.wandb.offline=true" in sentence


def test_a_wandb_that_fails_harms_nothing_and_gets_the_rest_later(tmp_path, capsys, monkeypatch):
    logger = offline(tmp_path)
    logger.log_metrics({"a": 1.0}, step=1)
    logger.log_metrics({"a": 2.0}, step=2)
    with monkeypatch.context() as broken:
        broken.setattr(wandb.Run, "log", lambda *_, **__: 1 / 0)
        for step in (3, 4):
            logger.log_metrics({"a": float(step)}, step=step)
        logger.summarize({"b": 1})
    logger.end(0)
    wandb.finish()
    said = capsys.readouterr().err
    assert said.count("wandb fails (ZeroDivisionError") == 1 and str(tmp_path / "wandb.jsonl") in said
    again = offline(tmp_path)
    again.log_metrics({"a": 4.0, "b": 5.0}, step=4)
    again.end(0)
    first, second = ([each.history.step.num for each in read(file) if each.HasField("history")] for file in files_of(tmp_path / "wandb", "own"))  # fmt: skip
    assert (first, second) == ([1], [2, 3, 4])


def test_what_others_log_and_what_comes_late_is_not_lost(tmp_path):
    logger = offline(tmp_path)
    for step in range(3):
        logger.experiment.log({"others": step})
    logger.log_metrics({"a": 1.0}, step=1)
    logger.log_metrics({"a": 9.0}, step=9)
    logger.log_metrics({"late": 1.0}, step=5)
    logger.log_metrics({"without": 1.0})
    logger.end(0)
    (file,) = files_of(tmp_path / "wandb", "own")
    logged = {item.nested_key[0] if item.nested_key else item.key for each in read(file) for item in each.history.item}
    assert {"others", "a", "late", "without"} <= logged
    assert last_steps(file, STEP)[1] == 9
    again = offline(tmp_path)
    again.log_metrics({"a": 10.0}, step=10)
    again.end(0)
    numbers = [each.history.step.num for file in files_of(tmp_path / "wandb", "own") for each in read(file) if each.HasField("history")]  # fmt: skip
    assert numbers == sorted({*numbers}) and last_steps(files_of(tmp_path / "wandb", "own")[1], STEP)[1] == 10


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of wandb's with records of more than one block."""
    folder = tmp_path_factory.mktemp("whole")
    logger = offline(folder)
    for step in range(12):
        logger.log_metrics({"text": f"{step}" * 5000}, step=step)
    logger.end(0)
    (file,) = files_of(folder / "wandb", "own")
    assert len(read(file)) > 12 and file.stat().st_size > 40_000 and last_steps(file, STEP) == (11, 11)
    return file


@given(end=st.integers(0, 80_000))
def test_a_file_that_ends_anywhere_is_mended(whole_file, tmp_path_factory, end):
    folder = tmp_path_factory.mktemp("cut")
    file = folder / "offline-run-1-own" / "run-own.wandb"
    file.parent.mkdir()
    whole = whole_file.read_bytes()
    file.write_bytes(whole[:end])
    os.utime(file, (0, 0))
    there = [*records(file)]
    mend(file)
    if not any(each.HasField("run") for each in there):
        assert files_of(folder, "own") == [] and Path(f"{file}.empty").read_bytes() == whole[:end]
        return
    assert whole.startswith(file.read_bytes())
    assert [*records(file)] == there
    os.utime(file, (0, 0))
    size = file.stat().st_size
    mend(file)
    assert file.stat().st_size == size


def test_a_journal_outlives_half_a_line(tmp_path):
    journal = Journal(tmp_path / "x" / "wandb.jsonl")
    assert journal.rows() == {}
    table = Table(["id"], [["été"]])
    journal.add(2, {"a": 1.0, "b": float("inf"), "object": object()})
    journal.add(1, {"t": table})
    journal.add(2, {"a": 2.0})
    whole = journal.path.read_bytes()
    expected = {1: {"t": table}, 2: {"a": 2.0, "b": float("inf")}}
    for end in range(len(whole) + 1):
        journal.path.write_bytes(whole[:end])
        journal.add(7, {"c": 1})
        rows = journal.rows()
        assert rows.pop(7) == {"c": 1}
        assert all(expected[step].keys() >= row.keys() for step, row in rows.items())
    assert rows == expected


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_a_missing_package_is_named_with_its_extra(name, files, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda each: None if each.startswith(name) else found(each))
    (problem,) = check_all(compose_config(files.overrides("variant=bertshare", f"logger={name}")))
    assert problem.field == f"logger.{name}._target_"
    assert problem.expected.endswith(f"which is not installed: pip install 'encdec_lightning[{name}]'")
