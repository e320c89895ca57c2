"""What each machine's config is to say: the tutorial's cluster, by profile and role."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
import yaml

from qmesh.errors import BadInput
from qmesh.mesh.inventory import Inventory, guarded_ports, reserved_ports
from qmesh.mesh.machine import Machine
from qmesh.mesh.nodeconfig import (
    build_desired_settings,
    build_expected_mesh,
    document,
    edit_settings,
    parse_config,
    read_workers,
    refuse_broken_config,
    refuse_new_config,
    refuse_newer_config,
    render_config,
    render_config_for,
)
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
        ({"p2p_base_port": 32497}, "would overlap"),
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


def test_a_list_of_a_newer_node_is_refused_with_its_place_and_the_way_out():
    text = "engine:\n  dataWorkerStreamMultiaddrs: []\n"
    with pytest.raises(BadInput, match="line 2, column 3: `dataWorkerStreamMultiaddrs` is a list") as refused:
        refuse_broken_config(text, "2.0")
    assert "`qmesh set --node 2.1`" in refused.value.hint


def test_what_the_mesh_s_list_cures_or_the_node_bears_is_not_refused():
    refuse_broken_config("engine:\ndataWorkersMultiaddrs: []\n", "2.0")
    refuse_broken_config("engine:\n  dataWorkerMultiaddrs: [/ip4/0.0.0.0/tcp/1]\n", "1.4")


SECRET = "0badc0de5ec12e7f"
OWN = f"p2p:\n  peerPrivKey: {SECRET}\n"


def test_a_config_is_rendered_with_the_meshs_list_and_its_own_keys():
    two = cluster("2.0", A, B)
    rendered = render_config(two, "b", f"# mine\n{OWN}")
    assert rendered.text.startswith(f"# mine\n{OWN}")
    assert read_workers(rendered, "2.0") == build_expected_mesh(two, "b").workers
    assert render_config(two, "b", rendered).text == rendered.text


def test_without_a_config_the_least_one_is_rendered_and_shows_no_secret():
    assert "<not shown>" in render_config(cluster("2.0", A, B), "b", None).text
    assert "peerPrivKey" not in render_config(cluster("1.4", A, B), "b", None).text


def test_a_config_is_parsed_once_and_again_after_each_edit(monkeypatch):
    parsed: list[str] = []
    parse = document.parse_body

    def note(text: str) -> document.Node | None:
        parsed.append(text)
        return parse(text)

    for module in ("document", "edit"):
        monkeypatch.setattr(f"qmesh.mesh.nodeconfig.{module}.parse_body", note)
    mesh = cluster("2.1", A, B)
    rendered = render_config(mesh, "b", OWN)
    assert len(parsed) == 1 + len(build_desired_settings(mesh, "b"))
    assert parse_config(rendered).root is rendered.root
    render_config(mesh, "b", rendered)
    assert len(parsed) == 1 + len(build_desired_settings(mesh, "b"))


def test_more_workers_than_a_config_is_read_with_are_refused():
    many = cluster(
        "2.0",
        msgspec.structs.replace(A, workers=5000),
        *(msgspec.structs.replace(each, workers=9000) for each in (B, C)),
    )
    with pytest.raises(BadInput, match="would have 23000 values"):
        render_config(many, "b", None)


def test_the_config_for_another_machine_has_the_secrets_of_this_one():
    text = render_config_for(cluster("2.0", A, B), "b", OWN).text
    assert yaml.safe_load(text)["p2p"] == {"peerPrivKey": SECRET}
    assert "p2p" not in yaml.safe_load(render_config_for(cluster("1.4", A, B), "b", None).text)
    for own in (None, "p2p: {}\n"):
        with pytest.raises(BadInput, match=r"needs p2p\.peerPrivKey, and this machine's config.yml has none"):
            render_config_for(cluster("2.0", A, B), "b", own)


@pytest.mark.parametrize(
    ("profile", "found"), [("2.0", None), ("2.0", "1.4"), ("2.1", "2.0"), ("2.1", "2.1-rust")]
)
def test_a_config_of_an_older_node_is_upgraded(profile, found):
    refuse_newer_config(profile, found)


def test_a_config_of_a_newer_node_is_refused():
    with pytest.raises(BadInput, match=r"for node 2\.0, but this config.yml is of node 2\.1"):
        refuse_newer_config("2.0", "2.1")


@pytest.mark.parametrize(
    ("node", "name", "words", "hint"),
    [
        ("1.4", "a", "there is none, and a new one would give the node a new identity", "--config"),
        (
            "2.0",
            "b",
            "there is none, and a worker of node 2.0 needs p2p.peerPrivKey",
            "copy it to DIR here, then",
        ),
        ("2.1", "b", "there is none, and a worker of node 2.1 needs p2p.peerPrivKey and key", "keys.yml"),
    ],
)
def test_no_config_is_made_that_would_be_a_node_without_identity_or_secret(node, name, words, hint):
    with pytest.raises(BadInput, match=re.escape(words)) as refused:
        refuse_new_config(cluster(node, A, B), name, "there is none")
    assert hint in refused.value.hint


def test_a_worker_that_needs_no_secret_can_have_a_new_config():
    refuse_new_config(cluster("1.4", A, B), "b", "there is none")


def test_a_config_is_held_against_the_machines_that_have_cores():
    paused = msgspec.structs.replace(C, state="paused")
    expected = build_expected_mesh(cluster("2.0", A, B, paused), "b")
    assert (expected.own, expected.members) == ("10.77.0.2", {"a": "10.77.0.1", "b": "10.77.0.2"})
    assert len(expected.workers) == 7
