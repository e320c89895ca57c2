"""Workers that listen where they should not, or do not."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from qmesh.errors import BadInput
from qmesh.mesh import nodeconfig
from qmesh.mesh.audit.config import own_tunnel_address, parse_worker_entries
from qmesh.mesh.audit.findings import APPLY, RENDER, Finding, error_finding, warning_finding
from qmesh.mesh.audit.surroundings import AuditContext
from qmesh.mesh.state import Guard, NodeState
from qmesh.mesh.systemd.instructions import NodeHost, describe_workers_action
from qmesh.mesh.values import format_port_ranges


def listener_findings(desired: NodeState, observed: NodeState, around: AuditContext) -> Iterator[Finding]:
    """Workers that listen where they should not. A port counts as a worker's when the list says so."""
    mine = own_tunnel_address(desired)
    own = desired.guard.ports if isinstance(desired.guard, Guard) else ()
    ports = {*own, *_list_configured_ports(around, mine)}
    guarded = () if observed.loaded_guard is None else observed.loaded_guard.ports
    for address, port in around.listeners:
        if port not in ports or ipaddress.ip_address(address).is_loopback:
            continue
        where = f"{_bracket_ipv6(address)}:{port}"
        if port not in guarded:
            cure = APPLY if port in own else f"{RENDER}, then restart the worker"
            yield error_finding(
                "worker-exposed", where, "a port that the guard closes", "open to everyone", cure
            )
        if address != mine:
            restart = (
                "restart the worker; if it stays so, run `qmesh render-config --diff` and fix config.yml"
            )
            yield warning_finding(
                "worker-wide", where, f"a worker on {mine} only", _describe_listen_address(address), restart
            )


def silent_worker_findings(around: AuditContext) -> Iterator[Finding]:
    """Workers that do not answer, once the node's file has them: before that, none should run."""
    if parse_worker_entries(around) != around.workers:
        return
    for each in around.silent:
        is_other = each.machine != around.names[around.public_key]
        host = NodeHost(has_units=around.host.has_units, is_other=True) if is_other else around.host
        restart = describe_workers_action("restart", each.cores, host, are_all=each.are_all)
        cure = f"on {each.machine}: {restart}"
        where = f"{each.machine} core {format_port_ranges(each.cores)}"
        yield warning_finding("worker-silent", where, f"a worker at {each.address}", "no answer", cure)


def _list_configured_ports(around: AuditContext, mine: str) -> Iterator[int]:
    """The ports of the config's entries that this machine's workers would listen on."""
    for entry in parse_worker_entries(around) or ():
        try:
            address, port = nodeconfig.parse_multiaddr(entry)
        except BadInput:
            continue
        if address == mine or ipaddress.ip_address(address).is_unspecified:
            yield port


def _bracket_ipv6(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _describe_listen_address(address: str) -> str:
    everywhere = ipaddress.ip_address(address).is_unspecified
    return "it listens on every address" if everywhere else f"it listens on {address}"
