"""Whether the node's network can call the workers: what is announced of them, and options that prevent it."""

from __future__ import annotations

from collections.abc import Iterator

from qmesh.errors import BadInput
from qmesh.mesh import nodeconfig
from qmesh.mesh.audit.findings import Finding, error_finding, warning_finding
from qmesh.mesh.audit.surroundings import AuditContext
from qmesh.mesh.endpoints import is_private
from qmesh.mesh.reachability.announcements import MissingAnnouncement, find_announced_host
from qmesh.mesh.reachability.public_host import explain_private_host
from qmesh.mesh.state import NodeState
from qmesh.mesh.values import Endpoint, name_cores


def announcement_findings(observed: NodeState, around: AuditContext) -> Iterator[Finding]:
    """Options of the mesh with which the node's program does no work, and machines without an address."""
    for each in around.unsupported:
        wanted = f"an option that node {around.profile} supports"
        yield error_finding("node-unsupported", each.option, wanted, each.reason, each.hint)
    for missing in around.missing_announcements:
        yield _missing_finding(missing, observed, around)


def _missing_finding(missing: MissingAnnouncement, observed: NodeState, around: AuditContext) -> Finding:
    name = missing.machine
    wanted = "an address at which the network reaches its workers"
    kept = _find_host_in_config(missing, around)
    where = "" if around.is_control else f"on {around.control}: "
    if kept is not None:
        seen = f"{missing.reason}; config.yml has {kept}, which is wrong as soon as cores are renumbered"
        return warning_finding(
            "announce-missing", name, wanted, seen, f"{where}qmesh set {name} --announce {kept}"
        )
    cores = name_cores(missing.cores)
    what = f"no other node can call {cores}" if missing.cores else "no other node can ask for data"
    guess = _find_seen_host(missing, observed, around)
    cure = f"{where}qmesh set {name} --announce {guess or 'ADDRESS'}"
    if guess is not None and guess == missing.neighbour:
        cure += (
            f"; as {name} and {around.control} meet in a private network, its router has to forward"
            f" {name}'s ports: `qmesh status --ports`"
        )
    return error_finding("announce-missing", name, wanted, f"{missing.reason}: {what}", cure)


def _find_host_in_config(missing: MissingAnnouncement, around: AuditContext) -> str | None:
    """The address that the file's owner wrote there, which is kept as long as the mesh knows none."""
    key = nodeconfig.profile_facts(around.profile).announced_p2p_key
    if key is None or not missing.cores or around.config is None or around.config.text is None:
        return None
    try:
        (held,) = nodeconfig.read_settings(around.config.parse(), [(key, True)])
    except BadInput:  # that is a finding of the file
        return None
    return find_announced_host(held, missing.cores) if isinstance(held, tuple) else None


def _find_seen_host(missing: MissingAnnouncement, observed: NodeState, around: AuditContext) -> str | None:
    """A public address at which the machine is, as far as can be seen here.

    It is the control node's where the two meet at a private address: then they are behind one router.
    """
    own = around.names.get(around.public_key)
    is_own = missing.machine == own
    met = _list_peer_endpoints(around.control if is_own else missing.machine, observed, around)
    hosts = around.own_addresses if is_own else [each.host for each in met]
    public = next((host for host in hosts if explain_private_host(host) is None), None)
    return public or (missing.neighbour if any(map(is_private, met)) else None)


def _list_peer_endpoints(name: str, observed: NodeState, around: AuditContext) -> list[Endpoint]:
    """Where WireGuard here sends to a machine."""
    return [
        peer.endpoint
        for peer in (() if observed.tunnel is None else observed.tunnel.peers)
        if around.names.get(peer.public_key) == name and peer.endpoint is not None
    ]
