"""What the machine's own files say of the kernel's list of reserved ports. Source: sysctl.d(5), sysctl(8)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qmesh.host.start_scripts import read_regular_file, read_start_scripts
from qmesh.mesh.ports.reserved_lists import ReservedList, find_commands, parse_sysctl_lists

DIRECTORIES: Final = tuple(
    Path(each) for each in ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d")
)
"""Of files with one name, that of the first of them counts."""
FILE: Final = Path("/etc/sysctl.conf")
_MOST_OCTETS: Final = 1 << 20


def read_configured_ports() -> frozenset[int]:
    """The ports that any file of sysctl.d has reserved: those are the administrator's, whoever was first."""
    return frozenset(port for each in read_sysctl_lists() for port in each.ports or ())


def read_reserved_lists() -> tuple[ReservedList, ...]:
    """The lists of all files: of sysctl.d, in the order in which they are set, then of scripts."""
    commands = (found for path, octets in read_start_scripts() for found in find_commands(path, octets))
    return (*read_sysctl_lists(), *commands)


def read_sysctl_lists() -> Iterator[ReservedList]:
    """Those of sysctl.d, in the order in which they are set. What cannot be read sets nothing."""
    for path in _list_files():
        with contextlib.suppress(OSError):
            yield from parse_sysctl_lists(str(path), read_regular_file(str(path), _MOST_OCTETS))


def _list_files() -> Iterator[Path]:
    """Each once, however many links lead there, as Debian's 99-sysctl.conf does to the last."""
    found: dict[str, Path] = {}
    for directory in DIRECTORIES:
        with contextlib.suppress(OSError):
            for path in directory.iterdir():
                if path.suffix == ".conf":
                    found.setdefault(path.name, path)
    paths: dict[Path, None] = {}
    for path in (*(found[name] for name in sorted(found)), FILE):
        with contextlib.suppress(OSError, RuntimeError):  # links that lead to themselves
            paths[path.resolve()] = None
    return iter(paths)
