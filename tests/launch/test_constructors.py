"""What constructors refuse is known early, and what is monitored is known: against the classes and logs themselves."""

from __future__ import annotations

import json
from pathlib import Path

import lightning
import pytest
import yaml
from lightning.pytorch import loggers
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from encdec_lightning.cli.train import main
from encdec_lightning.launch.checks.checks import check_all
from encdec_lightning.launch.checks.constructors import PACKAGES
from encdec_lightning.launch.checks.monitors import ALWAYS, COUNTERS, metric_names, names_logged_by
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.command_line.presets import conf_folder
from encdec_lightning.launch.slots.argument_types import wrong_kind
from encdec_lightning.launch.slots.build import target_of

LOGGERS = [
    name
    for name in loggers.__all__
    if name not in ("Logger", "CSVLogger", "NeptuneLogger") and issubclass(getattr(loggers, name), Logger)
]
CALLBACKS = yaml.safe_load((conf_folder() / "callbacks" / "default.yaml").read_text(encoding="utf-8"))
LOGGED_BY_CALLBACKS = names_logged_by(target_of(node) for node in CALLBACKS.values())
RECORDER = """
import json
from pathlib import Path
from lightning import Callback

class Recorder(Callback):
    def on_fit_end(self, trainer, module):
        Path("logged.json").write_text(json.dumps(sorted(trainer.callback_metrics)))
"""


@pytest.mark.parametrize("name", LOGGERS)
def test_a_logger_is_refused_where_its_constructor_lacks_a_package(name, files, in_tmp, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # which mlflow has given up
    kind = getattr(loggers, name)
    options = files.overrides(f"logger.x._target_=lightning.pytorch.loggers.{name}")
    found = [str(problem) for problem in check_all(compose_config(options))]
    try:
        kind(save_dir=str(in_tmp))
    except ModuleNotFoundError as error:
        (sentence,) = found
        assert sentence.startswith(f"logger.x._target_ is 'lightning.pytorch.loggers.{name}': it needs the package ")
        assert any(package.replace("_", "-") in str(error).replace("_", "-") for package in PACKAGES[name])
    else:
        assert found == []


def test_a_logger_whose_service_has_ended(files):
    problems = check_all(compose_config(files.overrides("logger.x._target_=lightning.pytorch.loggers.NeptuneLogger")))
    assert any("Neptune" in str(problem) for problem in problems)


def test_the_names_that_can_be_monitored_are_those_that_are_logged(files, in_tmp, capsys, monkeypatch):
    monkeypatch.syspath_prepend(in_tmp)
    (in_tmp / "recording.py").write_text(RECORDER)
    options = files.overrides(
        "debug=step", "folder=run", "task.validation_generate=4", "task.metrics=[rouge,exact_match]"
    )
    assert main([*options, "callbacks.x._target_=recording.Recorder"]) == 0, capsys.readouterr().err
    logged = json.loads(Path("logged.json").read_text())
    known = [*ALWAYS, *LOGGED_BY_CALLBACKS, "val/texts_per_second", *metric_names(compose_config(options))]
    assert sorted(known) == logged


@pytest.mark.parametrize("monitor", [*ALWAYS, *LOGGED_BY_CALLBACKS, *COUNTERS, "val/rouge1", "val/texts_per_second"])
def test_what_is_logged_may_be_monitored(monitor, files):
    options = files.overrides(
        "callbacks=early_stopping", f"callbacks.best.monitor={monitor}", "task.validation_generate=2"
    )
    assert check_all(compose_config(options)) == []
    if monitor in COUNTERS:
        (problem,) = check_all(compose_config([*options, f"callbacks.early_stopping.monitor={monitor}"]))
        assert problem.field == "callbacks.early_stopping.monitor"


def test_a_callback_of_ones_own_may_log_anything(files, in_tmp, monkeypatch):
    monkeypatch.syspath_prepend(in_tmp)
    (in_tmp / "watching.py").write_text(RECORDER)
    options = files.overrides("callbacks=early_stopping", "callbacks.early_stopping.monitor=mine/value")
    assert [problem.field for problem in check_all(compose_config(options))] == ["callbacks.early_stopping.monitor"]
    assert check_all(compose_config([*options, "callbacks.x._target_=watching.Recorder"])) == []


def test_classes_of_ones_own_are_not_made(files, in_tmp, monkeypatch):
    monkeypatch.syspath_prepend(in_tmp)
    (in_tmp / "acting.py").write_text(
        "import lightning\nclass Acts(lightning.Callback):\n    def __init__(self, word='x'): raise RuntimeError('made')\n"
    )
    assert check_all(compose_config(files.overrides("callbacks.x._target_=acting.Acts"))) == []


class Typed(Callback):
    """An annotation that names nothing takes all of them away."""

    def __init__(self, words: list[str], later=1) -> None:
        pass


Typed.__init__.__annotations__["later"] = "Nothing"


@pytest.mark.parametrize(
    ("target", "name", "value", "expected"),
    [
        (lightning.Trainer, "max_steps", 5, None),
        (lightning.Trainer, "max_steps", "5", "it must be a whole number"),
        (lightning.Trainer, "max_epochs", None, None),
        (lightning.Trainer, "limit_val_batches", 1, None),
        (lightning.Trainer, "limit_val_batches", 0.5, None),
        (lightning.Trainer, "limit_val_batches", True, "it must be a number or null"),
        (lightning.Trainer, "precision", "auto", None),
        (lightning.Trainer, "precision", 16, None),
        (lightning.Trainer, "devices", [0, 1], None),
        (lightning.Trainer, "devices", {"a": 1}, "it must be a list or a text or a whole number"),
        (lightning.Trainer, "max_time", {"hours": 2}, None),
        (lightning.Trainer, "deterministic", "warn", None),
        (lightning.Trainer, "enable_progress_bar", "no", "it must be true or false or null"),
        (Typed, "words", 3, None),
        (Typed, "no_such_name", 3, None),
    ],
)
def test_kinds_of_arguments(target, name, value, expected):
    assert wrong_kind(target, name, value) == expected
