"""`Run`: one training's folder. Only this file knows the names of what lies in it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import yaml

from encdec_lightning.errors import UserError
from encdec_lightning.records import Prediction

State = Literal["running", "preempted", "failed", "finished"]


class Run:
    """A run's folder: `config.yaml`, `status.json`, `metrics.json`, `predictions/`, `checkpoints/`, `model/`, logs.

    Files appear whole or not at all: each is written beside its place and renamed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).resolve()
        self.checkpoints = self.folder / "checkpoints"
        self.model = self.folder / "model"
        self.logs = self.folder / "logs"
        self.curves = self.folder / "curves.png"

    @classmethod
    def open(cls, folder: str | os.PathLike[str], field: str = "run") -> Run:
        """An existing run; raises `UserError` when the folder holds none."""
        run = cls(folder)
        if not run._config.is_file():
            raise UserError(field, str(folder), "it is not the folder of a run (it has no config.yaml)")
        return run

    @classmethod
    def create(cls, folder: str | os.PathLike[str], config: dict[str, Any], identity: str) -> Run:
        """A new run with its frozen config, or the one that is there if it has the same identity.

        Raises `UserError` when the folder holds anything else; nothing is overwritten.
        """
        run = cls(folder)
        if run._config.is_file():
            if run.identity() != identity:
                expected = "the folder holds a run with another configuration, choose another folder"
                raise UserError("folder", str(folder), expected)
            return run
        cls.check_place(folder)
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError("folder", str(folder), f"it cannot be made ({error.strerror})") from error
        run._write_status(identity=identity)
        _write(run._config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        return run

    @classmethod
    def check_place(cls, folder: str | os.PathLike[str]) -> None:
        """Raise `UserError` when the folder holds something that is no run."""
        run = cls(folder)
        if run._config.is_file():
            return
        if run.folder.exists() and (not run.folder.is_dir() or any(run.folder.iterdir())):
            raise UserError("folder", str(folder), "it exists, is not empty and holds no run, choose another folder")

    @property
    def _config(self) -> Path:
        return self.folder / "config.yaml"

    def config(self) -> dict[str, Any]:
        """The frozen config, as plain values; raises `UserError` when it cannot be read."""
        try:
            content = yaml.safe_load(self._config.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError("run", str(self.folder), "its config.yaml cannot be read") from error
        if not isinstance(content, dict):
            raise UserError("run", str(self.folder), "its config.yaml is not a mapping")
        return content

    def status(self) -> dict[str, Any]:
        """`state`, `identity`, and `error` of a failed run; empty before the first start."""
        return _read_json(self.folder / "status.json")

    def identity(self) -> str:
        """The hash of what changes this run's results, as it was at its creation."""
        return str(self.status().get("identity", ""))

    def set_state(self, state: State, error: str | None = None) -> None:
        """Record how far the run is."""
        self._write_status(identity=self.identity(), state=state, **({"error": error} if error else {}))

    def _write_status(self, **status: str) -> None:
        _write(self.folder / "status.json", json.dumps(status, indent=2) + "\n")

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Hold the run for this process, until it dies at the latest; raises `UserError` if another one does.

        Gives the lock's file descriptor: a process that inherits it holds the run too.
        """
        with (self.folder / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                expected = "another process is working in this run, wait for its end"
                raise UserError("run", str(self.folder), expected) from error
            yield stream.fileno()

    def metrics(self) -> dict[str, Any]:
        """The flat metrics; empty before the first evaluation."""
        return _read_json(self.folder / "metrics.json")

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Replace the metrics."""
        _write(self.folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")

    def predictions(self, split: str = "test") -> list[Prediction]:
        """What was predicted for a split."""
        with self._predictions(split).open(encoding="utf-8") as lines:
            return [Prediction(**json.loads(line)) for line in lines]

    def write_predictions(self, predictions: Iterable[Prediction], split: str = "test") -> Path:
        """Replace a split's predictions: a line each, with id, source, reference, prediction."""
        lines = (json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in predictions)
        _write(self._predictions(split), "".join(lines))
        return self._predictions(split)

    def _predictions(self, split: str) -> Path:
        return self.folder / "predictions" / f"{split}.jsonl"

    def checkpoint(self, choice: str) -> Path:
        """`best`, `last`, or the path of a checkpoint; raises `UserError` when there is none, or half of one."""
        path = self.checkpoints / f"{choice}.ckpt" if choice in ("best", "last") else Path(choice)
        if not path.exists():
            raise UserError("checkpoint", choice, f"there is no {path}; give best, last or a path")
        if path.is_file() and not zipfile.is_zipfile(path):
            raise UserError("checkpoint", choice, f"{path} is broken off or no checkpoint")
        return path

    def resumable(self) -> Path | None:
        """The checkpoint to continue from, if training has written one."""
        return self.checkpoint("last") if (self.checkpoints / "last.ckpt").exists() else None

    @contextmanager
    def replacing_model(self) -> Iterator[Path]:
        """A folder to export into; it becomes `model/` when the block ends well."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".model-") as name:
            fresh = Path(name) / "model"
            yield fresh
            if self.model.exists():
                shutil.rmtree(self.model)
            fresh.rename(self.model)


def _write(path: Path, text: str) -> None:
    """Write a file whole: a reader, or a killed process, never leaves half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError("run", str(path.parent), f"its {path.name} cannot be read") from error
    return content if isinstance(content, dict) else {}
