"""Every file of a run's folder gone, empty, half, garbage or a folder: each command works or says one sentence."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from pathlib import Path

import pytest
from cases import some
from test_killed_in_writing import in_child
from tiny import Files

from encdec_lightning.cli.evaluate import main as evaluate
from encdec_lightning.cli.predict import main as predict
from encdec_lightning.cli.train import main as train
from encdec_lightning.launch.command_line.overrides import compose_config
from encdec_lightning.launch.run_folder import make_run
from encdec_lightning.rules import convert
from encdec_lightning.signals import Terminated

FILES = [
    "config.yaml", "status.json", "metrics.json", "predictions/test.jsonl", "checkpoints/best.ckpt", ".lock",
    "checkpoints/last.ckpt", "curves.png", "model/config.json", "logs", "model", "predictions", "checkpoints",
]  # fmt: skip
DAMAGES = ["gone", "empty", "half", "garbage", "a folder"]
SETTLED = {"config.yaml", "status.json", "metrics.json", "predictions/test.jsonl", "checkpoints/best.ckpt"}
"""What a finished run is shown, tested and used from."""


def damage(path: Path, how: str) -> None:
    content = path.read_bytes() if path.is_file() else b"0123456789"
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if how == "a folder":
        path.mkdir()
        (path / "inside").write_text("mine")
    elif how != "gone":
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "garbage": b"\x80\x00[{: "}[how])


@pytest.fixture(scope="module")
def place(files: Files, tmp_path_factory: pytest.TempPathFactory):
    """A folder with a finished run and one stopped after its first checkpoints, and the command that made both."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("encdec_lightning.reporting.final_table.show", lambda run: None)
        command = [*files.overrides("variant=bertshare", "validate_every=2"), "folder=run"]
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


def restored(place: Path, which: str) -> Path:
    shutil.rmtree(place / "run", ignore_errors=True)
    shutil.copytree(place / which, place / "run")
    return place / "run"


COMMANDS = {
    "the same": lambda command: train(command),
    "run=": lambda command: train(["run=run"]),
    "evaluate": lambda command: evaluate(["run=run"]),
    "predict": lambda command: predict(["run=run", "input=sources.txt"]),
}


def check(place, which: str, file: str, how: str, names, capfd, monkeypatch) -> dict[str, int]:
    folder, command = place
    monkeypatch.chdir(folder)
    codes = {}
    for name in names:
        run = restored(folder, which)
        if not (run / file).exists():
            continue
        damage(run / file, how)
        checkpoints = sorted(path.name for path in run.glob("checkpoints/*"))
        capfd.readouterr()
        codes[name] = COMMANDS[name](command)
        said = capfd.readouterr().err
        assert codes[name] in (0, 2), said
        assert "Traceback" not in said
        if codes[name] == 2:
            assert said.strip(), "a sentence"
            assert set(checkpoints) <= {path.name for path in run.glob("checkpoints/*")}  # nothing is lost
    return codes


@pytest.mark.parametrize("how", some(DAMAGES, "gone", "half", "a folder"))
@pytest.mark.parametrize("file", ["config.yaml", "status.json", "metrics.json", "predictions/test.jsonl"])
def test_a_finished_run(file, how, place, capfd, monkeypatch):
    codes = check(place, "finished", file, how, ["the same", "run="], capfd, monkeypatch)
    if how != "a folder" and file in ("status.json", "predictions/test.jsonl"):
        assert set(codes.values()) == {0}
    if (file, how) == ("config.yaml", "gone"):
        assert codes == {"the same": 0, "run=": 2}


@pytest.mark.parametrize("how", ["gone", "half"])
@pytest.mark.parametrize("file", ["metrics.json", "checkpoints/best.ckpt"])
def test_a_finished_run_is_evaluated(file, how, place, capfd, monkeypatch):
    codes = check(place, "finished", file, how, ["evaluate"], capfd, monkeypatch)
    assert codes == {"evaluate": 0 if file == "metrics.json" else 2}


@pytest.mark.parametrize(
    ("file", "how", "code"),
    [
        ("status.json", "half", 0), ("status.json", "gone", 0), ("checkpoints/best.ckpt", "gone", 0), ("logs", "empty", 2),
        ("checkpoints/best.ckpt", "garbage", 0), ("checkpoints", "gone", 0), ("checkpoints/last.ckpt", "a folder", None),
    ],
)  # fmt: skip
def test_a_stopped_run_goes_on(file, how, code, place, capfd, monkeypatch):
    codes = check(place, "stopped", file, how, ["run="], capfd, monkeypatch)
    assert code is None or codes == {"run=": code}


@pytest.mark.slow
@pytest.mark.parametrize("which", ["finished", "stopped"])
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_every_file_in_every_way(file, how, which, place, capfd, monkeypatch):
    check(place, which, file, how, COMMANDS, capfd, monkeypatch)


OPERATIONS = [(os, "mkdir"), (os, "open"), (Path, "mkdir"), (Path, "open"), (Path, "replace"), (Path, "unlink"), (os, "fsync")]  # fmt: skip


def test_a_kill_at_each_operation_of_the_creation(files: Files, in_tmp: Path):
    """Whatever a killed creation leaves, the same command makes the run whole, and so does another one."""
    config = compose_config(files.overrides("folder=run"))
    other = compose_config(files.overrides("folder=run", "seed=2"))

    def killed_at(number: int) -> None:
        counter = itertools.count()
        for owner, name in OPERATIONS:
            original = getattr(owner, name)

            def counted(*arguments, _original=original, **keywords):
                inside = str(arguments[0]).startswith(str(in_tmp)) or isinstance(arguments[0], int)
                if inside and next(counter) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return _original(*arguments, **keywords)

            setattr(owner, name, counted)
        make_run(config)

    for number in range(100):
        shutil.rmtree("run", ignore_errors=True)
        code = in_child(lambda number=number: killed_at(number))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        shutil.copytree("run", "copy") if Path("run").exists() else Path("copy").mkdir()
        for chosen in (config, other):
            run = make_run(chosen)
            assert (run.identity(), run.config()["seed"]) == (convert(run.config()).identity(), chosen.seed)
            with run.lock():  # as every start does, which clears what killed processes have left
                names = {path.name for path in run.folder.iterdir()}
            assert names == {"config.yaml", "status.json", ".lock", ".owner"}
            shutil.rmtree("run")
            Path("copy").rename("run") if chosen is config else None
    assert number >= 8
