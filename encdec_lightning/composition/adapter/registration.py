"""Tell transformers of language models with cross-attention as soon as somebody imports it, and not before.

`import encdec_lightning` alone must load nothing that is slow, so that `--help` is answered at once.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

AWAITED = "transformers.models.auto.configuration_auto"
CONFIG = "encdec_lightning.composition.cross_attending"
"""The module that, when it is imported, registers its config with what is awaited."""


def register_when_imported() -> None:
    """Register now if transformers' table of configs is there, else once it is."""
    if AWAITED in sys.modules:
        importlib.import_module(CONFIG)
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


class _Waiting(MetaPathFinder):
    """Finds the awaited module where others find it, once, and lets it be loaded by `_Registering`."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != AWAITED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(Loader):
    """Loads as another loader does, then imports the config."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        importlib.import_module(CONFIG)
