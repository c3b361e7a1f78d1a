"""The YAML presets: where they lie, which groups and choices there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

import encdec_lightning
from encdec_lightning.errors import UserError

ROOT = "train"  # conf/train.yaml, where composition starts


def conf_folder() -> Path:
    """The presets' folder: inside an installed package, beside the package in a checkout."""
    package = Path(encdec_lightning.__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def choices(config_dirs: Sequence[Path] = ()) -> dict[str, list[str]]:
    """{group: names of its presets}, those in the users' own folders included."""
    found: dict[str, set[str]] = {}
    for folder in (conf_folder(), *config_dirs):
        for file in folder.rglob("*.yaml"):
            group = file.parent.relative_to(folder).as_posix()
            if group != ".":
                found.setdefault(group, set()).add(file.stem)
    return {group: sorted(names) for group, names in sorted(found.items())}


def roles(config_dirs: Sequence[Path] = ()) -> list[str]:
    """The names that sets of checkpoints fill: bert, roberta, gpt2."""
    folders = (conf_folder(), *config_dirs)
    files = [file for folder in folders for file in (folder / "checkpoints").glob("*.yaml")]
    return sorted({role for file in files for role in _read(file)})


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError("preset", str(file), "it is not YAML") from error
    return content if isinstance(content, dict) else {}
