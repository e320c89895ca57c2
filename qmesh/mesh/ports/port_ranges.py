"""Ports as ranges, as people, nftables and the kernel write them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def list_port_ranges(ports: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Ascending ports as first-to-last ranges: `(1, 2, 3, 7)` gives `((1, 3), (7, 7))`."""
    ranges: list[tuple[int, int]] = []
    for port in ports:
        if ranges and ranges[-1][1] == port - 1:
            ranges[-1] = (ranges[-1][0], port)
        else:
            ranges.append((port, port))
    return tuple(ranges)


def format_port_ranges(ports: Iterable[int], separator: str = ", ") -> str:
    """Ascending ports as people and nftables write them: `40000-40002, 40007`."""
    return separator.join(
        str(first) if first == last else f"{first}-{last}" for first, last in list_port_ranges(ports)
    )


def parse_port_ranges(text: str) -> frozenset[int]:
    """The ports of `22,40000-40002`, as the kernel and nftables write them. Raises ValueError."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        ports = range(int(first), int(last or first) + 1)
        if ports.stop > 65536:
            raise ValueError("a list of ports has one that is none")
        found.update(ports)
    return frozenset(found)
