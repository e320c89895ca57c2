"""The kernel's list of ports that it gives to no outgoing connection. Source: ip-sysctl.

It imports next to nothing, for the process that holds the guard: that one brings the list back at boot.
"""

from __future__ import annotations

import os

from qmesh.host.lean.json_field import find_field, parse_numbers
from qmesh.mesh.ports.port_ranges import format_port_ranges, parse_port_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

SYSCTL: Final = "/proc/sys/net/ipv4/ip_local_reserved_ports"
EPHEMERAL: Final = "/proc/sys/net/ipv4/ip_local_port_range"
REMEMBERED: Final = "reserved-ports.json"
"""The file in the state directory that tells which of them are there because of qmesh."""
_MOST_OCTETS: Final = 6 * 65536
"""That the list can have: five digits and a comma for each port."""


def read_reserved_list() -> str:
    """The list as the kernel writes it: `22,40000-40002`. Raises OSError."""
    with open(SYSCTL, "rb", buffering=0) as file:
        # The kernel answers the first read only, and as far as that has room.
        return (file.read(_MOST_OCTETS) or b"").decode("ascii").strip()


def read_ports() -> frozenset[int]:
    """The ports that are reserved. Raises OSError, and ValueError for what is no such list."""
    return parse_port_ranges(read_reserved_list())


def restore_ports(directory: str | os.PathLike[str]) -> None:
    """Reserve what qmesh had reserved before the machine was started; what others have set stays.

    directory: the state directory. A file that is missing or damaged is fixed by the agent, and
    nothing here raises: that the guard is held does not depend on it.
    """
    ours = read_own_ports(directory)
    try:
        if not read_ports().issuperset(ours):
            lists = read_reserved_list(), format_port_ranges(sorted(ours), ",")
            with open(SYSCTL, "w", encoding="ascii") as file:
                file.write(",".join(filter(None, lists)) + "\n")
    except (OSError, ValueError):
        pass


def read_own_ports(directory: str | os.PathLike[str]) -> frozenset[int]:
    """The ports that are qmesh's by its file in the state directory; none where that does not tell."""
    try:
        with open(f"{os.fspath(directory)}/{REMEMBERED}", "rb") as file:
            found = parse_numbers(find_field(file.read(), "ours"))
    except OSError:
        return frozenset()
    return frozenset(port for port in found if 0 < port < 65536)
