"""Where metrics may be served: on loopback, or at this machine's own address in the tunnel."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.inventory import Inventory, worker_ports
from qmesh.mesh.ports.closed_ports import list_p2p_ports
from qmesh.mesh.values import (
    CONTROL_PORTS,
    NODE_PORTS,
    PUBLIC_PORTS,
    SSH_PORT,
    Endpoint,
    quote_text,
)

DEFAULT_PORT: Final = 9586
"""That the known exporter of WireGuard has; what is documented, and no default of the program."""
FILE: Final = "qmesh.prom"
"""The name of the file for node_exporter."""
DEFAULT_DIRECTORY: Final = "/var/lib/prometheus/node-exporter"
"""Where Debian's node_exporter looks for such files."""
_PLACE: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[0-9.]+):(?P<port>[0-9]{1,5})")


def parse_metrics_address(text: str) -> Endpoint:
    """An IP address and a port, such as `127.0.0.1:9586` or `[::1]:9586`. Raises BadInput."""
    found = _PLACE.fullmatch(text)
    if found is None:
        raise BadInput(
            f"{quote_text(text)} is not an IP address with a port",
            hint=f"write it as 127.0.0.1:{DEFAULT_PORT}, or [::1]:{DEFAULT_PORT}",
        )
    return Endpoint.parse(text)


def is_loopback(place: Endpoint) -> bool:
    """Whether nobody but this machine reaches it."""
    return ipaddress.ip_address(place.host).is_loopback


def refuse_metrics_address(
    inventory: Inventory, name: str, place: Endpoint, owners: Mapping[int, str]
) -> None:
    """Raise BadInput where metrics of machine `name` must not, or can't, be served there.

    owners: ports of this machine that are known to be somebody's, in words.
    """
    own = inventory.machine(name).address
    if not is_loopback(place) and place.host != own:
        raise BadInput(
            f"metrics are served on loopback or in the tunnel only, and {place.host} is neither",
            hint=f"use 127.0.0.1:{place.port}, or this machine's address in the tunnel,"
            f" {Endpoint(own, place.port)}",
        )
    node = inventory.node
    known = {
        **dict.fromkeys(list_p2p_ports(inventory), "where other provers reach the node's workers"),
        **dict.fromkeys((*PUBLIC_PORTS[node], *CONTROL_PORTS[node], *NODE_PORTS[node]), "the node's own"),
        **dict.fromkeys(worker_ports(inventory, name), "a worker's"),
        inventory.service_port: "where members reach qmesh on the control node",
        SSH_PORT: "SSH's",
        **owners,
    }
    if place.port in known:
        raise BadInput(
            f"port {place.port} cannot serve metrics: it is {known[place.port]}",
            hint=f"choose another port, such as {DEFAULT_PORT}",
        )
    shared = {each.port for each in inventory.machine(name).guarded_ports if each.source == "mesh"}
    if place.port in shared and not is_loopback(place):
        raise BadInput(
            f"port {place.port} is open to every member, and metrics are for the control node",
            hint=f"choose another port, such as {DEFAULT_PORT}",
        )


def find_guarded_metrics_ports(inventory: Inventory, name: str, place: Endpoint | None) -> frozenset[int]:
    """The port that the guard of machine `name` is to leave to the control node, for metrics.

    None on loopback; nor where the mesh has changed, and that port is somebody's now who needs it otherwise.
    """
    if place is None or is_loopback(place):
        return frozenset()
    try:
        refuse_metrics_address(inventory, name, place, {})
    except BadInput:
        return frozenset()
    return frozenset((place.port,))


def is_wanted_host(said: str, place: Endpoint) -> bool:
    """Whether a request's Host names the place: a web page of elsewhere that is led here by DNS does not."""
    host = said.strip().lower()
    names = {place.host, f"[{place.host}]"} | ({"localhost"} if is_loopback(place) else set())
    name, _, port = host.rpartition(":")
    return host in names or (name in names and port.isascii() and port.isdecimal())


def may_read_metrics(peer: str, place: Endpoint, hubs: tuple[str, ...]) -> bool:
    """Whether who calls from that address may have them. hubs: addresses of control nodes.

    The guard says the same by its rules, but for users of the machine itself; and there may be none. Where
    the kernel routes packets for loopback (route_localnet), a neighbour's arrive at an address of it.
    """
    return ipaddress.ip_address(peer).is_loopback if is_loopback(place) else peer in hubs
