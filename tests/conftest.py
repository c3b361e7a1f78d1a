"""Fixtures: the tiny files, made once; no hub, no wandb account, a cache of the tests' own."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models lose time on threads, and more beside a busy neighbour
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true", TOKENIZERS_PARALLELISM="false")

import tiny

from encdec_lightning.cache import cache_folder


def pytest_configure(config: pytest.Config) -> None:
    """A cache of the tests' own; only what takes minutes to make stays where it is."""
    own = Path(tempfile.mkdtemp(prefix="encdec_tests_"))
    config.add_cleanup(lambda: shutil.rmtree(own))
    for name in ("checkpoints", "pydoc"):
        (cache_folder() / name).mkdir(parents=True, exist_ok=True)
        (own / name).symlink_to((cache_folder() / name).resolve())
    os.environ["ENCDEC_LIGHTNING_CACHE"] = str(own)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tiny.Files:
    return tiny.write_all(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder is a fresh one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
