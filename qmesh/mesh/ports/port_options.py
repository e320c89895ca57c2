"""What a user asks for of a machine's ports: closed, for whom, or left open on purpose."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.changes import set_machine_fields
from qmesh.mesh.inventory import Inventory, worker_ports
from qmesh.mesh.machine import GuardedPort, PortSource
from qmesh.mesh.ports.closed_ports import describe_untouched_ports
from qmesh.mesh.values import DEFAULT_LISTEN_PORT, quote_text, validate_port

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
    inventory: Inventory,
    name: str,
    options: PortOptions,
    owners: Mapping[int, str],
    *,
    listen_port: int | None = None,
) -> Inventory:
    """The mesh whose machine `name` has its ports closed, or left open, as asked.

    A port that is closed is not left open any more, and the other way round.
    owners: what else is known of that machine's ports that must stay open, in words.
    listen_port: its WireGuard's, where that is known for certain.
    Raises BadInput for a port that others have to reach, or that is a worker's.
    """
    if both := set(options.closed or ()).intersection(options.left_open or ()):
        raise BadInput(
            f"port {min(both)} would be both closed and left open",
            hint="give it to --guard-port or to --leave-open, not to both",
        )
    listen_ports = _list_listen_ports(inventory, name, listen_port)
    for port in options.closed or ():
        _refuse_public_port(inventory, name, port, listen_ports, owners)
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


def _list_listen_ports(inventory: Inventory, name: str, listen_port: int | None) -> set[int]:
    """WireGuard's ports as far as that is known: without any word, the one that it has by itself."""
    told = {end.port for end in inventory.machine(name).endpoints}
    if listen_port is not None:
        told.add(listen_port)
    return told or {DEFAULT_LISTEN_PORT}


def _refuse_public_port(
    inventory: Inventory, name: str, port: int, listen_ports: Collection[int], owners: Mapping[int, str]
) -> None:
    known = {**describe_untouched_ports(inventory, name, listen_ports), **owners}
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
