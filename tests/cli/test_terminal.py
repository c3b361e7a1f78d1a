"""Commands where the terminal knows ASCII alone, and where the run's folder cannot be written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from tiny import Files

from encdec_lightning.cli.evaluate import main as evaluate
from encdec_lightning.cli.train import main as train
from encdec_lightning.run import Run

ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def accented(row: dict[str, str]) -> dict[str, str]:
    return {name: f"{text} \N{LATIN SMALL LETTER E WITH ACUTE}\N{FIRE}" for name, text in row.items()}


@pytest.fixture(scope="module")
def finished(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run whose texts are not ASCII, and with the options that made it."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for split in ("train", "validation", "test"):
            rows = [accented(json.loads(line)) for line in Path(getattr(files, split)).read_text().splitlines()]
            tiny.write_rows(place / f"{split}.jsonl", rows)
        data = [f"task.{split}={place / split}.jsonl" for split in ("train", "validation", "test")]
        options = files.overrides(*data, "variant=bertshare", "export=false", "trainer.enable_progress_bar=true")
        (place / "options.json").write_text(json.dumps(options))
        said = run("train", [*options, "folder=run"], place)
        assert said.returncode == 0, said.stderr
        assert rb"\xe9" in said.stdout  # of a sampled text
    return place


def run(command: str, arguments: list[str], place: Path) -> subprocess.CompletedProcess[bytes]:
    program = str(Path(sys.executable).with_name(f"encdec-{command}"))
    done = subprocess.run([program, *arguments], env={**os.environ, **ASCII}, cwd=place, capture_output=True, check=False)  # fmt: skip
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("train", ["run=run"]), ("train", ["--help"]),
        *(pytest.param(command, arguments, marks=pytest.mark.slow) for command, arguments in (
            ("evaluate", ["run=run", "generation.num_beams=2"]), ("check", []), ("check", ["--data"]), ("check", ["--variants"]),
            ("check", ["--json"]), ("prepare", []), ("train", ["--cfg"]),
        )),
    ],
    ids=str,
)  # fmt: skip
def test_every_command_in_ascii(command, arguments, finished):
    options = json.loads((finished / "options.json").read_text())
    if "--variants" in arguments:  # it counts them all
        options = [each for each in options if not each.startswith("variant=")]
    named = command == "evaluate" or "run=run" in arguments or "--help" in arguments
    done = run(command, arguments if named else [*options, *arguments], finished)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.isascii() and done.stderr.isascii()


def test_a_mistake_in_ascii(finished):
    done = run("train", ["run=\N{FIRE}"], finished)
    assert (done.returncode, done.stderr.isascii()) == (2, True)


def test_texts_are_utf_8_whatever_the_terminal_is(finished):
    (finished / "sources.txt").write_text("The matrix \N{FIRE} is given.\n", encoding="utf-8")
    done = run("predict", ["run=run", "input=sources.txt"], finished)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout.decode("utf-8"))["source"] == "The matrix \N{FIRE} is given."


def test_a_finished_run_on_a_read_only_file_system(finished, tmp_path, monkeypatch, capfd):
    """The system's refusals are stood in for: a test may not mount."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "run", "run")
    options = json.loads((finished / "options.json").read_text())
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    folder, access, opened = Path("run").resolve(), os.access, Path.open
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))

    def refusing(self: Path, mode: str = "r", *more: object, **named: object):
        if "r" not in mode and self.is_relative_to(folder):
            raise OSError(30, "Read-only file system", str(self))
        return opened(self, mode, *more, **named)

    monkeypatch.setattr(Path, "open", refusing)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for command in (["run=run"], [*options, "folder=run"]):
        assert train(command) == 0, capfd.readouterr().err
        assert "this model" in capfd.readouterr().out
    assert evaluate(["run=run"]) == 0
    said = capfd.readouterr()
    assert f"Nothing can be written into {folder}: the results are in " in said.err
    assert "this model" in said.out
    (kept,) = tmp_path.glob("encdec-evaluation-*/run")
    assert Run.open(kept).metrics()["test/examples"] == len(Run.open("run").predictions())
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before
