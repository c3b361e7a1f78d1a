"""The runs of mlflow and the files of TensorBoard: one of all starts, each step once, and no training that ends with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Files

from encdec_lightning.cli.train import main
from encdec_lightning.errors import UserError
from encdec_lightning.launch.job.trainer import build_trainer
from encdec_lightning.launch.loggers.mlflow_run import MlflowRun
from encdec_lightning.launch.loggers.tensorboard_run import TensorBoardRun
from encdec_lightning.rules import convert
from encdec_lightning.run import Run

pytest.importorskip("mlflow")
pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def test_mlflow_has_one_run_for_all_starts(files: Files, in_tmp, monkeypatch):
    options = files.overrides("logger=mlflow", "trainer.max_steps=2", "variant=bertshare", "export=false", "folder=run")
    assert main(options) == 0
    run = Run("run")
    again = MlflowRun(save_dir=run.logs, id=run.id)
    again.log_hyperparams({"seed": 9})
    again.log_metrics({"val/loss": 1.0}, step=3)
    (only,) = again.experiment.search_runs([again.experiment_id])
    assert only.info.run_id == again.run_id and only.info.run_name == "run"
    assert (only.data.params["seed"], only.data.tags["weights"]) == ("0", "tied")
    assert {"train/loss", "test/rouge1"} <= only.data.metrics.keys() and only.data.metrics["val/loss"] == 1.0
    assert {path.name for path in in_tmp.iterdir()} <= {"run", "cache"}
    other = MlflowRun(save_dir=run.logs, id="other")
    assert other.run_id != again.run_id
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="mlflow begins no run there"):
        _ = MlflowRun(save_dir=run.logs, tracking_uri="http://127.0.0.1:9", id="x").experiment


def test_tensorboard_has_one_folder_for_all_starts(files: Files, in_tmp):
    options = files.overrides("logger=tensorboard", "debug=step", "variant=bertshare", "export=false", "folder=run")
    assert main(options) == 0
    run = Run("run")
    config = convert(run.config())
    (again,) = (each for each in build_trainer(config, run).loggers if isinstance(each, TensorBoardRun))
    again.log_metrics({"val/loss": 1.0}, step=7)
    again.finalize("success")
    events = EventAccumulator(str(run.logs / "tensorboard")).Reload()
    assert {"train/loss", "val/loss", "test/rouge1"} <= {*events.Tags()["scalars"]}
    assert [each.step for each in events.Scalars("val/loss")][-1] == 7
    assert list(run.logs.glob("csv/*/metrics.csv"))


def test_steps_that_are_done_again_are_in_tensorboard_once(tmp_path: Path):
    for steps in ((2, 4, 6), (4, 6, 8), (8, 10)):
        start = TensorBoardRun(tmp_path, version="", default_hp_metric=False)
        start.log_hyperparams({"seed": 1})
        for step in steps:
            start.log_metrics({"train/loss": float(steps[0] + step)}, step)
            start.log_metrics({"val/loss": 1.0}, step)
        start.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(each.step, each.value) for each in events.Scalars("train/loss")] == [
        (2, 4),
        (4, 8),
        (6, 10),
        (8, 16),
        (10, 18),
    ]
    assert [each.step for each in events.Scalars("val/loss")] == [2, 4, 6, 8, 10]


def test_steps_that_are_done_again_are_in_mlflow_once(tmp_path: Path):
    for steps in ((2, 4, 6), (4, 6, 8)):
        start = MlflowRun(save_dir=tmp_path, id="mine")
        for step in steps:
            start.log_metrics({"train/loss": float(step)}, step)
            start.log_metrics({"val/loss": 1.0}, step)
        start.finalize("success")
    for name in ("train/loss", "val/loss"):
        history = start.experiment.get_metric_history(start.run_id, name)
        assert sorted(each.step for each in history) == [2, 4, 6, 8]


def test_mlflow_that_fails_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    logger = MlflowRun(save_dir=tmp_path, id="mine")
    logger.log_metrics({"train/loss": 1.0}, 1)
    calls: list[int] = []

    def fails(*_: object, **__: object) -> None:
        calls.append(1)
        raise ConnectionError("the server is away")

    client = type(logger.experiment)
    with monkeypatch.context() as away:
        away.setattr(client, "log_batch", fails)
        for step in (2, 3):
            logger.log_metrics({"train/loss": 1.0}, step)
        logger.finalize("success")
    assert len(calls) == 1
    told = capsys.readouterr().err.splitlines()[-1]  # mlflow says what it does before
    assert (
        told
        == "mlflow fails (ConnectionError: the server is away): the run goes on without it. logs/csv keeps what is logged."
    )
    again = MlflowRun(save_dir=tmp_path, id="mine")
    again.log_metrics({"train/loss": 1.0}, 3)
    history = again.experiment.get_metric_history(again.run_id, "train/loss")
    assert [each.step for each in history] == [1, 3]
