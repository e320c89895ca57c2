"""What `check` asks of the way to machines of which nothing is heard."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from qmesh.agent.local import Local, list_control_endpoints
from qmesh.errors import MachineRefused
from qmesh.host.network import dns, path_mtu, routes
from qmesh.host.network.kernel_routes.questions import ask_kernel
from qmesh.host.network.kernel_routes.tables import read_routing_tables
from qmesh.host.network.packet_sockets import find_address_conflict
from qmesh.host.system.agent_health import Health
from qmesh.mesh.audit.surroundings import LinkContext, SilentWorkers, TriedEndpoint
from qmesh.mesh.endpoints import list_seen_endpoints, translate_endpoint
from qmesh.mesh.links.activity import LinkReport
from qmesh.mesh.links.address_conflicts import AddressConflict
from qmesh.mesh.routes.discards import DiscardedWay, find_discard
from qmesh.mesh.routes.lookup import SentPacket
from qmesh.mesh.state import NodeState
from qmesh.mesh.values import Endpoint

MOST_TRIED: Final = 8
"""Addresses that are asked for an echo, all at once: some of many stand for all."""
ECHO_S: Final = 1.0
CONFLICT_S: Final = 0.5
"""Seconds in which a machine of the same network answers."""
_SMALL: Final = 100


def build_link_context(
    here: Local, health: Health, silent: Iterable[SilentWorkers], seen: tuple[NodeState, NodeState] | None
) -> LinkContext:
    """What the agent says of the links, and what of the way to silent machines works: a second at most.

    silent: workers that do not answer. seen: the machine, desired and observed.
    Raises MachineRefused where it could not look.
    """
    where = {} if seen is None else list_seen_endpoints(seen[1])
    endpoints = _list_silent_endpoints(here, health.links, where)
    quiet = health.links.unheard_keys
    # Of machines that are not heard it is known already.
    known = {here.settings.name, *(each.name for each in here.inventory.machines if each.public_key in quiet)}
    mute = [each for each in silent if _is_mute(each) and each.machine not in known][:MOST_TRIED]
    hosts = dict.fromkeys(endpoint.host for each in endpoints.values() for endpoint in each)
    echoing = _find_echoing_hosts([*list(hosts)[:MOST_TRIED], *(each.address for each in mute)])
    names = {here.inventory.machine(name).address: name for name in here.inventory.cores}
    return LinkContext(
        report=health.links,
        unasked=tuple(
            (names[address], age_s)
            for address, age_s in health.unasked
            if address in names and names[address] != here.settings.name
        ),
        tried={
            key: tuple(
                _describe_endpoint(endpoint, is_echoed=endpoint.host in echoing)
                for endpoint in each
                if endpoint.host in list(hosts)[:MOST_TRIED]
            )
            for key, each in endpoints.items()
        },
        unreachable=frozenset(each.machine for each in mute if each.address not in echoing),
        listen_port=here.settings.listen_port,
        conflict=_find_conflict(list(hosts)[:MOST_TRIED]),
        discarded=_find_discarded(here, where),
    )


def _find_conflict(hosts: list[str]) -> AddressConflict | None:
    """Of the addresses from which this machine sends to these hosts. Of IPv6 the kernel tells itself."""
    ways = (routes.find_route(host, 1) for host in hosts if ":" not in host)
    asked = dict.fromkeys((way.interface, way.source) for way in ways if way is not None)
    for interface, own in asked:
        with contextlib.suppress(OSError):  # an interface that went away, or takes nothing
            if found := find_address_conflict(interface, own, wait_s=CONFLICT_S):
                return found
    return None


def _find_discarded(here: Local, where: Mapping[str, Endpoint | None]) -> dict[str, DiscardedWay]:
    """Of the machines that this one calls: what still comes from one keeps its link from being silent.

    where: endpoints in use by public key.
    """
    inventory, own = here.inventory, here.machine
    asked = [
        (machine.name, endpoint)
        for machine in (inventory.machines if own in inventory.hubs else inventory.hubs)
        if machine.name != own.name and (endpoint := where.get(machine.public_key)) is not None
    ]
    answers = ask_kernel([SentPacket(endpoint.host) for _, endpoint in asked])
    unsent = [way for way, answer in zip(asked, answers, strict=True) if answer.error]
    discards = {name: _find_endpoint_discard(endpoint) for name, endpoint in unsent[:MOST_TRIED]}
    return {name: discard for name, discard in discards.items() if discard is not None}


def _find_endpoint_discard(endpoint: Endpoint) -> DiscardedWay | None:
    tables = read_routing_tables(str(ipaddress.ip_network(endpoint.host)), except_interface="")
    return None if tables is None else find_discard(endpoint.host, tables)


def _describe_endpoint(endpoint: Endpoint, *, is_echoed: bool) -> TriedEndpoint:
    if routes.find_route(endpoint.host, endpoint.port) is not None:
        return TriedEndpoint(endpoint, has_route=True, is_echoed=is_echoed)
    discard = _find_endpoint_discard(endpoint)
    may_translate = discard is None and ":" not in endpoint.host
    network = dns.find_nat64_network(wait_s=ECHO_S) if may_translate else None
    translated = None if network is None else translate_endpoint(endpoint, network)
    return TriedEndpoint(
        endpoint, has_route=False, is_echoed=is_echoed, translated=translated, discard=discard
    )


def _is_mute(workers: SilentWorkers) -> bool:
    """Whether nothing at all comes of a machine's workers: one that refuses is there."""
    return workers.are_all and workers.why in {"", "dropped"}


def _list_silent_endpoints(
    here: Local, report: LinkReport, where: Mapping[str, Endpoint | None]
) -> dict[str, tuple[Endpoint, ...]]:
    """Where silent machines should be, by public key: the first of them, as many as are asked."""
    known = {each.public_key: each for each in here.inventory.machines}
    found = {}
    for link in report.silent[:MOST_TRIED]:
        machine = known.get(link.public_key)
        if machine is not None:
            endpoints = (
                list_control_endpoints(here) if machine.name == here.inventory.control else machine.endpoints
            )
            found[link.public_key] = tuple(_list_addresses((where.get(link.public_key), *endpoints)))
    return found


def _list_addresses(endpoints: Iterable[Endpoint | None]) -> Iterator[Endpoint]:
    """Those that need no DNS, which may be away as well."""
    for endpoint in dict.fromkeys(endpoints):
        if endpoint is not None and endpoint.is_address:
            yield endpoint


def _find_echoing_hosts(hosts: list[str]) -> frozenset[str]:
    """Those of these addresses that answer a ping."""
    if not hosts:
        return frozenset()
    with ThreadPoolExecutor(len(hosts)) as pool:
        return frozenset(
            host for host, is_there in zip(hosts, pool.map(_is_echoing, hosts), strict=True) if is_there
        )


def _is_echoing(host: str) -> bool:
    try:
        return path_mtu.measure_echo_time(host, _SMALL, wait_s=ECHO_S, tries=1) is not None
    except MachineRefused:  # this kernel has no IPv6, say
        return False
