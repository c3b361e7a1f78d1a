"""Open slots: checked against their class and its signature before anything is built."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.launch.slots.build import build, build_partial, check_slot

STOPPING = "lightning.pytorch.callbacks.EarlyStopping"


def test_built_with_its_arguments():
    built = build("callbacks.x", {"_target_": STOPPING, "monitor": "val/loss", "patience": 7}, lightning.Callback)
    assert isinstance(built, EarlyStopping)
    assert (built.monitor, built.patience) == ("val/loss", 7)


def test_extra_arguments_fill_what_the_target_takes_and_the_node_leaves_open(tmp_path: Path):
    node = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": str(tmp_path)}
    built = build("callbacks.x", node, lightning.Callback, dirpath="other", filename="best", unheard_of=1)
    assert isinstance(built, ModelCheckpoint)
    assert (built.dirpath, built.filename) == (str(tmp_path), "best")


def test_partial():
    bound = build_partial("optimizer", {"_target_": "torch.optim.SGD", "momentum": 0.9}, torch.optim.Optimizer)
    optimizer = bound([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    assert optimizer.param_groups[0]["momentum"] == 0.9
    with pytest.raises(UserErrors, match=r"optimizer.momntum is 0.9: .* \(did you mean 'momentum'\?\)"):
        build_partial("optimizer", {"_target_": "torch.optim.SGD", "momntum": 0.9}, torch.optim.Optimizer)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (None, "it must be the dotted path of a class"),
        (3, "it must be the dotted path of a class"),
        ("Trainer", "it cannot be imported"),
        (".relative.Name", "it cannot be imported"),
        ("lightning.Trainr", "it cannot be imported"),
        ("no_such_package.Thing", "it cannot be imported"),
        ("os.system", "it must be a lightning.pytorch.callbacks.callback.Callback"),
        ("torch.optim.AdamW", "it must be a lightning.pytorch.callbacks.callback.Callback"),
    ],
)
def test_targets_that_do_not_fit(target, says):
    (problem,) = check_slot("callbacks.x", {"_target_": target}, lightning.Callback)
    assert problem.field == "callbacks.x._target_"
    assert says in str(problem)
    with pytest.raises(UserErrors):
        build("callbacks.x", {"_target_": target}, lightning.Callback)


def test_every_unknown_argument_is_named():
    problems = check_slot("callbacks.x", {"_target_": STOPPING, "patiense": 3, "monitr": "x"}, lightning.Callback)
    assert [problem.field for problem in problems] == ["callbacks.x.patiense", "callbacks.x.monitr"]
    assert "did you mean 'patience'?" in str(problems[0])


def test_what_a_class_refuses_is_one_sentence():
    for node in ({"mode": "upwards", "monitor": "x"}, {}):
        with pytest.raises(UserError, match=r"callbacks.x is .*: it cannot be built: [^\n]*$"):
            build("callbacks.x", {"_target_": STOPPING, **node}, lightning.Callback)
    with pytest.raises(UserError, match=r"trainer is 'lightning.Trainer': it cannot be built: [^\n]*[^.!]\.$"):
        build("trainer", {"_target_": "lightning.Trainer", "accelerator": "cpu", "devices": 0}, lightning.Trainer)


def test_arguments_that_are_objects_themselves():
    strategy = {"_target_": "lightning.pytorch.strategies.DDPStrategy", "process_group_backend": "gloo"}
    node = {"_target_": "lightning.Trainer", "accelerator": "cpu", "strategy": strategy, "logger": False}
    trainer = build("trainer", {**node, "enable_progress_bar": False}, lightning.Trainer)
    assert isinstance(trainer.strategy, DDPStrategy)
    with pytest.raises(UserErrors, match=r"trainer.strategy._target_ is 'no.Such'"):
        build("trainer", {**node, "strategy": {**strategy, "_target_": "no.Such"}}, lightning.Trainer)
    with pytest.raises(UserError, match=r"trainer.plugins is 'fractions.Fraction': it cannot be built"):
        plugins = {"_target_": "fractions.Fraction", "numerator": "x"}
        build("trainer", {**node, "strategy": "auto", "plugins": plugins}, lightning.Trainer)
