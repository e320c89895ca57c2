"""The kernel's list of ports that it gives to no outgoing connection. Source: ip-sysctl.

It imports little, for the process that holds the guard: that one brings the list back at boot.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Final

from qmesh.mesh.values import format_port_ranges, parse_port_ranges

SYSCTL: Final = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
REMEMBERED: Final = "reserved-ports.json"
"""The file in the state directory that tells which of them are there because of qmesh."""
_MOST_OCTETS: Final = 6 * 65536
"""That the list can have: five digits and a comma for each port."""


def read_reserved_list() -> str:
    """The list as the kernel writes it: `22,40000-40002`. Raises OSError."""
    with SYSCTL.open("rb", buffering=0) as file:
        # The kernel answers the first read only, and as far as that has room.
        return file.read(_MOST_OCTETS).decode("ascii").strip()


def read_ports() -> frozenset[int]:
    """The ports that are reserved. Raises OSError, and ValueError for what is no such list."""
    return parse_port_ranges(read_reserved_list())


def restore_ports(directory: Path) -> None:
    """Reserve what qmesh had reserved before the machine was started; what others have set stays.

    directory: the state directory. A file that is missing or damaged is fixed by the agent, and
    nothing here raises: that the guard is held does not depend on it.
    """
    ours = read_own_ports(directory)
    with contextlib.suppress(OSError, ValueError):
        if not read_ports().issuperset(ours):
            SYSCTL.write_text(
                ",".join(filter(None, [read_reserved_list(), format_port_ranges(sorted(ours), ",")])) + "\n",
                encoding="ascii",
            )


def read_own_ports(directory: Path) -> frozenset[int]:
    """The ports that are qmesh's by its file in the state directory; none where that does not tell."""
    try:
        said = json.loads((directory / REMEMBERED).read_bytes())
    except (OSError, ValueError, RecursionError):
        return frozenset()
    ours = said.get("ours") if isinstance(said, dict) else None
    if not isinstance(ours, list):
        return frozenset()
    return frozenset(port for port in ours if type(port) is int and 0 < port < 65536)
