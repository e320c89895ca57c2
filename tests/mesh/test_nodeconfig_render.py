"""What each machine's config is to say: the tutorial's cluster, by profile and role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import yaml

from qmesh.errors import BadInput
from qmesh.mesh.changes import pause_machine, remove_machine, set_worker_count
from qmesh.mesh.inventory import Inventory, list_p2p_listeners
from qmesh.mesh.machine import Machine
from qmesh.mesh.mesh_options import MeshOptions, set_mesh_options
from qmesh.mesh.nodeconfig import (
    build_desired_settings,
    build_expected_mesh,
    composer,
    edit_settings,
    lint_config,
    parse_config,
    read_workers,
    refuse_broken_config,
    refuse_new_config,
    refuse_newer_config,
    render_config,
    render_config_for,
)
from qmesh.mesh.reachability.public_host import explain_private_host
from qmesh.mesh.values import Endpoint, Profile
from tests.support.config_files import corpus
from tests.support.factories import TUTORIAL, mesh

A, B, C = TUTORIAL.machines
FILES = corpus()


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
        "dataWorkerAnnounceStreamMultiaddrs": ["/dns4/unknown.invalid/tcp/8340"] * 7,
        "dataWorkerAnnounceP2PMultiaddrs": [
            f"/dns4/unknown.invalid/tcp/{port}" for port in range(25000, 25007)
        ],
    }
    assert config(two, "a") == {"engine": engine, "p2p": {"streamListenMultiaddr": "/ip4/0.0.0.0/tcp/8340"}}
    assert config(two, "b") == {"engine": engine, "p2p": {"streamListenMultiaddr": "/ip4/10.77.0.1/tcp/8340"}}


def test_of_2_1_rust_ports_are_written_out_and_the_open_interface_is_closed():
    written = config(cluster("2.1-rust", A, B), "b")
    assert written["engine"]["dataWorkerBaseStreamPort"] == 32500
    assert written["engine"]["dataWorkerBaseP2PPort"] == 25000
    assert written["listenGrpcMultiaddr"] == "/ip4/127.0.0.1/tcp/8337"


def announced(inventory: Inventory, name: str = "a") -> tuple[list[str], list[str]]:
    """What the network is told of each core's worker: where other provers call it, and where it has data."""
    engine = config(inventory, name)["engine"]
    return engine["dataWorkerAnnounceP2PMultiaddrs"], engine["dataWorkerAnnounceStreamMultiaddrs"]


def reached(machine: Machine, *hosts: str, announce: str | None = None) -> Machine:
    """The machine with WireGuard's endpoints at these hosts."""
    endpoints = tuple(Endpoint(host, 51820) for host in hosts)
    return msgspec.structs.replace(machine, endpoints=endpoints, announce=announce)


ON_ITS_LAN = ("192.168.0.200", "203.0.113.5")


@pytest.mark.parametrize("node", ["2.1", "2.1-rust"])
def test_what_is_announced_is_each_machines_address_and_the_control_nodes_stream_port(node):
    mesh = cluster(
        node, reached(A, *ON_ITS_LAN), reached(B, "node.example.org"), reached(C, announce="203.0.113.7")
    )
    for name in "abc":
        p2p, streams = announced(mesh, name)
        assert p2p[:3] == [f"/ip4/203.0.113.5/tcp/{port}" for port in (25000, 25001, 25002)]
        assert p2p[3:7] == [f"/dns4/node.example.org/tcp/{port}" for port in range(25003, 25007)]
        assert p2p[7:] == [f"/ip4/203.0.113.7/tcp/{port}" for port in range(25007, 25017)]
        assert streams == ["/ip4/203.0.113.5/tcp/8340"] * 17


def test_what_was_said_is_announced_before_an_endpoint_and_ipv6_behind_ipv4():
    both = ("2001:db8::7", "198.51.100.7")
    assert announced(cluster("2.1", reached(A, *both)))[0][0] == "/ip4/198.51.100.7/tcp/25000"
    said = cluster("2.1", reached(A, *both, announce="2001:db8::7"), reached(B, "2001:db8::8"))
    p2p, streams = announced(said)
    assert (p2p[2:4], streams[3]) == (
        ["/ip6/2001:db8::7/tcp/25002", "/ip6/2001:db8::8/tcp/25003"],
        "/ip6/2001:db8::7/tcp/8340",
    )
    # Who is called by IPv6 listens there.
    assert config(said, "b")["engine"]["dataWorkerP2PMultiaddrs"][3] == "/ip6/::/tcp/25003"
    # The Rust control process has its stream port on IPv4 alone.
    rust = cluster("2.1-rust", *said.machines)
    assert announced(rust)[0] == p2p
    assert announced(rust)[1][3] == "/dns4/unknown.invalid/tcp/8340"


def test_a_machine_in_the_control_nodes_network_is_announced_at_that_ones_address():
    mesh = cluster("2.1-rust", reached(A, *ON_ITS_LAN), reached(B, "192.168.0.201"), C)
    p2p, _ = announced(mesh)
    assert p2p[3:8] == [
        *(f"/ip4/203.0.113.5/tcp/{port}" for port in range(25003, 25007)),
        "/dns4/unknown.invalid/tcp/25007",
    ]
    # A name that only some resolve tells nothing of where the machine is.
    named = cluster("2.1-rust", reached(A, *ON_ITS_LAN), reached(B, "b", "192.168.0.201"))
    assert announced(named)[0][3] == "/dns4/unknown.invalid/tcp/25003"
    # Where the control node's own is not known, nothing is.
    inner = cluster("2.1-rust", reached(A, "192.168.0.200"), reached(B, "192.168.0.201"))
    assert set(announced(inner)[1]) == {"/dns4/unknown.invalid/tcp/8340"}
    assert announced(inner)[0][3] == "/dns4/unknown.invalid/tcp/25003"


def test_both_announce_lists_keep_step_with_the_workers():
    mesh = cluster(
        "2.1", *(reached(each, announce=f"203.0.113.{at}") for at, each in enumerate((A, B, C), 1))
    )
    for after in (
        pause_machine(mesh, "b"),
        remove_machine(mesh, "b"),
        set_worker_count(mesh, "a", 5),
        set_worker_count(mesh, "c", 1),
        set_mesh_options(mesh, MeshOptions(p2p_base_port=26000)),
    ):
        p2p, streams = announced(after)
        workers = list(list_p2p_listeners(after))
        hosts = {machine.name: machine.announce for machine in after.machines}
        assert len(streams) == len(workers)
        assert p2p == [f"/ip4/{hosts[each.machine]}/tcp/{each.port}" for each in workers]


def test_with_public_streams_the_workers_themselves_are_announced():
    mesh = cluster(
        "2.1", reached(A, "192.0.2.1"), reached(B, "192.0.2.2", announce="b.example.org"), stream="public"
    )
    assert announced(mesh)[1][2:4] == ["/ip4/192.0.2.1/tcp/32502", "/dns4/b.example.org/tcp/32503"]


def test_with_a_master_proxy_the_control_process_is_announced():
    mesh = cluster("2.1", reached(A, "192.0.2.1"), reached(B, "192.0.2.2"), master_proxy=True)
    assert announced(mesh)[0] == ["/ip4/192.0.2.1/udp/8336/quic-v1"] * 7


OWNERS = """\
engine:
  dataWorkerAnnounceP2PMultiaddrs:
  - /ip4/198.51.100.1/tcp/25000 # mine
  - /ip4/0.0.0.0/tcp/25001
  - /dns4/a.example.org/tcp/25002
  - /ip4/198.51.100.2/tcp/25099
"""


def test_what_its_owner_announced_is_kept_while_the_mesh_knows_no_address():
    two = cluster("2.1", A, B)
    kept = yaml.safe_load(render_config(two, "a", OWNERS).text)["engine"]["dataWorkerAnnounceP2PMultiaddrs"]
    assert kept[:5] == [
        "/ip4/198.51.100.1/tcp/25000",
        "/dns4/unknown.invalid/tcp/25001",
        "/dns4/a.example.org/tcp/25002",
        "/dns4/unknown.invalid/tcp/25003",
        "/dns4/unknown.invalid/tcp/25004",
    ]
    known = cluster("2.1", reached(A, "203.0.113.5"), B)
    new = yaml.safe_load(render_config(known, "a", OWNERS).text)["engine"]["dataWorkerAnnounceP2PMultiaddrs"]
    assert new[:3] == [f"/ip4/203.0.113.5/tcp/{port}" for port in (25000, 25001, 25002)]
    longer = OWNERS + "  - /ip4/198.51.100.2/tcp/25004\n" * 9
    assert (
        len(yaml.safe_load(render_config(two, "a", longer).text)["engine"]["dataWorkerAnnounceP2PMultiaddrs"])
        == 7
    )


@pytest.mark.parametrize("name", [name for name in FILES if "thousands" not in name])
def test_no_file_makes_the_node_announce_an_inner_address(name):
    """Of each core the program takes the announced entry: all are there, and the network can call them."""
    mesh = cluster("2.1-rust", reached(A, *ON_ITS_LAN), reached(B, "192.168.0.201"), C)
    try:
        text = render_config(mesh, "b", FILES[name]).text
    except BadInput:  # what is refused is not written
        return
    engine = yaml.safe_load(text)["engine"]
    p2p = engine.get("dataWorkerAnnounceP2PMultiaddrs") or engine["dataWorkerAnnounceP2pMultiaddrs"]
    streams = engine["dataWorkerAnnounceStreamMultiaddrs"]
    assert len(p2p) == len(streams) == 17
    hosts = {entry.split("/")[2] for entry in (*p2p, *streams)} - {"unknown.invalid"}
    assert "203.0.113.5" in hosts
    assert [host for host in hosts if explain_private_host(host)] == []
    assert render_config(mesh, "b", text).text == text


def test_with_a_master_proxy_the_workers_are_in_the_tunnel_only():
    engine = config(cluster("2.1", A, B, master_proxy=True), "b")["engine"]
    assert engine["enableMasterProxy"] is True
    assert engine["dataWorkerP2PMultiaddrs"][3] == "/ip4/10.77.0.2/tcp/25003"


def test_public_streams_are_at_the_endpoints():
    machines = [
        reached(machine, "node.example.org", host) for machine, host in ((A, "192.0.2.1"), (B, "2001:db8::2"))
    ]
    mesh = cluster("2.1", *machines, stream="public")
    entries = config(mesh, "a")["engine"]["dataWorkerStreamMultiaddrs"]
    assert entries[2:4] == ["/ip4/192.0.2.1/tcp/32502", "/ip6/2001:db8::2/tcp/32503"]
    with pytest.raises(BadInput, match="b has no endpoint that is an IP address"):
        cluster("2.1", machines[0], B, stream="public")


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
    parse = composer._parse_events

    def note(text: str) -> Iterator[yaml.Event]:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(composer, "_parse_events", note)
    mesh = cluster("2.1", A, B)
    rendered = render_config(mesh, "b", OWN)
    assert len(parsed) == 1 + len(build_desired_settings(mesh, "b"))
    assert parse_config(rendered).root is rendered.root
    render_config(mesh, "b", rendered)
    assert len(parsed) == 1 + len(build_desired_settings(mesh, "b"))


@pytest.mark.parametrize("more", ["", "db: {}\n"])
def test_writing_removes_the_byte_order_mark_that_node_2_1_rust_does_not_load(more):
    mesh = cluster("2.1-rust", A, B)
    text = render_config(mesh, "b", f"{OWN}{more}").text
    written = render_config(mesh, "b", f"\ufeff{text}")
    assert written.text == text
    assert [each for each in lint_config(written, profile="2.1-rust") if each.refused] == []
    kept = render_config(cluster("2.1", A, B), "b", f"\ufeff{OWN}{more}").text
    assert kept.startswith("\ufeff")


def test_what_the_node_does_not_load_is_not_written():
    with pytest.raises(BadInput, match="line 2, column 6: `d` has to be a whole number"):
        render_config(cluster("2.1-rust", A, B), "b", "p2p:\n  d: '1'\n")


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
            "run `qmesh set b --node-files on` on a, then `qmesh node-files --write` here",
        ),
        (
            "2.1",
            "b",
            "needs p2p.peerPrivKey, key.keyManagerFile.encryptionKey and the node's keys.yml",
            "--node-files on",
        ),
    ],
)
def test_no_config_is_made_that_would_be_a_node_without_identity_or_secret(node, name, words, hint):
    with pytest.raises(BadInput, match=re.escape(words)) as refused:
        refuse_new_config(cluster(node, A, B), name, "there is none")
    assert hint in refused.value.hint


def test_the_hint_fetches_the_files_into_the_directory_that_was_meant():
    with pytest.raises(BadInput) as refused:
        refuse_new_config(cluster("2.1", A, B), "b", "there is none", directory="/my node/.config")
    assert "`qmesh node-files --write --config '/my node/.config'` here" in refused.value.hint


def test_a_worker_that_needs_no_secret_can_have_a_new_config():
    refuse_new_config(cluster("1.4", A, B), "b", "there is none")


def test_a_config_is_held_against_the_machines_that_have_cores():
    paused = msgspec.structs.replace(C, state="paused")
    expected = build_expected_mesh(cluster("2.0", A, B, paused), "b")
    assert (expected.own, expected.members) == ("10.77.0.2", {"a": "10.77.0.1", "b": "10.77.0.2"})
    assert len(expected.workers) == 7
