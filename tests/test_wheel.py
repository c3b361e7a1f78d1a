"""A built wheel in an empty environment gives working commands, presets included."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parents[1]

USERS_CODE = """
from dataclasses import replace
import lightning
import numpy as np

class Longer:
    names, signature = ("longer",), "share of predictions longer than the reference"
    def statistics(self, prediction):
        return np.array([float(len(prediction.prediction) > len(prediction.reference))])
    def aggregate(self, total, count):
        return 100 * total / count

def shout(pair):
    return replace(pair, target=pair.target.upper())

class Hello(lightning.Callback):
    def __init__(self, word):
        self.word = word
    def on_train_start(self, trainer, module):
        print(self.word)
"""
USERS_PRESET = """
defaults:
  - jsonl
metrics: [rouge, mine.Longer]
preprocess: [mine.shout]
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts' folder of a fresh environment that holds the wheel, and sees this one's dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "encdec_lightning/conf/train.yaml" in names and "encdec_lightning/py.typed" in names
    page = [name for name in names if name.startswith("encdec_lightning/reporting/page/")]
    assert {Path(name).suffix for name in page} == {".py", ".html", ".css", ".js"}
    assert not [name for name in names if name.startswith(("tests", "conf", "experiments"))]
    venv.create(folder / "venv", with_pip=True)
    scripts = folder / "venv" / "bin"
    install = [scripts / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv"), "platbase": str(folder / "venv")}))
    # Dependencies come from this environment, but not its editable encdec_lightning: the wheel's is found first.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return scripts


def run(scripts: Path, command: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PATH": f"{scripts}:{os.environ['PATH']}"}
    return subprocess.run([scripts / command, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_commands_presets_and_users_own_code_work_from_a_wheel(
    installed: Path, files: tiny.Files, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(USERS_CODE, encoding="utf-8")
    (tmp_path / "presets" / "task").mkdir(parents=True)
    (tmp_path / "presets" / "task" / "mine.yaml").write_text(USERS_PRESET, encoding="utf-8")
    overrides = [line for line in files.overrides() if not line.startswith("task=")]
    options = ["task=mine", "variant=bertshare", "folder=out", "callbacks.hello._target_=mine.Hello",
               "callbacks.hello.word=hello-from-mine", "debug=step"]  # fmt: skip
    found = run(installed, "encdec-train", "--config-dir", "presets", *overrides, *options, folder=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "hello-from-mine" in found.stdout
    assert "longer" in found.stdout
    where = run(installed, "python", "-c", "import encdec_lightning; print(encdec_lightning.__file__)", folder=tmp_path)
    assert str(installed.parent) in where.stdout
    text = '"references": ["'
    lines = (tmp_path / "out" / "predictions" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(line.split(text)[1].split('"')[0].isupper() for line in lines)

    mistake = run(installed, "encdec-train", "task=min", "--config-dir", "presets", folder=tmp_path)
    assert mistake.returncode == 2 and "did you mean 'mine'" in mistake.stderr
