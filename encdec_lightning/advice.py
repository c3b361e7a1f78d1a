"""What to do about a run's folder, as the end of a sentence; it depends on the command that made the run."""

from __future__ import annotations

from pathlib import Path

import yaml


def goes_on(folder: Path) -> str:
    """How an interrupted run goes on."""
    if _is_training(folder):
        return f"encdec-train run={folder} continues it"
    return f"the command that made it, given again with folder={folder}, goes on"


def scored_anew(folder: Path) -> str:
    """How predictions or metrics that cannot be read are had again."""
    if _is_training(folder):
        return f"encdec-evaluate run={folder} writes it anew"
    return f"delete the folder, and give the command that made it again, with folder={folder}"


def _is_training(folder: Path) -> bool:
    """Whether the run was trained here, rather than a checkpoint from elsewhere scored; also where nobody can know."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        return "checkpoint" not in config["model"]
    except (OSError, yaml.YAMLError, ValueError, RecursionError, LookupError, TypeError):
        return True
