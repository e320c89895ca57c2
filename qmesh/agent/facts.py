"""What is seen of this machine and around it, before it is decided what the machine should be.

The guard's part is seen at once; the rest may wait for DNS, for a path, or for the control node.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import msgspec

from qmesh.agent.local import Local, list_control_endpoints
from qmesh.host.linux import Linux, Outline
from qmesh.host.network import dns, path_mtu, tcp_probe
from qmesh.host.network.ssh_ports import find_ssh_ports
from qmesh.mesh.desired import Facts
from qmesh.mesh.endpoints import (
    choose_peer_endpoints,
    find_roamed_endpoints,
    find_stale_keys,
    list_lookups,
    list_peer_endpoints,
    list_seen_endpoints,
)
from qmesh.mesh.machine import Machine
from qmesh.mesh.metrics.outlets import find_guarded_metrics_ports
from qmesh.mesh.ports.closed_ports import ClosedPorts, SeenPorts, assign_closed_ports, list_known_ports
from qmesh.mesh.state import Counters, NodeState
from qmesh.mesh.values import NODE_PORTS, Endpoint, InterfaceKind


def gather_guard_facts(
    here: Local, linux: Linux, observed: NodeState, *, kind: InterfaceKind | None = None
) -> Facts:
    """What the guard needs; nothing here waits. kind: of the tunnel, where it can't be asked for.

    Raises MachineRefused.
    """
    return Facts(
        kind=kind or linux.backend.kind,
        observed=observed,
        ports=gather_ports(here, linux) if here.settings.guarded else SeenPorts(),
        retired=here.retired,
    )


def gather_ports(here: Local, linux: Linux) -> SeenPorts:
    """What this machine tells of its ports. Raises MachineRefused."""
    inventory, name = here.inventory, here.settings.name
    of_metrics = find_guarded_metrics_ports(inventory, name, here.settings.metrics)
    known, of_node = list_known_ports(inventory, name) | of_metrics, linux.list_node_ports()
    asked = of_node.union(each.port for each in here.machine.guarded_ports)
    return SeenPorts(
        listened=linux.list_listened_ports(known),
        of_node=of_node,
        of_ssh=find_ssh_ports(NODE_PORTS[inventory.node], with_sessions=asked),
        of_metrics=of_metrics,
    )


def find_closed_ports(here: Local, linux: Linux) -> ClosedPorts:
    """What this machine's guard closes. Raises MachineRefused."""
    settings = here.settings
    seen = gather_ports(here, linux)
    return assign_closed_ports(here.inventory, settings.name, settings.listen_port, seen)


def with_path_mtus(here: Local, linux: Linux, facts: Facts) -> Facts:
    """The same with what the paths to all peers carry.

    Worker machines probe theirs; the control node has many.
    """
    if not here.settings.up:
        return facts
    known = {here.inventory.machine(name).public_key for name in facts.endpoints}
    known.update(each.public_key for each in facts.retired)  # to which nothing is sent but a word
    seen = list_seen_endpoints(facts.observed).items()
    where = [endpoint for key, endpoint in seen if endpoint is not None and key not in known]
    found = path_mtu.find_path_mtus(
        (*facts.endpoints.values(), *where),
        probe=here.machine not in here.inventory.hubs,
        directory=linux.directory,
    )
    return msgspec.structs.replace(facts, path_mtus=found)


def gather_facts(
    here: Local,
    linux: Linux,
    *,
    follow_roaming: bool,
    outline: Outline | None = None,
    guard_facts: Facts | None = None,
) -> Facts:
    """All that the desired state needs. Raises MachineRefused.

    follow_roaming: leave the endpoints of peers alone that shook hands a moment ago. The control
        node always does: where a worker machine says that it is reached is a hint, its packets are proof.
        Other machines first see whether the control node answers.
    outline: as `Linux.observe_with_counters` has it.
    guard_facts: what was gathered for the guard a moment ago.
    """
    observed, counters = linux.observe_with_counters(outline)
    facts = guard_facts or gather_guard_facts(here, linux, observed)
    stale = find_stale_keys(counters, time.time()) if here.settings.control else frozenset()
    resolved = resolve_names(list_lookups(list_peers(here), observed, stale))
    facts = msgspec.structs.replace(facts, observed=observed, resolved=resolved)
    facts = _with_endpoints(here, facts, counters, follow_roaming=follow_roaming)
    return with_path_mtus(here, linux, facts)


def observe_again(here: Local, linux: Linux, facts: Facts, *, follow_roaming: bool) -> Facts:
    """The same after steps were taken: names, paths and listeners are not asked for again."""
    observed, counters = linux.observe_with_counters()
    facts = msgspec.structs.replace(facts, observed=observed)
    return _with_endpoints(here, facts, counters, follow_roaming=follow_roaming)


def _with_endpoints(
    here: Local, facts: Facts, counters: Mapping[str, Counters], *, follow_roaming: bool
) -> Facts:
    """The same with where each peer is to be reached. It asks the control node where peers have moved."""
    is_control, now = here.settings.control, time.time()
    stale = find_stale_keys(counters, now) if is_control else frozenset()
    endpoints = choose_peer_endpoints(list_peers(here), facts.observed, facts.resolved, stale)
    moved = find_roamed_endpoints(here.inventory, counters, endpoints, now)
    if moved and (follow_roaming or is_control or _can_reach_control(here)):
        endpoints |= moved
    return msgspec.structs.replace(facts, endpoints=endpoints)


def _can_reach_control(here: Local) -> bool:
    """Whether the control node is where WireGuard sends to now: it may be behind NAT, and have called us.

    By its service, or, where its agent does not run, by an echo, which may be filtered.
    """
    address = here.inventory.control_node.address
    place = address, here.inventory.service_port
    return (
        place in tcp_probe.measure_connect_times([place], wait_s=1.0)
        or path_mtu.measure_echo_time(address, 100, wait_s=1.0, tries=1) is not None
    )


def gather_peer_facts(here: Local, facts: Facts) -> Facts:
    """The same with where peers are to be reached, those left where they are that are anywhere."""
    peers = list_peers(here)
    resolved = resolve_names(list_lookups(peers, facts.observed))
    endpoints = choose_peer_endpoints(peers, facts.observed, resolved)
    return msgspec.structs.replace(facts, resolved=resolved, endpoints=endpoints)


def list_peers(here: Local) -> list[tuple[Machine, tuple[Endpoint, ...]]]:
    """The machines that this one knows how to reach, each with its endpoints, best first."""
    return list_peer_endpoints(here.inventory, here.settings.name, list_control_endpoints(here))


def resolve_names(
    wanted: Iterable[tuple[tuple[Endpoint, ...], bool]],
) -> dict[Endpoint, tuple[Endpoint, ...]]:
    """The addresses of these endpoints; as of `list_lookups`. It takes two seconds or so at most.

    What is found later is there at the next look.
    """
    resolved: dict[Endpoint, tuple[Endpoint, ...]] = {}
    until = time.monotonic() + dns.WAIT_S
    for endpoints, all_of_them in wanted:
        for endpoint in endpoints:
            resolved[endpoint] = dns.resolve_cached(endpoint, wait_s=until - time.monotonic())
            if resolved[endpoint] and not all_of_them:
                break
    return resolved
