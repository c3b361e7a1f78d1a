"""No option is ignored without a word: each of Hydra's own acts or is refused, each of ours is read somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hydra.conf import HydraConf

import encdec_lightning
from encdec_lightning.cli.train import main
from encdec_lightning.composition.options import Side
from encdec_lightning.config import Config
from encdec_lightning.errors import UserError
from encdec_lightning.launch.command_line.hydra_nodes import IN_SWEEPS, INSTEAD, check_hydra
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.command_line.presets import conf_folder
from encdec_lightning.run import Run


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(node)
    for each in fields(node):
        if each.name != "defaults":
            kind = hints[each.name]
            yield from leaves(kind, f"{prefix}{each.name}.") if is_dataclass(kind) else [f"{prefix}{each.name}"]


HYDRA = sorted(leaves(HydraConf))
GROUPS = sorted({group for each in HydraConf().defaults for group in each})


def test_hydras_options_are_found():
    assert len(HYDRA) > 25 and {"run.dir", "sweep.dir", "job.name", "output_subdir"} <= set(HYDRA)
    assert {"launcher", "sweeper", "job_logging"} <= set(GROUPS)
    known = {*HYDRA, *GROUPS, *(path.partition(".")[0] for path in HYDRA), "job.config"}
    known |= {f"sweeper.{name}" for name in ("n_trials", "sampler", "direction", "storage", "study_name")}  # a plugin's
    assert {*IN_SWEEPS, *INSTEAD} <= known


@pytest.mark.parametrize("name", [*(f"hydra.{path}" for path in HYDRA), *(f"hydra/{group}" for group in GROUPS)])
def test_each_of_hydras_options_acts_in_a_sweep_or_is_refused(name):
    alone, sweep = check_hydra(name, "x", multirun=False), check_hydra(name, "x", multirun=True)
    assert alone is not None and str(alone).startswith(f"{name} is 'x': it ")
    path = re.split("[./]", name, maxsplit=1)[1]
    acts = path.startswith(IN_SWEEPS)
    assert (sweep is None) == acts
    assert ("--multirun" in str(alone)) == (acts or path == "mode")
    assert acts or str(sweep) == str(alone)


def test_a_node_of_several_kinds():
    assert str(check_hydra("hydra.job", {}, multirun=True)) == "hydra.job is {}: its options are set one by one."
    assert check_hydra("hydra.launcher.n_jobs", 2, multirun=True) is None
    assert "Hydra has no such option" in str(check_hydra("hydra", 1, multirun=True))


def test_what_acts_in_a_sweep_does(files, in_tmp, capsys, monkeypatch):
    (in_tmp / "told.py").write_text(
        "import os\nfrom pathlib import Path\nfrom lightning import Callback\nclass Told(Callback):\n"
        "    def on_fit_start(self, trainer, module):\n        Path('told').write_text(os.environ['TOLD'])\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{Path(encdec_lightning.__file__).parents[1]}")
    options = files.overrides("debug=step", "callbacks.told._target_=told.Told", "name=x")
    acting = [
        "hydra.sweep.dir=elsewhere",
        "hydra.job.env_set.TOLD=yes",
        "hydra.launcher._target_=hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    ]
    assert main(["--multirun", *options, *acting]) == 0, capsys.readouterr().err
    assert (in_tmp / "elsewhere" / "multirun.yaml").is_file()
    assert (in_tmp / "told").read_text() == "yes"
    (folder,) = (in_tmp / "runs" / "x").iterdir()
    assert Run.open(folder).status()["state"] == "finished"
    assert main(["--multirun", *options, "hydra/launcher=slrm"]) == 2
    assert capsys.readouterr().err == "hydra/launcher is 'slrm': it must be one of basic, joblib, slurm.\n"


def read_somewhere() -> set[str]:
    """Names that the package reads as attributes, options' checks of themselves left out, and those that presets do."""
    package = Path(encdec_lightning.__file__).parent
    names: set[str] = set()
    for file in package.rglob("*.py"):
        if file.name != "config.py":
            tree = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
            checks = [each for each in tree if isinstance(each, ast.FunctionDef) and each.name == "__post_init__"]
            left_out = {id(node) for check in checks for node in ast.walk(check)}
            names |= {node.attr for node in tree if isinstance(node, ast.Attribute) and id(node) not in left_out}
    for file in conf_folder().rglob("*.yaml"):
        names |= {path.rpartition(".")[2] for path in re.findall(r"\$\{([\w.]+)\}", file.read_text(encoding="utf-8"))}
    return names


BY_PATH = {"train_examples", "validation_examples", "test_examples"}  # getattr(task, f"{split}_examples")


def test_each_of_our_options_is_read():
    own = {path.rpartition(".")[2] for path in leaves(Config)}
    sides = {f"{side}_{name}" for side in ("encoder", "decoder") for name in Side.__dataclass_fields__}
    assert own - read_somewhere() - BY_PATH <= sides  # getattr(self, f"{role}_layers")
    assert (
        'f"{split}_examples"'
        in Path(encdec_lightning.__file__).with_name("data").joinpath("sources", "pairs.py").read_text()
    )


def test_a_preset_with_the_name_of_another_one_is_refused(files, in_tmp):
    """Hydra would read the package's, or that of the folder that was given first, without a word."""
    mine, other = in_tmp / "presets", in_tmp / "other"
    for folder in (mine, other):
        (folder / "task").mkdir(parents=True)
    given = [each for each in files.overrides() if each.startswith(("task.", "checkpoints.")) and "length" not in each]
    chosen = ["task=own", "variant=bert2bert", "training.schedule=constant", *given]
    (mine / "task" / "xsum.yaml").write_text((conf_folder() / "task" / "xsum.yaml").read_text())
    (mine / "task" / "own.yaml").write_text("max_source_length: 17\n")
    assert compose_config(chosen, [mine, other]).task.max_source_length == 17
    (other / "task" / "own.yaml").write_text("max_source_length: 18\n")
    with pytest.raises(
        UserError, match=r"other/task/own.yaml'?: .*presets/task/own.yaml is another preset of this name"
    ):
        compose_config(chosen, [mine, other])
    (mine / "task" / "xsum.yaml").write_text("max_source_length: 77\n")
    with pytest.raises(UserError, match=r"task/xsum.yaml'?: the package has another preset of this name, give it"):
        compose_config(chosen, [mine])
