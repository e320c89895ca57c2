"""Lists of reserved ports in the machine's own files: who else wants a port reserved, as far as they tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from qmesh.mesh.ports.port_ranges import parse_port_ranges

SETTING: Final = "net.ipv4.ip_local_reserved_ports"
_LINE: Final = re.compile(rb"\s*-?\s*net[./]ipv4[./]ip_local_reserved_ports\s*=\s*(.*?)\s*")
_COMMENT: Final = re.compile(rb"\s*[#;]")


class ReservedList(msgspec.Struct, frozen=True):
    """A line that sets the kernel's list. ports: None of a script's command, which is not understood."""

    path: str
    line: int
    ports: frozenset[int] | None

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return f"{self.path}, line {self.line}"


class StillReserved(msgspec.Struct, frozen=True):
    """Ports that stay reserved though qmesh has given them back. by: who wants it so, in words."""

    ports: tuple[int, ...]
    by: str


def parse_sysctl_lists(path: str, octets: bytes) -> Iterator[ReservedList]:
    """The lists in a file of sysctl.d. One that the kernel would refuse reserves nothing."""
    for number, line in enumerate(octets.splitlines(), 1):
        if match := _LINE.fullmatch(line):
            try:
                yield ReservedList(path, number, parse_port_ranges(match[1].decode("ascii")))
            except ValueError:
                continue


def find_commands(path: str, octets: bytes) -> Iterator[ReservedList]:
    """Lines of a script, unit or crontab that name the setting."""
    for number, line in enumerate(octets.splitlines(), 1):
        if b"ip_local_reserved_ports" in line and not _COMMENT.match(line):
            yield ReservedList(path, number, None)


def list_overwriting(lists: tuple[ReservedList, ...], missing: Iterable[int]) -> tuple[str, ...]:
    """What may have taken these ports off the list, in words. lists: in the order in which they are set."""
    files = [each for each in lists if each.ports is not None]
    commands = [each for each in lists if each.ports is None]
    found = [each for each in files[-1:] if not (each.ports or set()).issuperset(missing)]
    return (
        *(f"{each.place}, sets a list without it" for each in found),
        *(f"{each.place}, names that list" for each in commands),
    )


def list_still_reserved(left: Iterable[int], lists: tuple[ReservedList, ...]) -> tuple[StillReserved, ...]:
    """Who has these ports reserved. The kernel does not tell who wrote its list: only files may say so."""
    rest, found = set(left), []
    for each in lists:
        if named := rest.intersection(each.ports or ()):
            found.append(StillReserved(tuple(sorted(named)), each.place))
            rest -= named
    if rest:
        commands = [each.place for each in lists if each.ports is None]
        by = (
            f"perhaps {', or '.join(commands)}"
            if commands
            else "another program; no file here names that list"
        )
        found.append(StillReserved(tuple(sorted(rest)), by))
    return tuple(found)
