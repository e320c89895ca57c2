"""Groups of this machine, which another program may look up over the network."""

from __future__ import annotations

import grp
from pathlib import Path
from typing import Final

from qmesh.errors import BadInput, MachineRefused
from qmesh.host.disk_timeout import run_in_time
from qmesh.mesh.view.questions import OVERFLOW_ID

_SOURCES: Final = Path("/etc/nsswitch.conf")


def find_group_number(name: str) -> int:
    """The number of a group.

    Raises BadInput where there is none of that name, or it is root's or stands for unknown groups;
    MachineRefused where that can't be found out now.
    """
    number = _find_entry(name).gr_gid
    if number == 0:
        raise BadInput(
            f"group {name} is root's own, and may change more than look",
            hint="make a group of your own: `groupadd --system qmesh-readers`",
        )
    if number == OVERFLOW_ID:
        raise BadInput(
            f"group {name} stands for groups that the kernel does not know: anyone may be in it",
            hint="make a group of your own: `groupadd --system qmesh-readers`",
        )
    return number


def list_group_members(name: str) -> tuple[str, ...]:
    """The users that are in a group besides those whose own group it is. Raises as `find_group_number`."""
    return tuple(sorted(_find_entry(name).gr_mem))


def _find_entry(name: str) -> grp.struct_group:
    try:
        return run_in_time(_SOURCES, lambda: grp.getgrnam(name))
    except KeyError:
        raise BadInput(
            f"this machine has no group {name}",
            hint=f"make it with `groupadd --system {name}`, or pass another one;"
            " `qmesh set --readers none` stops answering",
        ) from None
    except (MachineRefused, OSError):
        raise MachineRefused(
            f"this machine does not say who is in group {name}",
            hint=f"see what `getent group {name}` waits for: /etc/nsswitch.conf names where groups come from",
        ) from None
