"""Whom this machine refuses by the kernel's check of sources, of those who call it in the mesh."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from qmesh.agent.audit.foreign_firewalls import find_firewall_obstacles
from qmesh.agent.local import Local
from qmesh.host.state.documents import Settings
from qmesh.mesh.state import NodeState, Peer
from qmesh.mesh.values import Endpoint
from tests.support import factories
from tests.support.network import ip, veth

pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.usefixtures("own_machine")]

PUBLIC, LAN = "9.9.9.7", "192.168.7.5"


def find_places(known: tuple[str, ...], caller: str) -> list[str]:
    """What is in the way of the control node, which is called at the addresses `known`."""
    machines = (
        msgspec.structs.replace(
            factories.machine("a", 1), endpoints=tuple(Endpoint(host, 51820) for host in known)
        ),
        factories.machine("b", 2),
    )
    mesh = factories.mesh(*machines)
    settings = Settings(
        mesh=mesh.mesh,
        name="a",
        control=True,
        interface="qmesh0",
        listen_port=51820,
        verification_key=bytes(32),
    )
    peer = Peer(
        public_key=machines[1].public_key, allowed_ips=("10.77.0.2/32",), endpoint=Endpoint(caller, 51820)
    )
    state = NodeState(guard=factories.guard(40000, role="control"), tunnel=factories.tunnel(peer))
    obstacles, unread = find_firewall_obstacles(Local(settings, mesh, {}), state, state, mark=0)
    assert unread == ()
    return [each.place for each in obstacles]


def test_who_is_refused_at_each_known_address_is_named():
    veth("eth0", "198.51.100.5/24")
    veth("uplink", f"{PUBLIC}/24")
    veth("lan", f"{LAN}/24")
    ip("route", "add", "default", "via", "198.51.100.1")
    for name in ("uplink", "lan"):
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("1")

    assert find_places((PUBLIC,), "203.0.113.9") == ["source check, uplink"]
    assert find_places((PUBLIC,), "9.9.9.8") == ["source check, uplink"]  # a stranger, at a public address
    assert find_places((LAN, "198.51.100.5"), "203.0.113.9") == []  # the internet, by way of the LAN
    assert find_places((LAN,), "192.168.7.9") == []
    assert find_places(("quil.example.org", "2001:db8::7"), "203.0.113.9") == []
    ip("rule", "add", "from", PUBLIC, "lookup", "100")
    ip("route", "add", "default", "via", "9.9.9.1", "table", "100")
    assert find_places((PUBLIC,), "203.0.113.9") == []  # a table for each uplink
