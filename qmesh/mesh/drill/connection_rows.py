"""What comes on connections: older than the guard, or begun by this machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

import msgspec

from qmesh.mesh.drill.rows import DrillRow, make_row
from qmesh.mesh.drill.shots import ACK, PUSH, SYN, Shot
from qmesh.mesh.drill.target import is_link_local
from qmesh.mesh.drill.volleys import BEGINNINGS, Volleys, turn_round

_OLDER: Final = 1024
"""A source port of the connections that are older than the guard."""


def make_older_row(fire: Volleys, way: str) -> DrillRow:
    """A stranger's connection from before the guard, which goes on."""
    before, shots = [], []
    for version in (4, 6):
        own, stranger = fire.target.list_own(way, version), fire.target.find_neighbour(way, version)
        for port, (protocol, flags) in itertools.product(fire.closed, BEGINNINGS if own else ()):
            opener = Shot(
                way=way,
                source=stranger,
                target=own[0],
                protocol=protocol,
                source_port=_OLDER,
                target_port=port,
                flags=flags,
            )
            before.append(opener)
            if not flags:  # of UDP it is an answer that makes the connection an established one
                before.append(turn_round(opener, flags=0))
            shots.append(msgspec.structs.replace(opener, flags=flags and ACK | PUSH))
    what = "on connections that are older than the guard"
    return DrillRow(side=way, what=what, wanted="blocked", shots=tuple(shots), before=tuple(before))


def list_reply_rows(fire: Volleys, way: str) -> Iterator[DrillRow]:
    """The machine's own connections from a closed port's number, and what can be made of them."""
    openers, replies, asked, cut_in = [], [], [], []
    for version in (4, 6):
        # From a link-local address nothing can be sent to a stranger, which would have no reply.
        own = [each for each in fire.target.list_own(way, version) if not is_link_local(each)]
        stranger = fire.target.find_neighbour(way, version)
        for port, (protocol, flags) in itertools.product(fire.closed, BEGINNINGS if own else ()):
            opener = Shot(
                way=None,
                source=own[0],
                target=stranger,
                protocol=protocol,
                source_port=port,
                target_port=fire.take_port(),
                flags=flags,
            )
            openers.append(opener)
            replies.append(turn_round(opener, way=way, flags=flags and SYN | ACK))
            if flags:
                asked.append(turn_round(opener, way=way, flags=SYN))
                other = fire.take_port()
                cut_in.append(msgspec.structs.replace(opener, target_port=other, flags=ACK | PUSH))
    yield make_row(way, "from closed ports' numbers outward", "as without", openers)
    yield make_row(way, "replies to those", "as without", replies, openers=openers)
    yield make_row(way, "from closed ports outward, in the middle of no connection", "blocked", cut_in)
    yield make_row(way, "who was asked so, asks back", "blocked", asked, openers=openers)
