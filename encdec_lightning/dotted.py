"""Objects of a user's own by their dotted path, `package.module.Name`."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class NotImported(Exception):
    """There is no object at a dotted path, or its module raises something; the option that names it says so."""

    def __init__(self, module_name: str, module: ModuleType | None, cause: BaseException) -> None:
        super().__init__(module_name, module, cause)
        self.module_name = module_name
        """The path without its last name."""
        self.module = module
        """The module, if it was imported: then it lacks the last name."""
        self.cause = cause
        """What the import raised, which may be anything."""


def imported(path: str) -> Any:
    """The object at a dotted path; raises `NotImported`, whatever the module raises."""
    module_name, _, name = path.rpartition(".")
    module = None
    try:
        module = importlib.import_module(module_name)
        return getattr(module, name)
    except (Exception, SystemExit) as error:
        raise NotImported(module_name, module, error) from error
