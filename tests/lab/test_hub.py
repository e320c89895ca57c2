"""A stranger on the control node's LAN sends to the workers by way of the control node, which forwards.

What comes out of the tunnel then came out of the tunnel, and from the control node's address: only the
control node's own guard can tell.
"""

from __future__ import annotations

import pytest

from tests.lab.mesh import ADDRESSES, CONTROL6, Mesh, ip, nft
from tests.lab.ways import forged, to_each

pytestmark = pytest.mark.lab

MASQUERADE = "table inet theirs { chain c { type nat hook postrouting priority srcnat; masquerade; }; }\n"


@pytest.fixture
def by_the_hub(mesh: Mesh):
    """The attacker's way to the worker's tunnel addresses is the control node's."""
    address, address6 = ADDRESSES["worker"]
    for via in (mesh.control, mesh.worker):
        ip(
            mesh.attacker,
            f"route replace {address} via {via.ipv4}",
            f"route replace {address6} via {via.ipv6}",
        )
        if via is mesh.control:
            yield mesh


def test_g1_a_hub_that_masquerades_everything_lends_nobody_its_address(by_the_hub):
    mesh = by_the_hub
    nft(mesh.control, MASQUERADE)
    mesh.assert_guarded(
        "control",
        lambda port: to_each("by the hub", mesh.at["attacker"], ["10.77.0.2"], port),
        other_port=None,
    )


@pytest.mark.parametrize("address", ADDRESSES["worker"])
def test_g1_a_hub_does_not_forward_what_bears_its_own_address(by_the_hub, address):
    mesh = by_the_hub
    if ":" in address:
        mesh.guard("worker", control_address=CONTROL6)
    mesh.assert_guarded("control", lambda port: forged(mesh.at["attacker"], [address], port), other_port=None)


def test_g1_nobody_behind_a_worker_machine_speaks_in_its_name_through_the_tunnel(by_the_hub):
    """By a worker machine that forwards and masquerades, nobody talks to the control node in its name."""
    mesh = by_the_hub
    nft(mesh.worker, MASQUERADE)
    nft(mesh.control, "delete table inet qmesh\n")
    mesh.assert_guarded(
        "worker",
        lambda port: to_each("by a member", mesh.at["container-a"], ["10.77.0.1"], port),
        other_port=None,
    )
