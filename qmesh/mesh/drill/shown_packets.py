"""Packets that `qmesh prove` shows, as shots: the kernel judges whether they get through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from qmesh.mesh.drill.rows import DrillRow, Wanted
from qmesh.mesh.drill.shots import ACK, FIN, RST, SYN, Shot
from qmesh.mesh.prover.claim_codes import ClaimCode
from qmesh.mesh.prover.claims.claim_list import CLAIMS
from qmesh.mesh.prover.examples import ExamplePacket

SIDE: Final = "what `qmesh prove` shows"
_FLAGS: Final = {"SYN": SYN, "ACK": ACK, "RST": RST, "FIN": FIN}
_WANTED: Final[dict[ClaimCode, Wanted]] = {
    "control": "through", "answers": "through", "wireguard": "as without", "others": "as without",
}  # fmt: skip
"""Where it is not `blocked`."""


def build_shown_rows(
    shown: Iterable[tuple[ClaimCode, ExamplePacket]],
) -> tuple[tuple[DrillRow, ...], tuple[str, ...]]:
    """A row for each packet that breaks a claim; and why others can't be fired."""
    rows, unfired = [], []
    for claim, packet in shown:
        obstacle = _find_obstacle(packet)
        if obstacle:
            unfired.append(f"{SIDE}, against: {CLAIMS[claim]}: not fired, as {obstacle}")
            continue
        shot = _build_shot(packet)
        row = DrillRow(
            side=SIDE,
            what=f"against: {CLAIMS[claim]}",
            wanted=_WANTED.get(claim, "blocked"),
            shots=(shot,),
        )
        if packet.state != "new":
            first, answer = _list_before(packet, shot)
            asks_back = packet.came_by and "an answer" in packet.state and shot.flags == SYN
            if asks_back and not packet.goes_by:
                row = replace(row, openers=(first,))
            else:  # what asked from a container goes into the tunnel before the guard is there, if at all
                row = replace(row, before=(first,) if asks_back else (first, answer))
        rows.append(row)
    return tuple(rows), tuple(unfired)


def _find_obstacle(packet: ExamplePacket) -> str:
    """Why a packet can't be fired; empty where it can."""
    if packet.protocol not in {"tcp", "udp"}:
        return f"it is of protocol {packet.protocol}"
    if packet.state.partition(",")[0] not in {"new", "established"}:
        return f"its connection is {packet.state}"
    if not packet.came_by and packet.user is None:
        return "no socket sends it"
    if " (dummy)" in f"{packet.came_by} {packet.goes_by}":
        return "an interface of another kind has the tunnel's name"
    if packet.came_by and packet.came_by == packet.goes_by:
        return "it leaves by where it came, which no drill sees"
    return ""


def _build_shot(packet: ExamplePacket) -> Shot:
    return Shot(
        way=_find_way(packet.came_by),
        source=packet.source,
        target=packet.target,
        protocol="tcp" if packet.protocol == "tcp" else "udp",
        source_port=packet.source_port,
        target_port=packet.target_port,
        flags=sum(_FLAGS[each] for each in packet.flags),
        user=packet.user or 0,
    )


def _find_way(interface: str) -> str | None:
    """By its description. What comes by loopback a program of the machine sends."""
    name = interface.partition(" ")[0]
    return None if name in {"", "lo"} else name


def _list_before(packet: ExamplePacket, shot: Shot) -> tuple[Shot, ...]:
    """What has the kernel know its connection: the first packet, and an answer to it."""
    back = replace(
        shot,
        way=_find_way(packet.goes_by),
        source=shot.target,
        target=shot.source,
        source_port=shot.target_port,
        target_port=shot.source_port,
    )
    first, answer = (back, shot) if "an answer" in packet.state else (shot, back)
    is_tcp = shot.protocol == "tcp"
    return replace(first, flags=SYN if is_tcp else 0), replace(answer, flags=SYN | ACK if is_tcp else 0)
