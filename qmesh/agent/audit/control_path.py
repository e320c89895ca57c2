"""What packets the path to the control node carries, as `check` tries it through the tunnel."""

from __future__ import annotations

from pathlib import Path

from qmesh.agent.local import Local
from qmesh.host.network import path_mtu
from qmesh.mesh.audit.surroundings import BlackHole, NarrowPath
from qmesh.mesh.mtu import LEAST_MTU, LEAST_MTU_IPV4, compute_room
from qmesh.mesh.state import NodeState, Tunnel
from qmesh.mesh.values import Endpoint


def find_black_hole(here: Local, desired: NodeState, observed: NodeState) -> BlackHole | None:
    """A path to the control node that lets small packets through, and swallows those that fill the tunnel.

    An exchange of TCP decides: lost echoes may only be limited. Not looked for with another MTU than desired:
    what is lost of packets of another size says nothing of the path.
    """
    control, tunnel = here.inventory.control_node, observed.tunnel
    if here.settings.control or tunnel is None or not tunnel.up or _has_other_mtu(desired, tunnel):
        return None
    from qmesh.host.api.packet_probe import find_lost_packets  # noqa: PLC0415 - a control node has no use for it

    least = LEAST_MTU if ":" in control.address else LEAST_MTU_IPV4
    lost = find_lost_packets(control.address, here.inventory.service_port, most=tunnel.mtu, least=least)
    if lost is None:
        return None
    by = _find_endpoint_in_use(here, tunnel)
    return BlackHole(control.name, str(by), tunnel.mtu, lost.passes, lost.direction)


def find_narrow_path(
    here: Local, desired: NodeState, observed: NodeState, directory: Path
) -> NarrowPath | None:
    """The path to the control node, where the tunnel's packets do not fit it once WireGuard has wrapped them.

    Not on the control node: it does not know which MTU a member has.
    directory: where what routers said is kept.
    """
    tunnel = observed.tunnel
    if here.settings.control or tunnel is None or _has_other_mtu(desired, tunnel):
        return None
    endpoint = _find_endpoint_in_use(here, tunnel)
    if endpoint is None:
        return None
    path = path_mtu.find_path_mtus([endpoint], probe=False, directory=directory).get(endpoint)
    fits = path is None or tunnel.mtu <= compute_room(endpoint, path)
    return None if path is None or fits else NarrowPath(endpoint, path)


def _has_other_mtu(desired: NodeState, tunnel: Tunnel) -> bool:
    return desired.tunnel is None or desired.tunnel.mtu != tunnel.mtu


def _find_endpoint_in_use(here: Local, tunnel: Tunnel) -> Endpoint | None:
    key = here.inventory.control_node.public_key
    return next((peer.endpoint for peer in tunnel.peers if peer.public_key == key), None)
