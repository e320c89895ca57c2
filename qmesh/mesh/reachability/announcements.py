"""Where the node's network is told to find each worker: what the announce lists of node 2.1 hold.

The program takes, for each core, the announced address or else the one at which the worker listens. That one
is a wildcard or a tunnel address, which nobody else can call: so both lists are always full, and hold no
address of that kind. The program of Go takes them only where both are as long as there are workers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.endpoints import is_private
from qmesh.mesh.inventory import WILDCARD, Inventory, list_p2p_listeners, list_workers
from qmesh.mesh.networks import parse_ip_network
from qmesh.mesh.reachability.public_host import explain_private_host
from qmesh.mesh.values import P2P_PORT, STREAM_PORT, parse_ip_address

UNKNOWN_HOST: Final = "unknown.invalid"
"""Stands for the address of a machine of which none is known: no resolver ever finds it. Source: RFC 6761."""

_ANNOUNCED = re.compile(r"/(?:ip4|ip6|dns4|dns6|dns)/(?P<host>[A-Za-z0-9.:-]+)(?P<port>/(?:tcp|udp)/[^ ]+)")

HostSource: TypeAlias = Literal["announce", "endpoint", "control node", "unknown"]
"""How it is known where the network reaches a machine: it was said; it has such an endpoint; or it is in the
control node's own network, and reached at that one's address, which has to forward ports."""


class PublicHost(msgspec.Struct, frozen=True):
    """Where the network reaches a machine. host: None where the source is `unknown`."""

    host: str | None
    source: HostSource


_UNKNOWN: Final = PublicHost(None, "unknown")


def find_public_host(inventory: Inventory, name: str) -> PublicHost:
    """Where the network reaches machine `name`.

    What was said of it comes first; then the first of its endpoints that the network reaches, those of IPv6
    last, as the node's own listeners are of IPv4. A machine with no endpoints but private ones is where the
    control node reaches it without the internet: in that one's network, behind the same address translation.
    """
    machine = inventory.machine(name)
    if machine.announce is not None:
        return PublicHost(machine.announce, "announce")
    hosts = [each.host for each in machine.endpoints]
    public = sorted((host for host in hosts if explain_private_host(host) is None), key=is_ipv6)
    if public:
        return PublicHost(public[0], "endpoint")
    if hosts and name != inventory.control and all(map(is_private, machine.endpoints)):
        control = find_public_host(inventory, inventory.control)
        return control if control.host is None else PublicHost(control.host, "control node")
    return _UNKNOWN


def find_stream_host(inventory: Inventory) -> str | None:
    """Where the network reaches the control process's stream port; None where that is not known.

    That of 2.1-rust listens on IPv4 addresses only.
    """
    host = find_public_host(inventory, inventory.control).host
    return None if host is not None and inventory.node == "2.1-rust" and is_ipv6(host) else host


def list_p2p_entries(inventory: Inventory) -> Iterator[str]:
    """For each core, in order, the multiaddr at which its worker listens for other provers.

    On every address of its machine: of IPv6 where the network is told to use that, else of IPv4.
    """
    hosts = find_public_hosts(inventory)
    for worker in list_p2p_listeners(inventory):
        host = hosts[worker.machine].host
        is_six = worker.address == WILDCARD and host is not None and is_ipv6(host)
        yield f"/ip6/::/tcp/{worker.port}" if is_six else worker.multiaddr


def lacks_stream_host(inventory: Inventory) -> bool:
    """Whether the network should be told of the control process's stream port, and is not."""
    return inventory.p2p_base_port is not None and find_stream_host(inventory) is None


def find_public_hosts(inventory: Inventory) -> Mapping[str, PublicHost]:
    """The same of each machine that has workers, by name, in core order."""
    return {name: find_public_host(inventory, name) for name in inventory.cores}


def is_ipv6(host: str) -> bool:
    """Whether a host is an IPv6 address."""
    return ":" in host


def list_announced_p2p(inventory: Inventory) -> Iterator[str]:
    """For each core, in order, the multiaddr at which other provers are told to call its worker.

    With a master proxy that is the control process, which passes it on.
    """
    if inventory.master_proxy:
        control = find_public_host(inventory, inventory.control).host
        proxy = f"{_render_host(control)}/udp/{P2P_PORT}/quic-v1"
        yield from (proxy for _ in list_p2p_listeners(inventory))
        return
    hosts = find_public_hosts(inventory)
    for worker in list_p2p_listeners(inventory):
        yield f"{_render_host(hosts[worker.machine].host)}/tcp/{worker.port}"


def list_announced_streams(inventory: Inventory) -> Iterator[str]:
    """For each core, in order, the multiaddr at which other nodes are told to ask for its data.

    That is the control process; with public streams the worker itself.
    """
    if inventory.stream == "tunnel":
        control = f"{_render_host(find_stream_host(inventory))}/tcp/{STREAM_PORT}"
        yield from (control for _ in list_workers(inventory))
        return
    for worker in list_workers(inventory):
        host = inventory.machine(worker.machine).announce or worker.address
        yield f"{_render_host(host)}/tcp/{worker.port}"


def _render_host(host: str | None) -> str:
    """A host as a multiaddr begins. Source: multiformats/multiaddr."""
    if host is None:
        return f"/dns4/{UNKNOWN_HOST}"
    if parse_ip_address(host) is None:
        return f"/dns4/{host}"
    return f"/ip6/{host}" if is_ipv6(host) else f"/ip4/{host}"


def is_unknown_entry(entry: str) -> bool:
    """Whether an announced multiaddr stands for an address that is not known."""
    return entry.startswith(f"/dns4/{UNKNOWN_HOST}/")


def is_known_entry(unknown: str, entry: str) -> bool:
    """Whether a multiaddr is one that the network can call, with the protocol and port of an unknown one."""
    parts = _ANNOUNCED.fullmatch(entry)
    if parts is None or not is_unknown_entry(unknown):
        return False
    port = unknown.removeprefix(f"/dns4/{UNKNOWN_HOST}")
    return parts["port"] == port and explain_private_host(parts["host"]) is None


def refuse_announcement(inventory: Inventory, name: str, host: str) -> None:
    """Raise BadInput where a machine cannot be announced at a host of the internet."""
    address = parse_ip_address(host)
    if address is not None and address in parse_ip_network(inventory.network):
        raise BadInput(
            f"{host} cannot be announced: it is an address of the tunnel network {inventory.network}",
            hint="pass the address at which machines elsewhere reach this one",
        )
    if inventory.node == "2.1-rust" and name == inventory.control and is_ipv6(host):
        raise BadInput(
            f"{name} cannot be announced at {host}: the control process of node 2.1-rust has its port"
            f" {STREAM_PORT} on IPv4 alone",
            hint="pass an IPv4 address, or a DNS name that has one",
        )


def find_hosts_in_use(inventory: Inventory) -> Mapping[str, Collection[str]]:
    """By host, the machines that are announced there of themselves, or whose WireGuard is there."""
    found: dict[str, dict[str, None]] = {}
    for machine in inventory.machines:
        for host in (machine.announce, *(each.host for each in machine.endpoints)):
            if host is not None:
                found.setdefault(host, {})[machine.name] = None
    return found


class MissingAnnouncement(msgspec.Struct, frozen=True):
    """A machine of which no address is known that the network could be told.

    cores: of its workers, which nobody can call; none where that is the control process alone.
    reason: why there is none, as a sentence without its end.
    neighbour: where the network reaches the control node, at which a machine beside it is reached too; None
        where that is not known, or it is the control node.
    """

    machine: str
    cores: tuple[int, ...]
    reason: str
    neighbour: str | None = None


def list_missing_announcements(inventory: Inventory) -> tuple[MissingAnnouncement, ...]:
    """The machines that need an address to announce and have none, in core order; none before node 2.1."""
    return () if inventory.p2p_base_port is None else tuple(_find_missing_announcements(inventory))


def _find_missing_announcements(inventory: Inventory) -> Iterator[MissingAnnouncement]:
    control = inventory.control
    neighbour = find_public_host(inventory, control).host
    for name, found in find_public_hosts(inventory).items():
        if found.host is None and (name == control or not inventory.master_proxy):
            cores = tuple(inventory.core_numbers(name))
            yield MissingAnnouncement(name, cores, "no public address is known", neighbour)
        elif name == control and find_stream_host(inventory) is None:
            reason = f"its control process listens for streams on IPv4 alone, not at {found.host}"
            yield MissingAnnouncement(name, (), reason)


def find_announced_host(entries: Sequence[str], cores: Collection[int]) -> str | None:
    """The host at which a list of announced multiaddrs has all of these cores; None where they differ.

    A private one, or that which stands for an unknown one, is none.
    """
    parts = [_ANNOUNCED.fullmatch(entry) for core in cores for entry in entries[core - 1 : core]]
    found = {None if part is None else part["host"] for part in parts}
    host = found.pop() if len(found) == 1 and len(parts) == len(cores) else None
    return host if host is not None and explain_private_host(host) is None else None
