"""Fixtures: the tiny files, made once; no hub, no wandb account, a cache of the tests' own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models lose time on threads, and more beside a busy neighbour
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true", TOKENIZERS_PARALLELISM="false")

import tiny


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tiny.Files:
    return tiny.write_all(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder is a fresh one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
