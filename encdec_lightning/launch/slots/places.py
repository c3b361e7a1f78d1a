"""Where callbacks, loggers and a profiler may write: inside the run's folder, wherever their arguments point."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from encdec_lightning.config import Config, Node
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.launch.slots.build import build

FOLDERS = frozenset(
    {"dirpath", "save_dir", "dir", "root_dir", "default_root_dir", "log_dir", "logdir", "logging_dir", "output_dir"}
    | {"offline_directory", "save_path", "out_dir", "exclude_batches_path"}
)
"""Arguments that name a folder to write into, of Lightning's classes and their kin."""
NAMES = frozenset(
    {"filename", "name", "version", "prefix", "sub_dir", "id", "project", "group", "run_name", "run_id"}
    | {"experiment_name", "experiment_key", "dump_stats_filename", "tracking_uri", "artifact_location"}
)
"""Arguments that become a part of a path below such a folder."""
SLOTS = ("callbacks", "logger", "trainer")


def leaving(config: Config) -> list[UserError]:
    """What of the open slots would be written outside the run's folder."""
    return [problem for slot in SLOTS for problem in _leaving(slot, getattr(config, slot))]


def build_inside(folder: Path, field: str, node: Node, base: type, **extra: Any) -> Any:
    """The object of a slot's node, as `build` makes it; folders that it writes into lie in the run's.

    Raises `UserErrors` where one does not.
    """
    found = _leaving(field, node)
    if found:
        raise UserErrors(found)
    return build(field, _placed(node, folder), base, **extra)


def _leaving(field: str, value: Any) -> list[UserError]:
    if isinstance(value, list):
        return [problem for number, each in enumerate(value) for problem in _leaving(f"{field}.{number}", each)]
    if not isinstance(value, dict):
        return []
    found: list[UserError] = []
    for name, each in value.items():
        if isinstance(each, str) and name in FOLDERS | NAMES and _leaves(each):
            expected = "it must be a place inside the run's folder, given relative to it"
            if name in NAMES:
                expected = "it must be a name or a path below the run's folder"
            found.append(UserError(f"{field}.{name}", each, expected))
        found += _leaving(f"{field}.{name}", each)
    return found


def _leaves(text: str) -> bool:
    """Whether a relative path leads out of its folder, or is none."""
    path = PurePath(text)
    return path.is_absolute() or ".." in path.parts or text.startswith(("~", "file:")) or "\0" in text


def _placed(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_placed(each, folder) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: str(folder / each) if name in FOLDERS and isinstance(each, str) else _placed(each, folder)
        for name, each in value.items()
    }
