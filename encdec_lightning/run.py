"""`Run`: one training's folder. Only this file knows the names of what lies in it."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import yaml

from encdec_lightning.advice import goes_on, scored_anew
from encdec_lightning.errors import UserError, is_finite
from encdec_lightning.files import clear_leftovers, damage, is_leftover, kind_of, sync_folder, sync_tree, write_text
from encdec_lightning.owner import OWNER, Taken, flocked, owned
from encdec_lightning.records import Prediction, plain, prediction_of

EVALUATIONS = "evaluations"  # the folder in a run's own where its other evaluations lie
State = Literal["running", "preempted", "pruned", "failed", "finished"]


class Run:
    """A run's folder: `config.yaml`, `status.json`, `metrics.json`, `predictions/`, `checkpoints/`, `model/`, logs.

    Files appear whole or not at all: each is written beside its place and renamed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(os.path.realpath(folder))  # unlike `resolve`, it takes a link to itself
        self.config_file, self.status_file = self.folder / "config.yaml", self.folder / "status.json"
        self.checkpoints = self.folder / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.before_last = self.checkpoints / "last.previous.ckpt"
        self.model, self.logs = self.folder / "model", self.folder / "logs"
        self.curves, self.slurm = self.folder / "curves.png", self.folder / "slurm"

    @classmethod
    def open(cls, folder: str | os.PathLike[str], field: str = "run") -> Run:
        """An existing run; raises `UserError` when the folder holds none."""
        run = cls(folder)
        if kind_of(run.config_file) == "file":
            return run
        newest = max(run.folder.glob("*/config.yaml"), key=os.path.getmtime, default=None)
        expected = "it is not the folder of a run (it has no config.yaml)"
        expected += f"; its newest run is {Path(folder) / newest.parent.name}" if newest else ""
        if run.status():
            expected = f"its config.yaml is gone; the command that made the run writes it anew, with folder={folder}"
        raise UserError(field, str(folder), expected)

    @classmethod
    def create(cls, folder: str | os.PathLike[str], config: dict[str, Any], identity: str) -> Run:
        """A new run with its frozen config, or the one that is there if it has the same identity.

        Unless that one is at work, it takes over options that change no result; if it has ended, the export alone. One
        of another identity that never took a step is replaced. Raises `UserError` for a folder of anything else.
        """
        run = cls(folder)
        there = kind_of(run.config_file) == "file"
        if there and run.identity() == identity:
            run._take_over(config)
            return run
        known = there or bool(run.status())
        cls.check_place(folder)
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError("folder", str(folder), f"it cannot be made ({error.strerror})") from error
        with run.lock():
            if known and run.identity() != identity:
                if run._is_of_value():
                    expected = (
                        "the folder holds a run with another configuration, choose another folder;"
                        f" {goes_on(run.folder)}"
                    )
                    raise UserError("folder", str(folder), expected)
                print(f"{folder} holds a run that has not taken a step: this one takes its place.", file=sys.stderr)
                run.status_file.unlink(missing_ok=True)  # the config alone says whose run it is, until both are new
            elif known:
                print(f"{run.config_file} was gone, it is written anew.", file=sys.stderr)
            if not there or run.identity() != identity:
                write_text(run.config_file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
            if run.identity() != identity:
                run.identify(identity)
        return run

    @classmethod
    def check_place(cls, folder: str | os.PathLike[str]) -> None:
        """Raise `UserError` when the folder holds something that is no run."""
        run = cls(folder)
        known = kind_of(run.config_file) == "file" or bool(run.status())
        if not known and kind_of(run.folder) is not None and not run._holds_leftovers_alone():
            raise UserError("folder", str(folder), "it exists, is not empty and holds no run, choose another folder")

    def _take_over(self, config: dict[str, Any]) -> None:
        with suppress(UserError):  # else it is at work, or its config cannot be read
            before, finished = self.config(), self.status().get("state") == "finished"
            asked = {"export": "asked"} if finished and config.get("export") and not before.get("export") else {}
            config = {**before, **({"export": config["export"]} if asked else {})} if finished else config
            if before != config:
                with self.lock():
                    self.note(**asked)
                    write_text(self.config_file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def identify(self, identity: str) -> None:
        """Write the status of a run that has not begun, or whose status was lost."""
        self._write_status(identity=identity, id=f"{identity[:8]}-{secrets.token_hex(3)}-{self.folder.name}")

    def _is_of_value(self) -> bool:
        """Whether a step was taken here, as far as anyone can know, or something was made of one."""
        made = [self.folder / name for name in ("checkpoints", "predictions", EVALUATIONS, "metrics.json", "model")]
        begun = any(path.is_file() or (path.is_dir() and any(path.iterdir())) for path in made)
        return begun or bool(self.status().get("trained")) or self.status().get("state") == "finished"

    def _holds_leftovers_alone(self) -> bool:
        """Whether the folder is empty but for what a process leaves that is killed in `create`."""
        names = [] if not self.folder.is_dir() else [path.name for path in self.folder.iterdir()]
        return self.folder.is_dir() and all(name in (".lock", OWNER) or is_leftover(name) for name in names)

    def config(self) -> dict[str, Any]:
        """The frozen config, as plain values; raises `UserError` when it cannot be read."""
        try:
            content = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError("run", str(self.folder), f"its config.yaml cannot be read; {self.anew}") from error
        if not isinstance(content, dict):
            raise UserError("run", str(self.folder), f"its config.yaml is not a mapping; {self.anew}")
        return content

    @property
    def anew(self) -> str:
        """How a config that is damaged or was changed is had again, as the end of a sentence."""
        return f"delete that file, and the command that made the run writes it anew, with folder={self.folder}"

    def status(self) -> dict[str, Any]:
        """`state`, `identity`, and `error` of a failed run; empty before the first start, or if it cannot be read."""
        try:
            return _read_json(self.status_file)
        except UserError:
            return {}

    def identity(self) -> str:
        """The hash of what changes this run's results, as it was at its creation; empty where that is lost."""
        return str(self.status().get("identity", ""))

    @property
    def id(self) -> str:
        """A name for loggers that stays the run's own, wherever its folder is moved; at most 64 usual characters."""
        name = self.status().get("id", f"{self.identity()[:8]}-{self.folder.name}")
        return re.sub(r"[^\w.-]", "_", str(name), flags=re.ASCII)[:64]

    def note(self, **told: Any) -> None:
        """Record what stays true: `trained`, `point` of its sweep, `export` (`asked` for after its end, or `done`)."""
        if not told.items() <= self.status().items():
            self._write_status(**{**self.status(), **told})

    def set_state(self, state: State, error: str | None = None) -> None:
        """Record how far the run is."""
        kept = {name: value for name, value in self.status().items() if name not in ("state", "error")}
        self._write_status(**kept, state=state, **({"error": error} if error else {}))

    def _write_status(self, **status: Any) -> None:
        write_text(self.status_file, json.dumps(status, indent=2, allow_nan=False) + "\n")

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Hold the run for this process, until it dies at the latest; raises `UserError` if another one does, anywhere.

        Gives the lock's file descriptor: a process that inherits it holds the run too, on this machine.
        """
        with ExitStack() as held:
            try:
                stream = held.enter_context((self.folder / ".lock").open("w"))
                held.enter_context(owned(self.folder / OWNER, flocked(stream.fileno(), self.folder / OWNER)))
            except Taken as other:
                expected = f"another process is working in this run ({other}), wait for its end"
                raise UserError("run", str(self.folder), expected) from other
            except OSError as error:
                problem = f"nothing can be written into it ({error.strerror})"
                raise UserError("run", str(self.folder), problem) from error
            for folder in (self.folder, self.checkpoints, self.folder / "predictions"):
                clear_leftovers(folder)  # whoever left them does not hold the run any more
            yield stream.fileno()

    @property
    def is_writable(self) -> bool:
        """Whether anything can be written into the folder; false on a file system that is mounted read-only."""
        return os.access(self.folder, os.W_OK)

    def metrics(self) -> dict[str, Any]:
        """The flat metrics; empty before the first evaluation."""
        return _read_json(self.folder / "metrics.json")

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Replace the metrics. What is no finite number becomes null, for JSON has no other."""
        finite = {name: value if is_finite(value) else None for name, value in metrics.items()}
        write_text(self.folder / "metrics.json", json.dumps(finite, indent=2, allow_nan=False) + "\n")

    def put_damaged_metrics_aside(self) -> Path | None:
        """Rename a `metrics.json` that cannot be read, and give its new place; None where there is nothing wrong."""
        try:
            self.metrics()
        except UserError:
            aside = self.folder / f"metrics.damaged-{time.time_ns()}.json"
            return (self.folder / "metrics.json").rename(aside)
        return None

    def predictions(self, split: str = "test") -> list[Prediction]:
        """What was predicted for a split; raises `UserError` when that cannot be read."""
        path = self._predictions(split)
        try:
            with path.open(encoding="utf-8") as lines:
                return [prediction_of(json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            expected = f"its {path.name} cannot be read; {scored_anew(self.folder)}"
            raise UserError("run", str(self.folder), expected) from error

    def write_predictions(self, predictions: Iterable[Prediction], split: str = "test") -> Path:
        """Replace a split's predictions: a line each, with id, source, references, prediction."""
        lines = (json.dumps(plain(each), ensure_ascii=False) + "\n" for each in predictions)
        write_text(self._predictions(split), "".join(lines))
        return self._predictions(split)

    def _predictions(self, split: str) -> Path:
        return self.folder / "predictions" / f"{split}.jsonl"

    def checkpoint(self, choice: str) -> Path:
        """`best`, `last`, a path, or the name of a file in `checkpoints/`.

        Raises `UserError` when there is no such checkpoint, or half of one.
        """
        path = self.checkpoints / f"{choice}.ckpt" if choice in ("best", "last") else Path(choice)
        kind = kind_of(path)
        if kind is None and kind_of(self.checkpoints / choice) is not None:
            path = self.checkpoints / choice
            kind = kind_of(path)
        wrong = None if kind == "folder" else damage(path)  # a folder is a sharded one
        if wrong is not None:
            what = f"there is no {path}" if kind is None else f"{path} cannot be read, {wrong}"
            raise UserError("checkpoint", choice, f"{what}; {self._other_checkpoint(path)}")
        return path

    def _other_checkpoint(self, path: Path) -> str:
        """What to give instead of a checkpoint that is gone or damaged."""
        for choice, other in (("best", self.checkpoints / "best.ckpt"), ("last", self.last)):
            if other != path and damage(other) is None:
                return f"checkpoint={choice} takes the {choice} one"
        if self.status().get("state") == "finished":
            return "the run has no other one: give the path of one, checkpoint=<path>"
        return f"the run has none yet, encdec-train run={self.folder} trains it"

    def best_or_last(self) -> Path:
        """The best checkpoint, or the last one where a run keeps no best; raises `UserError` as `checkpoint`."""
        return self.checkpoint("best" if (self.checkpoints / "best.ckpt").exists() else "last")

    def resumable(self, damage: Callable[[Path], str | None] = damage) -> Path | None:
        """The checkpoint to continue from, if training has written one: the last, if it is whole, else one before.

        `damage` says what is wrong with one. Raises `UserError` when none is whole.
        """
        kind = kind_of(self.last)
        if kind == "folder" or (kind is None and kind_of(self.before_last) is None):  # a folder is a sharded one
            return self.last if kind else None
        for path in (self.last, self.before_last, self.checkpoints / "best.ckpt"):
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


def _read_json(path: Path) -> dict[str, Any]:
    if kind_of(path) is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"{type(content).__name__} is no mapping")
    except (OSError, ValueError, RecursionError) as error:
        expected = f"its {path.name} cannot be read; {scored_anew(path.parent)}"
        raise UserError("run", str(path.parent), expected) from error
    return content
