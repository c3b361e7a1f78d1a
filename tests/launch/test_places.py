"""Nothing of a config leaves the run's folder but what is a path by its meaning."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Files

from encdec_lightning.cli.train import main
from encdec_lightning.errors import UserErrors
from encdec_lightning.launch.slots.build import CALLBACK
from encdec_lightning.launch.slots.places import _leaving as leaving_of
from encdec_lightning.launch.slots.places import build_inside
from encdec_lightning.run import Run

CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"


@pytest.mark.parametrize(
    "option",
    [
        "name=../../x", "name=a/b", "name=..", "name=/x", "name='a\nb'", f"name={'x' * 201}",
        "callbacks.best.filename=../../x", "callbacks.best.filename=/x", "callbacks.best.filename='{step}/../../../x'",
        "callbacks.best.dirpath=..", "callbacks.best.dirpath=/x", "callbacks.best.dirpath='~/x'",
        "logger.csv.save_dir=/x", "logger.csv.name=../../x", "logger.csv.version=../../../x", "logger.csv.prefix=../x",
        "trainer.profiler={_target_: lightning.pytorch.profilers.SimpleProfiler, dirpath: /x, filename: y}",
        "trainer.profiler={_target_: lightning.pytorch.profilers.SimpleProfiler, dirpath: x, filename: ../../y}",
    ],
)  # fmt: skip
def test_what_would_leave_the_folder_is_one_sentence(option, files: Files, in_tmp: Path, capfd):
    assert main([*files.overrides(option), *([] if option.startswith("name") else ["folder=run"])]) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert [line.split(" is ")[0] for line in said] == [said[0].split(" is ")[0]], said
    assert option.startswith(said[0].split(" is ")[0].removesuffix(".dirpath").removesuffix(".filename")), said
    assert list(in_tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "value"),
    [("tracking_uri", "file:/x"), ("artifact_location", "/x"), ("exclude_batches_path", "../x"), ("dir", "/x"), ("project", "../x")],
)  # fmt: skip
@pytest.mark.parametrize("where", ["logger.mine", "logger.mine.settings", "callbacks.mine.many.0"])
def test_arguments_of_loggers_that_are_not_installed(argument, value, where):
    node = {argument: value}
    for name in reversed(where.split(".")[2:]):
        node = [node] if name == "0" else {name: node}
    (problem,) = leaving_of("logger.mine", node)
    assert problem.field.endswith(argument) and problem.value == value
    assert not leaving_of("logger.mine", {"tracking_uri": "https://example.org/x", "project": "a/b", "dir": "a"})


def test_folders_are_relative_to_the_runs(files: Files, in_tmp: Path, capfd):
    mine = ["callbacks.mine._target_=" + CHECKPOINT, "callbacks.mine.dirpath=mine/deep", "logger.csv.save_dir=other"]
    profiler = "{_target_: lightning.pytorch.profilers.SimpleProfiler, dirpath: told, filename: speed}"
    more = ["task.metrics=[exact_match]", "export=false", f"trainer.profiler={profiler}"]
    assert main(files.overrides(*mine, *more, "folder=run")) == 0, capfd.readouterr().err
    assert {path.name for path in in_tmp.iterdir()} == {"run"}
    run = Run.open("run").folder
    assert len(list((run / "mine" / "deep").glob("*.ckpt"))) == 1
    assert list((run / "other").rglob("metrics.csv")) and list((run / "told").glob("*speed*"))


def test_a_frozen_config_is_held_to_it_too(tmp_path: Path):
    node = {"_target_": CHECKPOINT, "dirpath": "../x"}
    with pytest.raises(UserErrors, match=r"callbacks.a.dirpath is '../x': it must be a place inside the run's folder"):
        build_inside(tmp_path, "callbacks.a", node, CALLBACK)
    built = build_inside(tmp_path, "callbacks.a", {"_target_": CHECKPOINT, "dirpath": "x"}, CALLBACK)
    assert Path(built.dirpath) == tmp_path / "x"
