"""What each machine's config is to say: the tutorial's cluster, by profile and role."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml

from qmesh.errors import BadInput
from qmesh.mesh.inventory import Inventory, guarded_ports, reserved_ports
from qmesh.mesh.machine import Machine
from qmesh.mesh.nodeconfig import build_desired_settings, edit_settings
from qmesh.mesh.values import Endpoint, Profile
from tests.support.factories import TUTORIAL, mesh

A, B, C = TUTORIAL.machines


def cluster(node: Profile, *machines: Machine, **more: Any) -> Inventory:
    ports: dict[str, Any] = (
        {"base_port": 40000} if node in {"1.4", "2.0"} else {"base_port": 32500, "p2p_base_port": 25000}
    )
    return mesh(*machines, node=node, revision=1, **ports, **more)


def config(inventory: Inventory, name: str) -> Any:
    return yaml.safe_load(edit_settings("", build_desired_settings(inventory, name)))


@pytest.mark.parametrize("node", ["1.4", "2.0"])
def test_the_tutorials_list_is_the_same_on_every_machine(node):
    two = cluster(node, A, B)
    entries = [f"/ip4/10.77.0.1/tcp/{port}" for port in (40000, 40001, 40002)]
    entries += [f"/ip4/10.77.0.2/tcp/{port}" for port in (40003, 40004, 40005, 40006)]
    assert config(two, "a") == config(two, "b") == {"engine": {"dataWorkerMultiaddrs": entries}}
    three = cluster(node, A, B, C)
    entries += [f"/ip4/10.77.0.3/tcp/{port}" for port in range(40007, 40017)]
    assert len(entries) == 17
    for name in "abc":
        assert config(three, name) == {"engine": {"dataWorkerMultiaddrs": entries}}


def test_of_2_1_files_differ_where_the_control_process_is_dialled():
    two = cluster("2.1", A, B)
    stream = [f"/ip4/10.77.0.1/tcp/{port}" for port in (32500, 32501, 32502)]
    stream += [f"/ip4/10.77.0.2/tcp/{port}" for port in (32503, 32504, 32505, 32506)]
    engine = {
        "dataWorkerStreamMultiaddrs": stream,
        "dataWorkerP2PMultiaddrs": [f"/ip4/0.0.0.0/tcp/{port}" for port in range(25000, 25007)],
        "enableMasterProxy": False,
    }
    assert config(two, "a") == {"engine": engine, "p2p": {"streamListenMultiaddr": "/ip4/0.0.0.0/tcp/8340"}}
    assert config(two, "b") == {"engine": engine, "p2p": {"streamListenMultiaddr": "/ip4/10.77.0.1/tcp/8340"}}


def test_of_2_1_rust_ports_are_written_out_and_the_open_interface_is_closed():
    written = config(cluster("2.1-rust", A, B), "b")
    assert written["engine"]["dataWorkerBaseStreamPort"] == 32500
    assert written["engine"]["dataWorkerBaseP2PPort"] == 25000
    assert written["listenGrpcMultiaddr"] == "/ip4/127.0.0.1/tcp/8337"


def test_with_a_master_proxy_the_workers_are_in_the_tunnel_only():
    engine = config(cluster("2.1", A, B, master_proxy=True), "b")["engine"]
    assert engine["enableMasterProxy"] is True
    assert engine["dataWorkerP2PMultiaddrs"][3] == "/ip4/10.77.0.2/tcp/25003"


def test_public_streams_are_at_the_endpoints_and_not_closed():
    reached = [
        msgspec.structs.replace(machine, endpoints=(Endpoint("node.example.org", 1), Endpoint(host, 51820)))
        for machine, host in ((A, "192.0.2.1"), (B, "2001:db8::2"))
    ]
    mesh = cluster("2.1", *reached, stream="public")
    entries = config(mesh, "a")["engine"]["dataWorkerStreamMultiaddrs"]
    assert entries[2:4] == ["/ip4/192.0.2.1/tcp/32502", "/ip6/2001:db8::2/tcp/32503"]
    assert guarded_ports(mesh, "b") == ()
    with pytest.raises(BadInput, match="b has no endpoint that is an IP address"):
        cluster("2.1", reached[0], B, stream="public")


def test_ports_that_are_closed_and_ports_that_are_reserved():
    old, new, rust = (cluster(node, A, B) for node in ("2.0", "2.1", "2.1-rust"))
    assert guarded_ports(old, "b") == reserved_ports(old, "b") == (40003, 40004, 40005, 40006)
    assert guarded_ports(new, "b") == (32503, 32504, 32505, 32506)
    assert reserved_ports(new, "b") == (*range(25003, 25007), *range(32503, 32507))
    assert guarded_ports(rust, "a") == (8337, 32500, 32501, 32502)
    # The control process may still run where the control role was before a handover.
    assert guarded_ports(rust, "b") == (8337, *guarded_ports(new, "b"))


def test_an_ipv6_tunnel():
    six = [msgspec.structs.replace(machine, address=f"fd00::{place}") for place, machine in ((1, A), (2, B))]
    mesh = msgspec.structs.replace(cluster("2.1", A, B), network="fd00::/64", machines=tuple(six))
    written = config(mesh, "b")
    assert written["p2p"]["streamListenMultiaddr"] == "/ip6/fd00::1/tcp/8340"
    assert written["engine"]["dataWorkerStreamMultiaddrs"][3] == "/ip6/fd00::2/tcp/32503"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"node": "2.0", "p2p_base_port": 25000}, "do not go together"),
        ({"node": "2.1", "p2p_base_port": None}, "do not go together"),
        ({"node": "2.0", "p2p_base_port": None, "stream": "public"}, "neither public streams"),
        ({"node": "2.0", "p2p_base_port": None, "master_proxy": True}, "neither public streams"),
        ({"p2p_base_port": 32497}, "would meet"),
        ({"p2p_base_port": 65530}, "7 workers do not fit into the ports from 65530"),
        ({"service_port": 8340}, "port 8340 would be both WireGuard's and the control process's"),
        ({"base_port": 8339}, "port 8340 would be both the control process's and a worker's on a"),
        ({"p2p_base_port": 51819}, "port 51820 would be both WireGuard's and a worker's on a"),
    ],
)
def test_what_does_not_go_together_is_refused(more, message):
    with pytest.raises(BadInput, match=message):
        msgspec.structs.replace(cluster("2.1", A, B), **more)


def test_an_unknown_machine_has_no_config():
    with pytest.raises(BadInput, match="no machine is named"):
        build_desired_settings(cluster("2.0", A, B), "x")
