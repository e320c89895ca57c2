"""The guard, read back from what nft lists."""

from __future__ import annotations

import re

from qmesh.errors import QmeshError
from qmesh.mesh.guard.render import FORMAT, render_held_table, render_table
from qmesh.mesh.guard.script_text import normalize_listing, render_unload_script
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.guard.tables import HELD
from qmesh.mesh.ports.port_ranges import parse_port_ranges
from qmesh.mesh.state import AlteredGuard, Guard
from qmesh.mesh.values import Lack, normalize_ip_address

_ANY_FORMAT = re.compile(r'comment "qmesh guard \d+: ')
_HEADER = re.compile(
    rf'comment "{FORMAT}: (?P<role>control|worker) (?P<interface>\S+) (?P<kind>wireguard|tun)'
    r" (?P<listen_port>\d{1,5}) (?P<control_address>[0-9a-f.:]+) (?P<service_port>\d{1,5})"
    r'(?: (?P<stream_port>\d{1,5}))?"'
)
_SETS = re.compile(r"set (?P<name>\w+)_ports \{[^}]*elements = \{ (?P<ports>[0-9, -]+) \}")
_INTERVAL = re.compile(r"th dport (?P<ports>[0-9]+-[0-9]+) meta l4proto \{ tcp, udp \} goto closed_port")
"""Of `arrived_at`, as of each interval there."""
_SUCCESSOR = re.compile(r"goto asks_service tcp dport \d+ ip6? daddr (?P<address>\S+) goto asks_service")
"""Not in the header: two long addresses are more than nft takes for a comment."""
_HOLDER = re.compile(rf"\A(table inet {HELD} {{) # progname [^\n]*")


def parse_table(listing: str) -> Guard | AlteredGuard:
    """Read back what `nft -s list table inet qmesh` printed."""
    guard = _parse_parameters(listing)
    return (
        guard
        if guard is not None and normalize_listing(render_table(guard)) == normalize_listing(listing)
        else AlteredGuard(listing)
    )


def parse_load_script(script: str) -> Guard | AlteredGuard:
    """Read back what `render_load_script` wrote."""
    return parse_table(script.removeprefix(render_unload_script()))


def parse_held_table(listing: str) -> Guard | AlteredGuard:
    """Read back what `nft -s list table inet qmesh-held` printed, whichever process holds it."""
    guard = _parse_parameters(listing)
    nobodys = _HOLDER.sub(r"\1", listing)
    is_whole = guard is not None and normalize_listing(render_held_table(guard)) == normalize_listing(nobodys)
    return guard if guard is not None and is_whole else AlteredGuard(listing)


def parse_table_header(listing: str) -> Guard | None:
    """What either table says of itself, whatever its rules are, and of whichever version of qmesh it is.

    None where that is not understood.
    """
    return _parse_parameters(_ANY_FORMAT.sub(f'comment "{FORMAT}: ', listing))


def parse_other_format(listing: str) -> Guard | None:
    """What the table of another version of qmesh says of itself. Whether it is whole, only that one knows.

    None where it is not understood, and for a table of this version.
    """
    return None if _HEADER.search(listing) else parse_table_header(listing)


def _parse_parameters(listing: str) -> Guard | None:
    header = _HEADER.search(listing)
    if header is None:
        return None
    words = normalize_listing(listing)
    successor = _SUCCESSOR.search(words)
    try:
        sets = {found["name"]: parse_port_ranges(found["ports"]) for found in _SETS.finditer(words)}
        guarded, control, mesh = (sets.get(name, frozenset()) for name in ("guarded", "control", "mesh"))
        closed = sets.get("closed", sets.get("worker", frozenset()))  # the latter until format 2
        closed |= parse_port_ranges(",".join(found["ports"] for found in _INTERVAL.finditer(words)))
        return Guard(
            role="control" if header["role"] == "control" else "worker",
            interface=header["interface"],
            kind="tun" if header["kind"] == "tun" else "wireguard",
            listen_port=int(header["listen_port"]),
            control_address=normalize_ip_address(header["control_address"]),
            service_port=int(header["service_port"]),
            ports=tuple(sorted(closed - guarded)),
            own_ports=tuple(sorted(guarded - control - mesh)),
            control_ports=tuple(sorted(control)),
            mesh_ports=tuple(sorted(mesh)),
            stream_port=int(header["stream_port"]) if header["stream_port"] else None,
            successor_address=normalize_ip_address(successor["address"]) if successor else None,
        )
    except (QmeshError, ValueError):
        return None


def build_observed_guard(
    listing: str | None, held: str | None, boot: str | None
) -> Guard | AlteredGuard | None:
    """The guard of a machine, from the listings of both tables and the file for the next boot.

    It is a Guard where all three are one, None where neither table is there.
    """
    if listing is None:
        if held is None:
            return None
        found = parse_held_table(held)
        return AlteredGuard(held, loaded=found if isinstance(found, Guard) else None, lack="table")
    guard = parse_table(listing)
    if isinstance(guard, AlteredGuard):
        return guard
    lack: Lack | None = None
    if boot != render_load_script(guard):
        lack = "boot file"
    elif held is None or parse_held_table(held) != guard:
        lack = "held table"
    return guard if lack is None else AlteredGuard(listing, loaded=guard, lack=lack)
