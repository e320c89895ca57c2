"""Where the file for node_exporter belongs."""

from __future__ import annotations

from pathlib import Path

from qmesh.host.metrics.public_file import is_directory
from qmesh.host.state.documents import Settings
from qmesh.mesh.metrics.outlets import DEFAULT_DIRECTORY


def find_metrics_directory(settings: Settings) -> Path | None:
    """The directory; None where there should be no such file."""
    if settings.metrics_directory is not None:
        return Path(settings.metrics_directory) if settings.metrics_directory else None
    default = Path(DEFAULT_DIRECTORY)
    return default if is_directory(default) else None
