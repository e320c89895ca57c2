"""The registry, loaded where it is opened: a worker machine has none, and its processes not its modules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmesh.host.registry import Registry, RegistryImage


def open_registry(path: Path, *, busy_s: float | None = None) -> Registry:
    """As `Registry`, for one that changes it as nobody. busy_s: None for as long as commands wait."""
    from qmesh.host import registry  # noqa: PLC0415 - see above

    return registry.Registry(path) if busy_s is None else registry.Registry(path, busy_s=busy_s)


def open_registry_image(octets: bytes) -> RegistryImage:
    """As `RegistryImage`, for what changes it as nobody."""
    from qmesh.host import registry  # noqa: PLC0415 - see above

    return registry.RegistryImage(octets)


def write_registry(path: Path, octets: bytes) -> None:
    """As `image.write_registry`."""
    from qmesh.host.registry import image  # noqa: PLC0415 - see above

    image.write_registry(path, octets)
