"""The YAML presets: where they lie, which groups and choices there are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

import encdec_lightning
from encdec_lightning.errors import UserError
from encdec_lightning.files import kind_of

ROOT = "train"  # conf/train.yaml, where composition starts
LARGEST = 1_000_000  # bytes of a YAML file
DEEPEST = 50  # mappings and lists inside each other
MOST_NODES = 100_000  # values, after each alias is replaced by what it stands for
MOST_FILES, MOST_LEVELS = 10_000, 4  # of a folder of presets


def conf_folder() -> Path:
    """The presets' folder: inside an installed package, beside the package in a checkout."""
    package = Path(encdec_lightning.__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def choices(config_dirs: Sequence[Path] = ()) -> dict[str, list[str]]:
    """{group: names of its presets}, those in the users' own folders included; Hydra's own groups are left out.

    A preset in a folder below the group's has that folder in its name, as in `experiment=rothe2020/xsum`.
    """
    found: dict[str, set[str]] = {}
    for folder in (conf_folder(), *config_dirs):
        for file in _files(folder):
            group, _, name = file.relative_to(folder).with_suffix("").as_posix().partition("/")
            if name and group != "hydra":
                found.setdefault(group, set()).add(name)
    return {group: sorted(names) for group, names in sorted(found.items())}


def roles(config_dirs: Sequence[Path] = ()) -> list[str]:
    """The names that sets of checkpoints fill: bert, roberta, gpt2."""
    folders = (conf_folder(), *config_dirs)
    files = [file for folder in folders for file in (folder / "checkpoints").glob("*.yaml")]
    return sorted({str(role) for file in files for role in _read(file)})


def check_presets(config_dirs: Sequence[Path]) -> None:
    """Raise `UserError` for files in the users' own folders that Hydra could not read in a moment, or never reads.

    Of several files of one name Hydra takes the first, the package's before all others.
    """
    first: dict[Path, Path] = {}
    for folder in config_dirs:
        _check_layout(folder)
    for folder in (conf_folder(), *config_dirs) if config_dirs else ():
        for file in _files(folder):
            if folder in config_dirs:
                check_yaml("preset", file)
            before = first.setdefault(file.relative_to(folder), file)
            if before != file and before.read_bytes() != file.read_bytes():
                whose = "the package has" if before.is_relative_to(conf_folder()) else f"{before} is"
                raise UserError("preset", str(file), f"{whose} another preset of this name, give it a name of its own")


def _check_layout(folder: Path) -> None:
    """Raise `UserError` for a group's folder in place of the one above, and for presets that do not end in .yaml."""
    groups = choices()
    if folder.absolute().name in groups and not any((folder / group).is_dir() for group in groups):
        raise UserError("--config-dir", str(folder), "it is the folder of a group; give the one above it")
    for file in sorted(each for group in groups for each in (folder / group).glob("*.yml")):
        raise UserError("preset", str(file), "it is not read: its name must end in .yaml")


def check_yaml(field: str, path: Path) -> None:
    """Raise `UserError` for what is no regular file, no UTF-8, too large, or nested or repeated beyond all sense.

    What is no YAML passes: its reader says more. Nothing is built of the content, so that a small file cannot fill the
    memory.
    """
    if kind_of(path) != "file":
        raise UserError(field, str(path), "it is no regular file")
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise UserError(field, str(path), f"it has {size:,} bytes, and at most {LARGEST:,} are read")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(field, str(path), f"it is no text in UTF-8 (byte {error.start + 1})") from error
    except OSError as error:
        raise UserError(field, str(path), f"it cannot be read ({error.strerror})") from error
    wrong = _excess(text)
    if wrong is not None:
        raise UserError(field, str(path), wrong)


def _excess(text: str) -> str | None:
    """What a YAML text has too much of, or None."""
    open_nodes: list[tuple[str | None, int]] = []  # the anchor of each, and the count of nodes before it
    sizes: dict[str, int] = {}
    nodes = 0
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, nodes))
                nodes += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = open_nodes.pop()
                if anchor is not None:
                    sizes[anchor] = nodes - before
            elif isinstance(event, yaml.ScalarEvent):
                nodes += 1
                if event.anchor is not None:
                    sizes[event.anchor] = 1
            elif isinstance(event, yaml.AliasEvent):
                if any(anchor == event.anchor for anchor, _ in open_nodes):
                    return f"its part &{event.anchor} holds itself"
                nodes += sizes.get(str(event.anchor), 1)
            if len(open_nodes) > DEEPEST:
                return f"it has more than {DEEPEST} mappings or lists inside each other"
            if nodes > MOST_NODES:
                return f"it has more than {MOST_NODES:,} values, its aliases (*) replaced"
    except yaml.YAMLError:
        return None
    return None


def _files(folder: Path) -> Iterator[Path]:
    """The YAML files of a folder and of its groups; raises `UserError` for one that is a part of a disk."""
    seen = 0
    for parent, folders, names in os.walk(folder):
        seen += len(names)
        if seen > MOST_FILES:
            expected = f"it holds more than {MOST_FILES:,} files, give a folder that holds presets alone"
            raise UserError("--config-dir", str(folder), expected)
        if len(Path(parent).relative_to(folder).parts) >= MOST_LEVELS:
            folders.clear()
        yield from (Path(parent, name) for name in names if name.endswith(".yaml"))


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise UserError("preset", str(file), "it is not YAML") from error
    return content if isinstance(content, dict) else {}
