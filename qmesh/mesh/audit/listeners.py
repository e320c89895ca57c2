"""Workers that listen where they should not, or do not."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from qmesh.errors import BadInput
from qmesh.mesh import nodeconfig
from qmesh.mesh.audit.config import entries, own_address
from qmesh.mesh.audit.findings import APPLY, RENDER, Finding, error, warning
from qmesh.mesh.audit.surroundings import Surroundings
from qmesh.mesh.model import Guard, NodeState, ranges_text
from qmesh.mesh.units import restart_command


def listener_findings(desired: NodeState, observed: NodeState, around: Surroundings) -> Iterator[Finding]:
    """Workers that listen where they should not. A port counts as a worker's when the list says so."""
    mine = own_address(desired)
    own = desired.guard.ports if isinstance(desired.guard, Guard) else ()
    ports = {*own, *_ports_listed(around, mine)}
    guarded = () if observed.loaded_guard is None else observed.loaded_guard.ports
    for address, port in around.listeners:
        if port not in ports or ipaddress.ip_address(address).is_loopback:
            continue
        where = f"{_bracketed(address)}:{port}"
        if port not in guarded:
            cure = APPLY if port in own else f"{RENDER}, and restart the worker"
            yield error("worker-exposed", where, "a port that the guard closes", "open to everyone", cure)
        if address != mine:
            restart = "restart the worker as config.yml has it; `qmesh render-config --diff` shows that"
            yield warning("worker-wide", where, f"a worker on {mine} only", _wide(address), restart)


def silence_findings(around: Surroundings) -> Iterator[Finding]:
    """Workers that nobody answers for, once the node's file has them: before, none is to be there."""
    if entries(around) != around.workers:
        return
    for each in around.silent:
        cure = f"on {each.machine}: {restart_command(each.cores, are_all=each.are_all)}"
        where = f"{each.machine} core {ranges_text(each.cores)}"
        yield warning("worker-silent", where, f"a worker at {each.address}", "nobody answers", cure)


def _ports_listed(around: Surroundings, mine: str) -> Iterator[int]:
    """The ports of the config's entries that this machine's workers would listen on."""
    for entry in entries(around) or ():
        try:
            address, port = nodeconfig.listen_address(entry)
        except BadInput:
            continue
        if address == mine or ipaddress.ip_address(address).is_unspecified:
            yield port


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _wide(address: str) -> str:
    everywhere = ipaddress.ip_address(address).is_unspecified
    return "it listens on every address" if everywhere else f"it listens on {address}"
