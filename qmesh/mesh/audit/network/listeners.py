"""Workers that listen where they should not, or do not; and other programs that anyone reaches."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from qmesh.errors import BadInput
from qmesh.mesh import nodeconfig
from qmesh.mesh.audit.findings import APPLY, RENDER, Finding, error_finding, warning_finding
from qmesh.mesh.audit.network.guard import find_loaded_guard
from qmesh.mesh.audit.network.links import away_worker_findings, list_quiet_machines
from qmesh.mesh.audit.node.config import own_tunnel_address, parse_worker_entries
from qmesh.mesh.audit.node.silence import advise_on_silence, describe_silence_with_failures
from qmesh.mesh.audit.surroundings import AuditContext
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.state import Guard, NodeState
from qmesh.mesh.systemd.instructions import NodeHost, describe_workers_action


def listener_findings(desired: NodeState, observed: NodeState, around: AuditContext) -> Iterator[Finding]:
    """Workers that listen where they should not. A port counts as a worker's when the list says so."""
    mine = own_tunnel_address(desired)
    own = desired.guard.ports if isinstance(desired.guard, Guard) else ()
    ports = {*own, *_list_configured_ports(around, mine)}
    loaded = find_loaded_guard(observed)
    guarded = () if loaded is None else loaded.closed_ports
    taken = {(each.address, each.port) for each in ([] if around.node is None else around.node.taken)}
    for address, port in around.listeners:
        if port not in ports or ipaddress.ip_address(address).is_loopback:
            continue
        where = f"{_bracket_ipv6(address)}:{port}"
        if port not in guarded:
            cure = APPLY if port in own else f"{RENDER}, then restart the worker"
            yield error_finding(
                "worker-exposed", where, "a port that the guard closes", "open to everyone", cure
            )
        if address != mine and (address, port) not in taken:  # which is another node's
            restart = (
                "restart the worker; if it stays so, run `qmesh render-config --diff` and fix config.yml"
            )
            yield warning_finding(
                "worker-wide", where, f"a worker on {mine} only", _describe_listen_address(address), restart
            )


def open_port_findings(desired: NodeState, observed: NodeState, around: AuditContext) -> Iterator[Finding]:
    """Ports of programs other than workers at which anyone reaches this machine, each port once."""
    wanted = desired.guard if isinstance(desired.guard, Guard) else None
    guard = find_loaded_guard(observed)
    loaded = () if guard is None else guard.closed_ports
    beyond = {port for address, port in around.listeners if not ipaddress.ip_address(address).is_loopback}
    for port in sorted(
        beyond.intersection(() if wanted is None else wanted.guarded_ports).difference(loaded)
    ):
        seen = f"open to everyone; {_describe_program(around, port)} listens there"
        yield error_finding("port-exposed", str(port), "a port that the guard closes", seen)
    known = around.ports
    for port in sorted(known.of_ssh.union(known.untouched).intersection(known.asked)):
        yield warning_finding(
            "port-not-guarded",
            str(port),
            "a port that the guard closes, as `qmesh set --guard-port` says",
            "SSH is served there, or systemd listens there; it stays open, or you could not log in any more"
            if port in known.of_ssh
            else f"it stays open: it is {known.untouched[port]}",
            f"on the control node: `qmesh set {_own_name(around)} --leave-open {port}`; or move that program",
        )
    for port in known.left_open:
        yield _left_open_finding(around, port)
    of_workers = {*_list_configured_ports(around, own_tunnel_address(desired))}
    closed = {*loaded, *(() if wanted is None else wanted.closed_ports), *of_workers}
    for port in sorted(
        _list_wide_ports(around) - closed - known.untouched.keys() - known.of_ssh - {*known.left_open}
    ):
        yield warning_finding(
            "port-wide",
            str(port),
            "a port that the guard closes, or that is said to be open on purpose",
            f"{_describe_program(around, port)} listens on every address, and anyone reaches it",
            f"on the control node: `qmesh set {_own_name(around)} --guard-port {port}`; or, if it should be"
            f" open, with `--leave-open {port}`",
        )


def _left_open_finding(around: AuditContext, port: int) -> Finding:
    listens = any(port == other for _, other in around.listeners)
    seen = f"{_describe_program(around, port)} listens there" if listens else "nothing listens there now"
    return Finding(
        "port-wide",
        "info",
        str(port),
        "open, as `qmesh set --leave-open` says",
        seen,
        f"to close it, on the control node: `qmesh set {_own_name(around)} --guard-port {port}`",
    )


def _list_wide_ports(around: AuditContext) -> set[int]:
    return {port for address, port in around.listeners if ipaddress.ip_address(address).is_unspecified}


def _describe_program(around: AuditContext, port: int) -> str:
    return around.ports.programs.get(port) or "an unknown program"


def _own_name(around: AuditContext) -> str:
    return around.names.get(around.public_key, "NAME")


def silent_worker_findings(around: AuditContext) -> Iterator[Finding]:
    """Workers that do not answer, once the node's file has them: before that, none should run."""
    if parse_worker_entries(around) != around.workers:
        return
    quiet = list_quiet_machines(around).difference(
        each.machine for each in around.silent if each.why == "down"
    )
    yield from away_worker_findings(around, [each for each in around.silent if each.machine in quiet])
    for each in around.silent:
        if each.machine in quiet:
            continue
        is_other = each.machine != around.names[around.public_key]
        host = NodeHost(has_units=around.host.has_units, is_other=True) if is_other else around.host
        restart = describe_workers_action("restart", each.cores, host, are_all=each.are_all)
        seen = describe_silence_with_failures(around, each, is_other=is_other)
        cure = advise_on_silence(around, each, restart=restart, is_other=is_other)
        where = f"{each.machine} core {format_port_ranges(each.cores)}"
        yield warning_finding("worker-silent", where, f"a worker at {each.address}", seen, cure)


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
