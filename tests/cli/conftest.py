"""A trained run whose base checkpoints are gone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import Files, pairs, write_rows

from encdec_lightning.cli.train import main
from encdec_lightning.run import Run


@pytest.fixture(scope="session")
def trained_once(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    bert = shutil.copytree(files.bert, folder / "bert")
    options = replace(files, bert=str(bert)).overrides("variant=bertshare", f"folder={folder / 'run'}", "seed=5")
    assert main([*options, "validate_every=2", "training.learning_rate=1e-2"]) == 0
    shutil.rmtree(bert)
    return folder / "run"


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of the run, and an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return Run.open(shutil.copytree(trained_once, tmp_path / "run"))


@pytest.fixture
def jsonl(trained: Run, tmp_path: Path) -> str:
    """An input of nine sources beside the run."""
    write_rows(tmp_path / "in.jsonl", pairs(9, seed=6))
    return "input=in.jsonl"
