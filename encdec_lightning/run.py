"""`Run`: one training's folder. Only this file knows the names of what lies in it."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from encdec_lightning.errors import UserError
from encdec_lightning.files import clear_leftovers, damage, kind_of, replacing, sync_folder, sync_tree
from encdec_lightning.records import Prediction

State = Literal["running", "preempted", "failed", "finished"]


class Run:
    """A run's folder: `config.yaml`, `status.json`, `metrics.json`, `predictions/`, `checkpoints/`, `model/`, logs.

    Files appear whole or not at all: each is written beside its place and renamed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).resolve()
        self.checkpoints = self.folder / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.before_last = self.checkpoints / "last.previous.ckpt"
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
        run._write_status(identity=identity, id=f"{identity[:8]}-{run.folder.name}")
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

    @property
    def id(self) -> str:
        """A name for loggers that stays the run's own, wherever its folder is moved; at most 64 usual characters."""
        name = self.status().get("id", f"{self.identity()[:8]}-{self.folder.name}")
        return re.sub(r"[^\w.-]", "_", str(name), flags=re.ASCII)[:64]

    def set_state(self, state: State, error: str | None = None) -> None:
        """Record how far the run is."""
        kept = {name: value for name, value in self.status().items() if name in ("identity", "id")}
        self._write_status(**kept, state=state, **({"error": error} if error else {}))

    def _write_status(self, **status: str) -> None:
        _write(self.folder / "status.json", json.dumps(status, indent=2, allow_nan=False) + "\n")

    def keep_traceback(self, error: BaseException, rank: int = 0) -> Path:
        """Append an exception's traceback and the time to the file of a rank's errors in the logs; returns the file."""
        path = self.logs / ("error.txt" if rank == 0 else f"error-rank{rank}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}\n{''.join(traceback.format_exception(error))}\n")
        return path

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
            for folder in (self.folder, self.checkpoints, self.folder / "predictions"):
                clear_leftovers(folder)  # whoever left them does not hold the run any more
            yield stream.fileno()

    def metrics(self) -> dict[str, Any]:
        """The flat metrics; empty before the first evaluation."""
        return _read_json(self.folder / "metrics.json")

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Replace the metrics. What is no finite number becomes null, for JSON has no other."""
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in metrics.items()
        }
        _write(self.folder / "metrics.json", json.dumps(finite, indent=2, allow_nan=False) + "\n")

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
        """`best`, `last`, a path, or the name of a file in `checkpoints/`.

        Raises `UserError` when there is no such checkpoint, or half of one.
        """
        path = self.checkpoints / f"{choice}.ckpt" if choice in ("best", "last") else Path(choice)
        kind = kind_of(path)
        if kind is None and (self.checkpoints / choice).exists():
            path = self.checkpoints / choice
            kind = kind_of(path)
        if kind is None:
            raise UserError("checkpoint", choice, f"there is no {path}; give best, last or a path")
        wrong = None if kind == "folder" else damage(path)  # a folder is a sharded one
        if wrong is not None:
            raise UserError("checkpoint", choice, f"{path} cannot be read, {wrong}")
        return path

    def best_or_last(self) -> Path:
        """The best checkpoint, or the last one where a run keeps no best; raises `UserError` as `checkpoint`."""
        return self.checkpoint("best" if (self.checkpoints / "best.ckpt").exists() else "last")

    def resumable(self) -> Path | None:
        """The checkpoint to continue from, if training has written one: the last, if it is whole, else one before.

        Raises `UserError` when none is whole.
        """
        if kind_of(self.last) is None and kind_of(self.before_last) is None:
            return None
        if kind_of(self.last) == "folder":  # a sharded one
            return self.last
        choices = (self.last, self.before_last, self.checkpoints / "best.ckpt")
        for path in choices:
            if damage(path) is None:
                return path
        expected = f"{damage(self.last)}, and no other one is whole; delete {self.checkpoints} to train from the start"
        raise UserError("checkpoint", str(self.last), expected)

    @contextmanager
    def replacing_model(self) -> Iterator[Path]:
        """A folder to export into; it becomes `model/` when the block ends well."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".model-") as name:
            fresh = Path(name) / "model"
            yield fresh
            sync_tree(fresh)
            if self.model.exists():
                self.model.rename(Path(name) / "before")
            fresh.rename(self.model)
            sync_folder(self.folder)


def _write(path: Path, text: str) -> None:
    """Write a file whole: a reader, or a killed process, never leaves half of it."""
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError("run", str(path.parent), f"its {path.name} cannot be read") from error
    return content if isinstance(content, dict) else {}
