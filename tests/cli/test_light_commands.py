"""Commands that read what runs have left answer at once: they load neither torch nor transformers nor Lightning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from reports import made
from tiny import Files

LIGHT = """
import sys
from importlib import import_module
code = import_module("encdec_lightning.cli." + sys.argv[1]).main(sys.argv[2:])
print(code, [name for name in ("torch", "transformers", "lightning") if name in sys.modules])
"""


def loaded(command: str, *argv: str) -> str:
    """The exit code, and what has been loaded."""
    run = [sys.executable, "-c", LIGHT, command, *argv]
    result = subprocess.run(run, capture_output=True, text=True, check=False)
    return result.stdout.splitlines()[-1] if result.stdout else result.stderr


@pytest.fixture
def runs(tmp_path: Path, files: Files) -> Path:
    """Two runs of a model of the paper, on data that are not the paper's, and their checkpoints are folders."""
    for name, weights, error in (("one", "tied", 0.1), ("two", "tied_embeddings", 0.3)):
        run = made(tmp_path / name, weights, 1, error)
        text = run.config_file.read_text(encoding="utf-8")
        assert "encoder: /c/bert" in text
        run.config_file.write_text(
            text.replace("encoder: /c/bert", f"encoder: {files.bert}\n  decoder: {files.bert}"), encoding="utf-8"
        )
    return tmp_path


def test_a_report(runs: Path) -> None:
    page = runs / "page.html"
    assert loaded("report", str(runs)) == "0 []"
    assert loaded("report", str(runs / "one"), str(runs / "two"), "--html", str(page), "--sort", "rouge1") == "0 []"
    assert page.exists()
    assert loaded("report", "no folder") == "2 []"


def test_an_overview_of_runs(runs: Path) -> None:
    assert loaded("sweep", str(runs)) == "0 []"


def test_scores_of_a_file_of_predictions(runs: Path) -> None:
    assert loaded("evaluate", f"predictions={runs / 'one' / 'predictions' / 'test.jsonl'}") == "0 []"


def test_help() -> None:
    for command in ("train", "check", "prepare", "predict", "evaluate", "report", "sweep"):
        result = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", f"encdec_lightning.cli.{command}", "--help"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert result.stdout.startswith(f"usage: encdec-{command}") and " torch\n" not in result.stderr
