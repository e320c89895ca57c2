"""What other tools read is what qmesh knows, whatever the values: nothing breaks out of its place."""

from __future__ import annotations

import base64
import ipaddress
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import force_setattr, replace

from qmesh.errors import BadInput
from qmesh.mesh.desired import Facts, LocalEnd, build_desired_state
from qmesh.mesh.exports import ansible, hosts, nft, wg_quick
from qmesh.mesh.exports.text import is_plain, validate_plain
from qmesh.mesh.guard.parse import parse_table
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import GuardedPort, Machine
from qmesh.mesh.state import Guard, Tunnel
from qmesh.mesh.values import NOT_SHOWN, PROFILES, Endpoint, Profile, Secret
from tests.support.factories import key, mesh

HOSTILE = (
    *("\n[Peer]\n", "a\nb", "a\r", "a b", "a\t", "", "\x00", "\x1b[1m", "\u2028", "ä"),
    *("a#b", "a;b", 'a"', "a'", "a\\", "a,b", "{a}", "$(id)", "`id`", "%i", "<not shown>"),
    *("{{ 7 * 7 }}", "{% set a = 1 %}", "{# a #}", "!unsafe a", "&a", "*a", "- a", "a: b", "@a", "~"),
)


A = Machine(
    name="a", public_key=key(3), address="10.77.0.1", workers=3, endpoints=(Endpoint("203.0.113.5", 51820),)
)
B = Machine(name="b", public_key=key(2), address="10.77.0.2", workers=4)
C = Machine(name="c", public_key=key(1), address="10.77.0.3", workers=2, state="paused")
D = Machine(name="d", public_key=key(4), address="10.77.0.4", workers=None, state="invited")
MESH = mesh(A, C, B, D, service_port=51821)
PRIVATE, SHARED = Secret(key(101)), Secret(key(102))


def tunnel_of(inventory: Inventory, name: str, **endpoints: Endpoint) -> Tunnel:
    place = LocalEnd(interface="qmesh0", listen_port=51820)
    shared = {machine.public_key: SHARED for machine in inventory.machines}
    tunnel = build_desired_state(
        inventory, name, place, shared, Facts(kind="tun", endpoints=endpoints)
    ).tunnel
    assert tunnel is not None
    return tunnel


def guard_of(inventory: Inventory, name: str) -> Guard:
    place = LocalEnd(interface="qmesh0", listen_port=51820)
    guard = build_desired_state(inventory, name, place, {}, Facts(kind="wireguard")).guard
    assert isinstance(guard, Guard)
    return guard


# wg-quick


def sections(text: str) -> list[tuple[str, dict[str, str]]]:
    """A text as wg reads it: comments off, `Key = value` under `[Section]`. Source: wg(8)."""
    found: list[tuple[str, dict[str, str]]] = []
    for line in text.split("\n"):
        words = line.partition("#")[0].strip()
        if words.startswith("["):
            found.append((words, {}))
        elif words:
            name, equals, value = words.partition("=")
            assert equals
            assert name.strip() not in found[-1][1]
            found[-1][1][name.strip()] = value.strip()
    return found


def wanted_sections(tunnel: Tunnel, private_key: Secret) -> list[tuple[str, dict[str, str]]]:
    interface = {
        "PrivateKey": private_key.reveal(),
        "ListenPort": str(tunnel.listen_port),
        "Address": ", ".join(tunnel.addresses),
        "MTU": str(tunnel.mtu),
        "Table": "off",
    }
    wanted = [("[Interface]", interface)]
    for peer in tunnel.peers:
        section = {"PublicKey": peer.public_key, "AllowedIPs": ", ".join(peer.allowed_ips)}
        if peer.preshared_key:
            section["PresharedKey"] = peer.preshared_key.reveal()
        if peer.endpoint:
            section["Endpoint"] = str(peer.endpoint)
        if peer.keepalive_s:
            section["PersistentKeepalive"] = str(peer.keepalive_s)
        wanted.append(("[Peer]", section))
    return wanted


def test_a_worker_machines_tunnel_as_wg_quick_reads_it() -> None:
    tunnel = tunnel_of(MESH, "b", a=Endpoint("2001:db8::5", 51820))
    assert (
        wg_quick.render_tunnel_file(wg_quick.tunnel_file(MESH, "b", tunnel, PRIVATE))
        == f"""\
# Made by `qmesh export wg-quick` on b, revision 7.
# wg-quick names the interface after its file: name this file qmesh0.conf.
# This is only the tunnel. Without the guard, the worker ports are open: `qmesh export nft`.
[Interface]
PrivateKey = {PRIVATE.reveal()}
ListenPort = 51820
Address = 10.77.0.2/20
MTU = 1420
Table = off

[Peer]
# a
PublicKey = {key(3)}
PresharedKey = {SHARED.reveal()}
AllowedIPs = 10.77.0.1/32
Endpoint = [2001:db8::5]:51820
PersistentKeepalive = 25
"""
    )


def test_e1_a_tunnel_that_is_shown_has_no_secret_in_it() -> None:
    for name in "ab":
        shown = wg_quick.tunnel_file(MESH, name, tunnel_of(MESH, name), None)
        whole = wg_quick.tunnel_file(MESH, name, tunnel_of(MESH, name), PRIVATE)
        secrets = (PRIVATE.reveal(), SHARED.reveal())
        for said in (
            wg_quick.render_tunnel_file(shown),
            msgspec.json.encode(shown).decode(),
            repr(shown),
            repr(whole),
        ):
            assert not any(secret in said for secret in secrets)
        assert all(secret in wg_quick.render_tunnel_file(whole) for secret in secrets)
        assert wg_quick.render_tunnel_file(shown).count(NOT_SHOWN) == 1 + len(whole.peers)


def test_a_peer_without_a_preshared_key_has_no_line_for_one() -> None:
    tunnel = tunnel_of(MESH, "b")
    bare = replace(tunnel, peers=(replace(tunnel.peers[0], preshared_key=None),))
    for private_key in (None, PRIVATE):
        assert "Preshared" not in wg_quick.render_tunnel_file(
            wg_quick.tunnel_file(MESH, "b", bare, private_key)
        )


def test_an_endpoint_is_written_where_it_is_now_if_it_is_one_that_is_known() -> None:
    name, address, elsewhere = (
        Endpoint("a.example.org", 1),
        Endpoint("203.0.113.5", 1),
        Endpoint("203.0.113.6", 2),
    )
    assert wg_quick.choose_endpoint((name, address), address) == address
    assert wg_quick.choose_endpoint((name, address), elsewhere) == name
    assert wg_quick.choose_endpoint((name,), None) == name
    assert wg_quick.choose_endpoint((), elsewhere) is None


# nft


def test_the_guard_is_the_one_that_qmesh_loads() -> None:
    guard = guard_of(MESH, "b")
    file = nft.guard_file(guard, "b", 7)
    comments, commands = divided(nft.render_guard_file(file))
    assert commands == file.commands == render_load_script(guard)
    assert "nft -f" in comments
    assert (file.table, file.guard) == ("inet qmesh", guard)


def divided(text: str) -> tuple[str, str]:
    """The comments at a text's top, and the rest."""
    lines = text.splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "".join(lines[:first]), "".join(lines[first:])


# hosts


def test_members_have_a_line_and_who_is_invited_has_none() -> None:
    assert hosts.render_hosts_file(hosts.hosts_file(MESH, "b")) == (
        "# Made by `qmesh export hosts` on b, revision 7.\n"
        "10.77.0.1\ta.qmesh\n"
        "10.77.0.3\tc.qmesh\n"
        "10.77.0.2\tb.qmesh\n"
    )


def test_no_machines_name_takes_the_place_of_localhost() -> None:
    mesh = replace(MESH, machines=(A, replace(B, name="localhost")))
    assert [host.name for host in hosts.hosts_file(mesh, "a").hosts] == ["a.qmesh", "localhost.qmesh"]


# ansible


class Loader(yaml.SafeLoader):
    """Reads as Ansible does: what is tagged is text, and no template."""


class Unsafe(str):
    __slots__ = ()


def _unsafe(loader: yaml.SafeLoader, node: Any) -> Unsafe:
    return Unsafe(loader.construct_scalar(node))


Loader.add_constructor("!unsafe", _unsafe)


def read_back(text: str) -> Any:
    return yaml.load(text, Loader)  # noqa: S506 - a safe one


def test_the_inventory_has_groups_of_the_mesh_and_variables_of_each_machine() -> None:
    text = ansible.render_inventory(ansible.inventory_tree(MESH), "a")
    assert "`ssh NAME`" in divided(text)[0]
    group = read_back(text)["qmesh_machines"]
    assert group["vars"] == {
        "qmesh_mesh": "0123456789abcdef",
        "qmesh_revision": 7,
        "qmesh_network": "10.77.0.0/20",
        "qmesh_node": "2.0",
        "qmesh_control_name": "a",
        "qmesh_control_address": "10.77.0.1",
        "qmesh_service_port": 51821,
        "qmesh_base_port": 40000,
    }
    assert {name: list(group["children"][name]["hosts"]) for name in group["children"]} == {
        "qmesh_control": ["a"],
        "qmesh_workers": ["c", "b"],
    }
    workers = group["children"]["qmesh_workers"]["hosts"]
    assert group["children"]["qmesh_control"]["hosts"]["a"] == {
        "qmesh_name": "a",
        "qmesh_address": "10.77.0.1",
        "qmesh_role": "control",
        "qmesh_state": "active",
        "qmesh_cores": {"first": 1, "count": 3},
        "qmesh_ports": [40000, 40001, 40002],
        "qmesh_guarded_ports": [],
        "qmesh_left_open": [],
        "qmesh_endpoint": "203.0.113.5:51820",
        "qmesh_public_key": key(3),
    }
    assert workers["b"]["qmesh_ports"] == [40003, 40004, 40005, 40006]
    assert workers["b"]["qmesh_role"] == "worker"
    assert workers["b"]["qmesh_endpoint"] is None
    closing = replace(A, guarded_ports=(GuardedPort(9100, "mesh"),), left_open=(80, 443))
    changed = ansible.inventory_tree(replace(MESH, machines=(closing, C, B, D)))
    told = read_back(ansible.render_inventory(changed, "a"))["qmesh_machines"]["children"]["qmesh_control"]
    assert told["hosts"]["a"]["qmesh_guarded_ports"] == [{"port": 9100, "from": "mesh"}]
    assert told["hosts"]["a"]["qmesh_left_open"] == [80, 443]
    paused = workers["c"]
    assert (paused["qmesh_state"], paused["qmesh_cores"], paused["qmesh_ports"]) == (
        "paused",
        {"first": None, "count": 2},
        [],
    )


@pytest.mark.parametrize("name", ["all", "localhost", "ungrouped"])
def test_no_machines_name_is_one_that_means_something_to_ansible(name: str) -> None:
    mesh = replace(MESH, machines=(A, replace(B, name=name)))
    workers = ansible.inventory_tree(mesh)["qmesh_machines"]["children"]["qmesh_workers"]["hosts"]
    assert list(workers) == [f"{name}.qmesh"]
    assert workers[f"{name}.qmesh"]["qmesh_name"] == workers[f"{name}.qmesh"]["ansible_host"] == name


@pytest.mark.parametrize("name", ["no", "null", "10", "1e3", "0x1", "0b1", "2026-11-24", "1-2"])
def test_a_machines_name_stays_text(name: str) -> None:
    mesh = replace(MESH, control=name, machines=(replace(A, name=name), B))
    group = read_back(ansible.render_inventory(ansible.inventory_tree(mesh), name))["qmesh_machines"]
    assert list(group["children"]["qmesh_control"]["hosts"]) == [name]
    assert group["vars"]["qmesh_control_name"] == name


# whatever the values


@st.composite
def meshes(draw: st.DrawFn) -> Inventory:
    network = ipaddress.ip_network(
        draw(st.sampled_from(["10.77.0.0/20", "fd77:0:0:1::/64", "192.168.3.8/29"]))
    )
    names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
    domains = st.from_regex(
        r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,9}[a-zA-Z0-9])?(\.[a-z]{2,5}){1,3}\.?", fullmatch=True
    )
    known = st.builds(
        Endpoint, domains | st.sampled_from(["203.0.113.5", "2001:db8::5"]), st.integers(1, 65535)
    )
    machines = [
        Machine(
            name=name,
            public_key=wire(draw(st.binary(min_size=31, max_size=31)), number),
            address=str(network.network_address + number),
            workers=draw(st.integers(1, 20)),
            state="active" if number == 1 else draw(st.sampled_from(["active", "paused", "invited"])),
            endpoints=tuple(draw(st.lists(known, max_size=2))),
        )
        for number, name in enumerate(draw(st.lists(names, min_size=1, max_size=5, unique=True)), start=1)
    ]
    node: Profile = draw(st.sampled_from(PROFILES))
    return Inventory(
        mesh=draw(st.text()),
        network=str(network),
        control=machines[0].name,
        node=node,
        p2p_base_port=None if node in {"1.4", "2.0"} else 9000,
        base_port=draw(st.integers(10000, 65000)),
        service_port=draw(st.integers(1, 1023)),
        revision=draw(st.integers(0, 10**9)),
        machines=tuple(machines),
    )


def wire(octets: bytes, number: int) -> str:
    return base64.b64encode(octets + bytes([number])).decode()


@given(meshes())
def test_what_wg_reads_is_the_tunnel(mesh: Inventory) -> None:
    known = {machine.name: machine.endpoints[0] for machine in mesh.machines if machine.endpoints}
    for machine in mesh.machines:
        tunnel = tunnel_of(mesh, machine.name, **known)
        text = wg_quick.render_tunnel_file(wg_quick.tunnel_file(mesh, machine.name, tunnel, PRIVATE))
        assert sections(text) == wanted_sections(tunnel, PRIVATE)


@given(meshes())
def test_what_nft_reads_is_the_guard(mesh: Inventory) -> None:
    for machine in mesh.machines:
        guard = guard_of(mesh, machine.name)
        text = nft.render_guard_file(nft.guard_file(guard, machine.name, mesh.revision))
        assert parse_table(divided(text)[1].split("\n", 2)[2]) == guard


@given(meshes())
def test_what_a_resolver_reads_is_the_members(mesh: Inventory) -> None:
    text = hosts.render_hosts_file(hosts.hosts_file(mesh, mesh.control))
    lines = [line.partition("#")[0].split() for line in text.split("\n")]
    assert [line for line in lines if line] == [
        [machine.address, f"{machine.name}.qmesh"] for machine in mesh.machines if machine.state != "invited"
    ]


@given(meshes())
def test_what_ansible_reads_is_the_inventory_and_no_template(mesh: Inventory) -> None:
    tree = ansible.inventory_tree(mesh)
    read = read_back(ansible.render_inventory(tree, mesh.control))
    assert read == tree == msgspec.json.decode(msgspec.json.encode(tree))
    texts = list(texts_in(read))
    assert mesh.mesh in texts
    assert all(is_plain(text) or isinstance(text, Unsafe) for text in texts)


def texts_in(value: Any) -> list[str]:
    """Every text among the values; keys, too, where they are machines' names."""
    if isinstance(value, dict):
        return [text for name, each in value.items() for text in (*texts_in(name), *texts_in(each))]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("text", HOSTILE)
def test_what_might_break_out_is_not_plain(text: str) -> None:
    assert not is_plain(text)
    with pytest.raises(BadInput):
        validate_plain(text)


def spoil_machine(text: str, field: str) -> Inventory:
    machine = replace(B)
    force_setattr(machine, field, text)
    return forced(replace(MESH), machines=(A, machine))


def forced(inventory: Inventory, **fields: Any) -> Inventory:
    """The inventory with fields that its constructor would refuse."""
    for name, value in fields.items():
        force_setattr(inventory, name, value)
    return inventory


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["name", "address"])
def test_a_hostile_machine_is_written_into_no_hosts_file(text: str, field: str) -> None:
    mesh = spoil_machine(text, field)
    with pytest.raises(BadInput):
        hosts.render_hosts_file(hosts.hosts_file(mesh, "a"))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_is_no_host_of_ansibles(text: str) -> None:
    with pytest.raises(BadInput):
        ansible.inventory_tree(spoil_machine(text, "name"))


@pytest.mark.parametrize("text", [*HOSTILE, "no", "1", "0x1", "1:30", "2026-11-24", "null", "="])
def test_a_hostile_value_is_text_and_no_template_to_ansible(text: str) -> None:
    mesh = forced(spoil_machine(text, "address"), mesh=text, network=text, node=text)
    force_setattr(mesh.machines[1], "public_key", text)
    tree = ansible.inventory_tree(mesh)
    read = read_back(ansible.render_inventory(tree, "a"))
    assert read == tree
    assert isinstance(read["qmesh_machines"]["vars"]["qmesh_mesh"], str)
    assert all(is_plain(each) or isinstance(each, Unsafe) for each in texts_in(read))


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda file, text: replace(file, machine=text),
        lambda file, text: replace(file, interface=text),
        lambda file, text: replace(file, addresses=(text,)),
        *(
            lambda file, text, field=field, wrap=wrap: replace(
                file, peers=(replace(file.peers[0], **{field: wrap(text)}),)
            )
            for field, wrap in (
                ("name", str),
                ("public_key", str),
                ("endpoint", str),
                ("allowed_ips", lambda text: (text,)),
            )
        ),
    ],
)
def test_a_hostile_value_is_written_into_no_wg_quick_file(spoil: Any, text: str) -> None:
    file = wg_quick.tunnel_file(MESH, "b", tunnel_of(MESH, "b"), PRIVATE)
    with pytest.raises(BadInput):
        wg_quick.render_tunnel_file(spoil(file, text))


@pytest.mark.parametrize("text", [text for text in HOSTILE if text])
def test_a_hostile_key_is_written_into_no_wg_quick_file_and_not_told(text: str) -> None:
    file = wg_quick.tunnel_file(MESH, "b", tunnel_of(MESH, "b"), PRIVATE)
    secret = f"5ecret{text}"
    for spoilt in (
        replace(file, private_key=secret),
        replace(file, peers=(replace(file.peers[0], preshared_key=secret),)),
    ):
        with pytest.raises(BadInput) as caught:
            wg_quick.render_tunnel_file(spoilt)
        assert "5ecret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_value_is_written_into_no_guard(text: str) -> None:
    guard = guard_of(MESH, "b")
    for spoilt in (replace(guard, interface=text), replace(guard, control_address=text)):
        with pytest.raises(BadInput):
            nft.guard_file(spoilt, "b", 7)
    with pytest.raises(BadInput):
        nft.render_guard_file(nft.guard_file(guard, text, 7))
