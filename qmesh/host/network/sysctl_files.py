"""What the machine's own files say of the kernel's list of reserved ports. Source: sysctl.d(5)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qmesh.mesh.ports.port_ranges import parse_port_ranges

DIRECTORIES: Final = tuple(
    Path(each) for each in ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d")
)
FILE: Final = Path("/etc/sysctl.conf")
_MOST_OCTETS: Final = 1 << 20
_LINE: Final = re.compile(r"\s*-?\s*net[./]ipv4[./]ip_local_reserved_ports\s*=\s*(.*?)\s*", re.ASCII)


def read_configured_ports() -> frozenset[int]:
    """The ports that any of these files has reserved: those are the administrator's, whoever was first.

    What cannot be read, or is not understood, reserves nothing.
    """
    found: frozenset[int] = frozenset()
    for path in _list_files():
        for said in _read_lists(path):
            with contextlib.suppress(ValueError):
                found |= parse_port_ranges(said)
    return found


def _list_files() -> Iterator[Path]:
    yield FILE
    for directory in DIRECTORIES:
        with contextlib.suppress(OSError):
            yield from (path for path in directory.iterdir() if path.suffix == ".conf")


def _read_lists(path: Path) -> Iterator[str]:
    try:
        if not path.is_file():
            return
        with path.open("rb") as file:
            text = file.read(_MOST_OCTETS).decode("ascii", "replace")
    except OSError:
        return
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            yield match[1]
