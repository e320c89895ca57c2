"""What a user asks for of a machine's ports: closed, for whom, or left open on purpose."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.changes import set_machine_fields
from qmesh.mesh.inventory import Inventory, worker_ports
from qmesh.mesh.machine import GuardedPort, PortSource
from qmesh.mesh.ports.closed_ports import list_p2p_ports
from qmesh.mesh.values import PUBLIC_PORTS, SSH_PORT, quote_text, validate_port

MOST_PORTS: Final = 256
"""That one machine can have closed besides its workers', and as many left open."""


def parse_port_list(text: str) -> tuple[int, ...]:
    """The ports of `9100,5432`, ascending, each once; none of `none`. Raises BadInput."""
    if text == "none":
        return ()
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,5}", word) for word in words):
        raise BadInput(
            f"{quote_text(text)} is not a list of ports", hint="write it as 9100 or 9100,5432; or `none`"
        )
    return tuple(sorted({validate_port(int(word), "the port") for word in words}))


class PortOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for a machine's ports; None asks for nothing, an empty list takes back all of its kind.

    closed: ports that its guard closes but for `source`. left_open: ports that are open on purpose.
    """

    closed: tuple[int, ...] | None = None
    source: PortSource = "none"
    left_open: tuple[int, ...] | None = None


def set_port_options(
    inventory: Inventory, name: str, options: PortOptions, owners: Mapping[int, str]
) -> Inventory:
    """The mesh whose machine `name` has its ports closed, or left open, as asked.

    A port that is closed is not left open any more, and the other way round.
    owners: what is known of that machine's ports that must stay open, in words.
    Raises BadInput for a port that others have to reach, or that is a worker's.
    """
    if both := set(options.closed or ()).intersection(options.left_open or ()):
        raise BadInput(
            f"port {min(both)} would be both closed and left open",
            hint="give it to --guard-port or to --leave-open, not to both",
        )
    for port in options.closed or ():
        _refuse_public_port(inventory, name, port, owners)
    for port in (*(options.closed or ()), *(options.left_open or ())):
        _refuse_worker_port(inventory, name, port)
    machine = inventory.machine(name)
    closed = {each.port: each for each in machine.guarded_ports if options.closed != ()}
    left_open = set(machine.left_open if options.left_open != () else ())
    for port in options.closed or ():
        closed[port] = GuardedPort(port, options.source)
        left_open.discard(port)
    for port in options.left_open or ():
        closed.pop(port, None)
        left_open.add(port)
    for ports in (closed, left_open):
        if len(ports) > MOST_PORTS:
            raise BadInput(
                f"{len(ports)} ports are more than {name} can have closed or left open besides its workers'",
                hint=f"use {MOST_PORTS} at most",
            )
    return set_machine_fields(
        inventory,
        name,
        guarded_ports=tuple(closed[port] for port in sorted(closed)),
        left_open=tuple(sorted(left_open)),
    )


def _refuse_public_port(inventory: Inventory, name: str, port: int, owners: Mapping[int, str]) -> None:
    known = {
        **dict.fromkeys(list_p2p_ports(inventory), "where other provers reach the node's workers"),
        **dict.fromkeys(PUBLIC_PORTS[inventory.node], "where the node's network reaches the control process"),
        inventory.service_port: "where members reach qmesh on the control node",
        SSH_PORT: "SSH's, and you would be locked out",
        **owners,
    }
    if port in known:
        raise BadInput(
            f"port {port} of {name} cannot be closed: it is {known[port]}",
            hint="choose another port; if another program has it, move that program to another port",
        )


def _refuse_worker_port(inventory: Inventory, name: str, port: int) -> None:
    if port in worker_ports(inventory, name):
        raise BadInput(
            f"port {port} of {name} is a worker's, and no option closes or opens it",
            hint="the guard lets only the control node in; `qmesh status` shows each machine's worker ports",
        )
