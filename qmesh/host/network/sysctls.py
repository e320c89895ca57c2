"""The kernel's network settings, read. None is changed here: see `qmesh.mesh.sysctls`."""

from __future__ import annotations

from pathlib import Path

from qmesh.errors import KernelRefused
from qmesh.mesh.sysctls import FORWARDING, MOST_TRACKED, PER_INTERFACE, TRACKED

SYSCTLS = Path("/proc/sys")


def read_interface_settings(*, except_interfaces: frozenset[str]) -> dict[str, dict[str, int]]:
    """What each setting of PER_INTERFACE is, by interface. Raises KernelRefused when it cannot look."""
    try:
        places = [place for place in (SYSCTLS / "net/ipv4/conf").iterdir() if place.name != "default"]
    except OSError as error:
        raise _build_read_error(SYSCTLS, error) from None
    found: dict[str, dict[str, int]] = {name: {} for name in PER_INTERFACE}
    for place in places:
        if place.name not in except_interfaces:
            for name in PER_INTERFACE:
                value = _read_value(place / name)
                if value is not None:
                    found[name][place.name] = value
    return found


def read_source_check(interface: str) -> int:
    """How strictly the sources of packets of IPv4 are checked that come by an interface: 0 to 2.

    Raises KernelRefused alike.
    """
    places = (SYSCTLS / "net/ipv4/conf" / place / "rp_filter" for place in ("all", interface))
    return max(_read_value(place) or 0 for place in places)


def read_forwarding() -> dict[str, int]:
    """What each setting of FORWARDING is; those that this kernel has. Raises KernelRefused alike."""
    values = ((name, _read_value(SYSCTLS / name.replace(".", "/"))) for name in FORWARDING)
    return {name: value for name, value in values if value is not None}


def read_tracking() -> tuple[int | None, int | None]:
    """How many connections the kernel tracks, and how many at most; None where it tracks none.

    Raises KernelRefused alike.
    """
    count, most = (_read_value(SYSCTLS / name.replace(".", "/")) for name in (TRACKED, MOST_TRACKED))
    return count, most


def _read_value(path: Path) -> int | None:
    """None where there is none: an interface may go between two looks."""
    try:
        return int(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _build_read_error(path, error) from None


def _build_read_error(path: Path, error: Exception) -> KernelRefused:
    return KernelRefused(f"{path} cannot be read: {error}", hint="mount /proc: `mount -t proc proc /proc`")
