"""Fixtures: the tiny files, and a tiny model of every family, made once; no hub, no wandb account, a cache of the tests' own."""

from __future__ import annotations

import functools
import gc
import os
import random
import re
import shutil
import sys
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models lose time on threads, and more beside a busy neighbour
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import tiny
from hypothesis import settings

from encdec_lightning.cache.folder import cache_folder
from encdec_lightning.launch.garbage import collect_rarely

settings.register_profile("new-examples", deadline=None)  # machines are shared: an example may take long
settings.register_profile("suite", settings.get_profile("new-examples"), derandomize=True)
settings.load_profile("suite")
ROOT = Path(__file__).parents[1]
MEMORY_OF_A_WORKER = 4 << 30
"""Bytes that a process of pytest's and those that it starts may take."""
OF_THE_USER = re.compile(
    r"MLFLOW_|SLURM_|WANDB_|JUPYTER_|TTY_|(FORCE_COLOR|NO_COLOR|CLICOLOR_FORCE|COLUMNS|LINES|HYDRA_FULL_ERROR)$"
)
"""Variables that the user has set for other runs, or for a terminal."""


def pytest_configure(config: pytest.Config) -> None:
    """An environment and a cache of the tests' own; only what takes minutes to make stays where it is.

    Processes that tests start take the package from this repository, also where another one is installed.
    """
    for variable in filter(OF_THE_USER.match, [*os.environ]):
        del os.environ[variable]
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", NO_PROXY="127.0.0.1,localhost")
    os.environ["GLIBC_TUNABLES"] = (
        ""  # else each of some hundred commands starts a second time; test_environment.py does
    )
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = Path(tempfile.mkdtemp(prefix="encdec_tests_"))
    config.add_cleanup(lambda: shutil.rmtree(own))
    for name in ("checkpoints", "pydoc"):
        with suppress(OSError):  # where nothing can be written, it is made anew
            (cache_folder() / name).mkdir(parents=True, exist_ok=True)
            (own / name).symlink_to((cache_folder() / name).resolve())
    os.environ["ENCDEC_LIGHTNING_CACHE"] = str(own)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores, where memory allows it: many tests wait for processes of their own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return cores
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return cores + (memory >= (cores + 1) * MEMORY_OF_A_WORKER)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Studies of minutes, and what needs a GPU, run when asked for, by `-m slow` and `-m gpu`.

    What is `early` comes first: at the end of a suite idle processes would take parts of a file, and each make its
    fixtures, which take minutes.
    """
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("properties")
    items.sort(key=lambda item: item.get_closest_marker("early") is None)
    if not config.option.markexpr:
        left_out = ("slow", "gpu")
        items[:] = [item for item in items if not any(item.get_closest_marker(each) for each in left_out)]


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is loaded lives to the end: looking for unused objects in it takes a seventh of the tests' time."""
    collect_rarely()
    gc.collect()
    gc.freeze()


def seed(name: str) -> None:
    """The same random numbers for one name, whatever this process ran before; others for each name."""
    number = zlib.crc32(name.encode())
    random.seed(number)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(number)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(number)


def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """Files and models that many tests share do not depend on the test that comes first."""
    seed(fixturedef.argname)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """A test's random numbers do not depend on the tests before it, nor on which fixtures were already there."""
    seed(item.nodeid)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tiny.Files:
    return tiny.write_all(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder is a fresh one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def probe(files: tiny.Files, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(role, family) -> its model beside a bert, in evaluation mode, made once; with the options of its composition."""
    import torch

    from encdec_lightning.composition.architectures import ARCHITECTURES
    from encdec_lightning.composition.compose import compose
    from encdec_lightning.composition.options import Weights

    folder = tmp_path_factory.mktemp("families")

    @functools.cache
    def made(role: str, family: str) -> Any:
        with torch.random.fork_rng(devices=[]):  # a test that finds the model made has the same random numbers
            torch.manual_seed(0)
            return compose(**options(role, family)).eval()

    def options(role: str, family: str) -> dict[str, Any]:
        checkpoint = folder_of(family)
        unmasked = ARCHITECTURES[family].encodes == "unmasked"
        if role in get_args(Weights):
            return {"encoder": checkpoint, "decoder": checkpoint, "weights": role, "encoder_bidirectional": unmasked}
        if role == "encoder":
            return {"encoder": checkpoint, "decoder": files.bert, "encoder_bidirectional": unmasked}
        if role == "merged":
            return {"encoder": files.bert, "decoder": checkpoint, "cross_attention_kind": "merged"}
        return {"encoder": files.bert if role == "decoder" else None, "decoder": checkpoint}

    def folder_of(family: str) -> str:
        checkpoint = folder / family
        return str(checkpoint) if checkpoint.exists() else tiny.family_checkpoint(checkpoint, family)

    made.options, made.folder = options, folder_of
    return made
