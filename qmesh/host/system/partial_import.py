"""Parts of a package without all of it.

pyroute2's own `__init__` imports every module that it has: a quarter of the time in which a command of
qmesh starts, and 5 MB in the agent, for network databases and file servers that qmesh has no use for.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _LazyPackage(ModuleType):
    """A package whose `__init__` runs once somebody asks for what is in no module of it."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        if name.startswith("__") or spec is None or spec.loader is None:
            raise AttributeError(name)
        if importlib.util.find_spec(f"{spec.name}.{name}") is not None:
            return importlib.import_module(f"{spec.name}.{name}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader.exec_module(self)
        return getattr(self, name)


def import_lazily(name: str) -> None:
    """Have the modules of that package imported each by itself, from here on. Nothing, where it is loaded."""
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is not None:
        sys.modules[name] = _create_lazy_package(spec)


def _create_lazy_package(spec: ModuleSpec) -> ModuleType:
    shell = importlib.util.module_from_spec(spec)
    shell.__class__ = _LazyPackage
    return shell
