"""Parts of a package without all of it.

pyroute2's own `__init__` imports every module that it has, network databases and file servers among them:
20 to 30 of the 250 ms in which a command is loaded, and 4 to 5 MB in each process (measured, Python 3.11).
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def import_lazily(name: str) -> None:
    """Have the modules of that package imported each by itself, from here on. Nothing, where it is loaded."""
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is not None:
        sys.modules[name] = _create_lazy_package(spec)


def _create_lazy_package(spec: ModuleSpec) -> ModuleType:
    """A package whose `__init__` runs once somebody asks for what is in no module of it."""
    package = importlib.util.module_from_spec(spec)

    def load_attribute(name: str) -> Any:
        if name.startswith("__") or spec.loader is None:
            raise AttributeError(name)
        if importlib.util.find_spec(f"{spec.name}.{name}") is not None:
            return importlib.import_module(f"{spec.name}.{name}")
        del package.__getattr__
        spec.loader.exec_module(package)
        return getattr(package, name)

    package.__getattr__ = load_attribute  # type: ignore[method-assign]
    return package
