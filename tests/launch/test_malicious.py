"""Pickles that would run code, wherever a file is loaded: the code never runs, and one sentence says what is wrong."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import some
from evil import Evil, plain_pickle, whole
from tiny import Files

from encdec_lightning import Seq2SeqModule
from encdec_lightning.cli.evaluate import main as evaluate
from encdec_lightning.cli.predict import main as predict
from encdec_lightning.cli.report import main as report
from encdec_lightning.cli.sweep import main as show_runs
from encdec_lightning.cli.train import main as train
from encdec_lightning.composition.convert import convert
from encdec_lightning.errors import UserError
from encdec_lightning.signals import Terminated
from encdec_lightning.training.pieces import FOLDER, KEY, TENSORS


@pytest.fixture(autouse=True)
def marker(tmp_path: Path):
    """After each test nothing is there."""
    file = tmp_path / "code-has-run"
    yield file
    assert not file.exists()


@pytest.fixture(scope="module")
def made(files: Files, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with a finished run and one that was stopped after its last checkpoint, and the command of both."""
    place = tmp_path_factory.mktemp("runs")
    command = [*files.overrides("variant=bertshare", "trainer.max_steps=2", "task.metrics=[exact_match]"), "folder=run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("encdec_lightning.reporting.final_table.show", lambda run: None)
        with pytest.MonkeyPatch.context() as stop:

            def asked(*_: object) -> None:
                raise Terminated

            stop.setattr("encdec_lightning.launch.job.job.training_metrics", asked)
            assert train(command) == 143
        shutil.copytree("run", "stopped")
        assert train(command) == 0
        Path("run").rename("finished")
    (place / "sources.txt").write_text("The matrix is given.\n")
    return place, command


@pytest.fixture
def runs(made: tuple[Path, list[str]], in_tmp: Path) -> list[str]:
    """The working folder has fresh copies of both runs; gives the options that made them, without their folder."""
    place, command = made
    for name in ("stopped", "finished"):
        shutil.copytree(place / name, in_tmp / name)
    shutil.copy(place / "sources.txt", in_tmp)
    return command[:-1]


def test_the_trap_works(marker: Path):
    torch.save(Evil(marker), marker.with_name("x"))
    torch.load(marker.with_name("x"), weights_only=False)
    assert marker.exists()
    marker.rmdir()


def old_format(file: Path, evil: Evil) -> None:
    torch.save({"state_dict": evil}, file, _use_new_zipfile_serialization=False)


def torchscript(file: Path, evil: Evil) -> None:
    """An archive that torch would open as a program, with the pickle as its constants."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (("constants.pkl", evil), ("data.pkl", evil)):
            archive.writestr(f"archive/{name}", pickle.dumps(content, protocol=2))
        archive.writestr("archive/version", "3\n")


def changed(change: Callable[[dict[str, Any], Evil], object]) -> Callable[[Path, Evil], None]:
    """A real checkpoint with the pickle somewhere in it."""

    def make(file: Path, evil: Evil) -> None:
        checkpoint = torch.load(file, weights_only=True)
        change(checkpoint, evil)
        torch.save(checkpoint, file)

    return make


def in_a_piece(file: Path, evil: Evil) -> None:
    """A real checkpoint in pieces, of which one holds the pickle."""
    checkpoint = torch.load(file, weights_only=True)
    piece = file.parent / FOLDER / "a1" / "0.pt"
    piece.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: checkpoint[name] for name in TENSORS} | {"more": evil}, piece)
    torch.save(checkpoint | {name: type(checkpoint[name])() for name in TENSORS} | {KEY: {"folder": f"{FOLDER}/a1", "count": 1}}, file)  # fmt: skip


def torchs_own_shards(file: Path, evil: Evil) -> None:
    """A folder as torch.distributed.checkpoint and Lightning write one: its index `.metadata` is a pickle."""
    file.unlink()
    file.mkdir()
    (file / ".metadata").write_bytes(pickle.dumps(evil))
    (file / "__0_0.distcp").write_bytes(pickle.dumps(evil))
    torch.save(evil, file / "meta.pt")


POISONED: dict[str, Callable[[Path, Evil], None]] = {
    "whole": whole,
    "plain pickle": plain_pickle,
    "old format": old_format,
    "torchscript": torchscript,
    "weights": changed(lambda checkpoint, evil: checkpoint["state_dict"].update(x=evil)),
    "optimizer": changed(lambda checkpoint, evil: checkpoint["optimizer_states"][0]["state"][0].update(exp_avg=evil)),
    "callbacks": changed(lambda checkpoint, evil: checkpoint["callbacks"].update(Mine=evil)),
    "options": changed(lambda checkpoint, evil: checkpoint["encdec_lightning"]["task"].update(x=evil)),
    "a piece": in_a_piece,
    "torch's own shards": torchs_own_shards,
}


@pytest.mark.parametrize("how", some(POISONED, "whole", "old format", "weights", "callbacks", "a piece"))
def test_checkpoints(how, runs: list[str], marker: Path, in_tmp: Path, capfd):
    """Continued, tested, used, exported from, started from and rebuilt: by every way that a checkpoint is read."""
    for name in ("last", "best"):
        POISONED[how](in_tmp / "finished" / "checkpoints" / f"{name}.ckpt", Evil(marker))
    for file in (in_tmp / "stopped" / "checkpoints").glob("*.ckpt"):
        POISONED[how](file, Evil(marker))
    commands: dict[str, Callable[[], int]] = {
        "continue, test, export": lambda: train(["run=stopped"]),
        "evaluate": lambda: evaluate(["run=finished"]),
        "evaluate another": lambda: evaluate(["run=finished", "checkpoint=last"]),
        "predict": lambda: predict(["run=finished", "input=sources.txt", "output=texts.txt"]),
        "start from": lambda: train([*runs, "init_from=finished", "folder=new"]),
    }
    capfd.readouterr()
    for name, work in commands.items():
        code, said = work(), capfd.readouterr().err
        lines = [line for line in said.splitlines() if " is '" in line]
        assert code == 2 and "Traceback" not in said, (name, said)
        assert lines and all(len(line) < 400 for line in lines), (name, said)
        assert not marker.exists(), name
    with pytest.raises(UserError, match="checkpoint is"):
        Seq2SeqModule.load_from_checkpoint(in_tmp / "finished" / "checkpoints" / "best.ckpt")
    assert show_runs(["."]) == 0


def test_a_damaged_last_checkpoint_does_not_hide_a_poisoned_one_before(runs, marker: Path, in_tmp: Path, capfd):
    last = in_tmp / "stopped" / "checkpoints" / "last.ckpt"
    whole(last.with_name("last.previous.ckpt"), Evil(marker))
    last.write_bytes(b"half")
    assert train(["run=stopped"]) == 2
    assert "it cannot be read as a checkpoint of plain values" in capfd.readouterr().err


@pytest.mark.parametrize("strategy", ["deepspeed_stage_2", "{_target_: lightning.pytorch.strategies.FSDPStrategy}", "{_target_: lightning.pytorch.strategies.ModelParallelStrategy}"])  # fmt: skip
def test_strategies_whose_checkpoints_are_pickles_are_refused(strategy, files: Files, in_tmp: Path, capsys):
    more = ["trainer.accelerator=cpu", f"trainer.strategy={strategy}", "folder=run"]
    assert train(files.overrides(*more)) == 2
    assert "hardware=fsdp" in capsys.readouterr().err and not Path("run").exists()


# -- checkpoints to begin from ------------------------------------------------------------------------------------------


def test_the_folder_of_an_encoder(files: Files, marker: Path, in_tmp: Path, capsys):
    """Its pickles alone, an index that names pickles, and pickles beside safetensors, which are not looked at."""
    folder = shutil.copytree(files.bert, in_tmp / "bert")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tf_model.h5", "flax_model.msgpack"):
        whole(folder / name, Evil(marker))
    options = [*files.overrides("variant=bertshare", "debug=step"), f"checkpoints.bert={folder}"]
    assert train([*options, "folder=beside"]) == 0
    (folder / "model.safetensors").unlink()
    capsys.readouterr()
    assert train([*options, "folder=alone"]) == 2
    assert "convert it once with" in capsys.readouterr().err
    with pytest.raises(UserError, match="damaged or holds more than tensors"):
        convert(folder)
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00001.bin")
    index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": "pytorch_model-00001-of-00001.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert train([*options, "folder=sharded"]) == 2
    assert "model.safetensors" in capsys.readouterr().err
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert train([*options, "folder=named"]) == 2
    assert "model.safetensors.index.json must map each tensor to a safetensors file" in capsys.readouterr().err
    (folder / "model.safetensors.index.json").unlink()
    whole(folder / "model.safetensors", Evil(marker))
    assert train([*options, "folder=disguised"]) == 2
    assert "its safetensors cannot be read" in capsys.readouterr().err


# -- a stranger's run ---------------------------------------------------------------------------------------------------

MINE = "import os; os.mkdir({marker!r})\nimport lightning\nclass Mine(lightning.Callback): pass\n"


def strange(run: Path, **values: Any) -> None:
    """Options in a run's config that its maker has put there."""
    import yaml

    config = yaml.safe_load((run / "config.yaml").read_text())
    for path, value in values.items():
        node, _, name = path.partition("__")
        config[node][name] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("target", ["mine.Mine", "os.system", "posix.abort"])
def test_a_run_that_is_tested_or_used_builds_nothing_that_its_slots_name(target, runs, marker, in_tmp, monkeypatch):
    (in_tmp / "mine.py").write_text(MINE.format(marker=str(marker)))
    monkeypatch.syspath_prepend(in_tmp)
    node = {"_target_": target, "command": "touch code-has-run"}
    strange(in_tmp / "finished", callbacks__mine=node, logger__mine=node, optimizer___target_=target,
            trainer__plugins=[node], trainer___target_=target)  # fmt: skip
    assert predict(["run=finished", "input=sources.txt", "output=texts.txt"]) == 0
    assert evaluate(["run=finished"]) == 0
    assert show_runs(["."]) == 0
    assert train(["run=finished", "--cfg"]) == 0


def test_yaml_makes_no_objects(runs, marker: Path, in_tmp: Path, capsys):
    for name in ("finished", "stopped"):
        with (in_tmp / name / "config.yaml").open("a") as stream:
            stream.write(f"x: !!python/object/apply:os.mkdir [{marker}]\n")
    for command in (lambda: train(["run=stopped"]), lambda: evaluate(["run=finished"]), lambda: train(["run=stopped", "--cfg"]),
                    lambda: predict(["run=finished", "input=sources.txt"])):  # fmt: skip
        assert command() == 2
        assert "config.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["metrics", "preprocess"])
def test_code_that_lies_in_a_runs_folder_is_not_imported(option, runs, marker: Path, in_tmp: Path, monkeypatch, capsys):
    """A command that is given in the run's own folder."""
    (in_tmp / "finished" / "theirs.py").write_text(MINE.format(marker=str(marker)))
    strange(in_tmp / "finished", **{f"task__{option}": ["theirs.Mine"]})
    monkeypatch.chdir(in_tmp / "finished")
    evaluate(["run=."])
    predict(["run=.", "input=../sources.txt", "output=../texts.txt"])
    assert "theirs" in capsys.readouterr().err
    monkeypatch.syspath_prepend(str(Path.cwd()))  # as the working folder is where a command is started
    report([".", "--against", "lead_sentence"])


@pytest.mark.parametrize("name", ["posix.abort", "builtins.breakpoint", "os.fork", "builtins.exit"])
def test_a_metric_is_a_class_and_nothing_else_is_called(name, runs, in_tmp: Path, capsys, monkeypatch):
    monkeypatch.setattr("sys.breakpointhook", lambda: pytest.fail("it was called"))
    strange(in_tmp / "finished", task__metrics=[name])
    assert evaluate(["run=finished"]) == 0
    assert "expected a class of a metric" in "".join(capsys.readouterr())
