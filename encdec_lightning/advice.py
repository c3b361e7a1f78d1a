"""What to do about a run's folder, as the end of a sentence; it depends on the command that made the run."""

from __future__ import annotations

import json
from pathlib import Path

import yaml


def goes_on(folder: Path) -> str:
    """How an interrupted run goes on."""
    if _is_training(folder):
        if _is_finished(folder):
            return f"that one is finished, and init_from={folder} begins a new run with its weights"
        return f"encdec-train run={folder} continues it"
    return f"the command that made it, given again with folder={folder}, goes on"


def scored_anew(folder: Path) -> str:
    """How predictions or metrics that cannot be read are had again."""
    if _is_training(folder):
        return f"encdec-evaluate run={folder} writes it anew"
    return f"delete the folder, and give the command that made it again, with folder={folder}"


def _is_finished(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "status.json").read_text(encoding="utf-8")).get("state") == "finished")
    except (OSError, ValueError, RecursionError, AttributeError):
        return False


def _is_training(folder: Path) -> bool:
    """Whether the run was trained here, rather than a checkpoint from elsewhere scored; also where nobody can know."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        return "checkpoint" not in config["model"]
    except (OSError, yaml.YAMLError, ValueError, RecursionError, LookupError, TypeError):
        return True
