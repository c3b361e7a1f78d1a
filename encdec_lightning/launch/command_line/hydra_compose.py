"""Checked overrides in, composed values out: the one place where Hydra composes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encdec_lightning.composition.local_checkpoints import kept, local_or_hub
from encdec_lightning.config import defaults
from encdec_lightning.errors import UserError, UserErrors
from encdec_lightning.launch.command_line.hydra_errors import restated
from encdec_lightning.launch.command_line.presets import ROOT, conf_folder
from encdec_lightning.launch.command_line.reading import quoted


def register_defaults() -> None:
    """Let Hydra know `Config`'s own defaults, as plain values, so that every option can be overridden, and the
    resolvers by which presets name a checkpoint in the cache folder, or prefer its copy there.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("local_or_hub", local_or_hub, replace=True)
    OmegaConf.register_new_resolver("kept", kept, replace=True)
    store = ConfigStore.instance()
    if "defaults.yaml" not in store.repo:
        store.store(name="defaults", node=defaults())


def search_path(config_dirs: Sequence[Path]) -> list[str]:
    """The override that lets Hydra look into the users' own folders."""
    folders = ",".join(quoted(f"file://{folder.resolve()}") for folder in config_dirs)
    return [f"hydra.searchpath=[{folders}]"] if config_dirs else []


def compose_raw(overrides: Sequence[str], config_dirs: Sequence[Path], with_hydra: bool = False) -> Any:
    """What Hydra makes of checked overrides, with its own node if that is wanted; raises `UserErrors`.

    Interpolations of Hydra's own values, such as `${hydra:runtime.choices.variant}`, find them in either case.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict
    from yaml import MarkedYAMLError

    register_defaults()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        try:
            composed = compose(ROOT, overrides=[*overrides, *search_path(config_dirs)], return_hydra_config=True)
        except MarkedYAMLError as error:
            mark = error.problem_mark
            problem = f": {error.problem}" if error.problem else ""
            where = (mark.name, f" (line {mark.line + 1}{problem})") if mark else ("", "")
            raise UserErrors([UserError("preset", where[0], f"it is not YAML{where[1]}")]) from None
        except RecursionError:
            raise UserErrors([UserError("preset", ", ".join(overrides), "one of them includes itself")]) from None
        except Exception as error:  # whatever Hydra says: nothing of this project runs inside it
            raise UserErrors([restated(error)]) from None
    HydraConfig.instance().set_config(composed)
    if not with_hydra:
        with open_dict(composed):
            del composed["hydra"]
    return composed
