"""Our messages as pyroute2 understands them, and its messages as we do."""

from __future__ import annotations

import base64
import socket
from ipaddress import IPv4Network, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import CTRL_CMD_GETFAMILY, GENL_ID_CTRL, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, ctrlmsg
from pyroute2.netlink.generic.wireguard import (
    WG_CMD_GET_DEVICE,
    WG_CMD_SET_DEVICE,
    WGPEER_F_REMOVE_ME,
    WGPEER_F_REPLACE_ALLOWEDIPS,
    WGPEER_F_UPDATE_ONLY,
    wgmsg,
)

from qmesh.host.network.netlink_messages import parse_answers
from qmesh.host.wireguard import genetlink_messages
from qmesh.host.wireguard.device import Device
from qmesh.mesh.state import Counters, Peer
from qmesh.mesh.values import Endpoint, Secret
from tests.support.factories import key

FAMILY = 0x21
UNSET = base64.b64encode(bytes(32))


keys = st.binary(min_size=32, max_size=32).filter(any).map(lambda octets: base64.b64encode(octets).decode())
addresses = st.ip_addresses().filter(lambda address: getattr(address, "ipv4_mapped", None) is None).map(str)
networks = st.builds(
    lambda address, length: str(
        ip_network((address, min(length, 128 if ":" in address else 32)), strict=False)
    ),
    addresses,
    st.integers(0, 128),
)
peers = st.builds(
    Peer,
    public_key=keys,
    allowed_ips=st.sets(networks, max_size=4).map(sorted).map(tuple),
    endpoint=st.none() | st.builds(Endpoint, addresses, st.integers(1, 65535)),
    preshared_key=st.none() | st.builds(Secret, keys),
    keepalive_s=st.integers(0, 65535),
)


def understood(message: bytes) -> wgmsg:
    found = wgmsg(message)
    found.decode()
    return found


def peers_in(message: bytes) -> list[Any]:
    return understood(message).get_attr("WGDEVICE_A_PEERS") or []


def name(peer) -> str:
    return str(peer.get_attr("WGPEER_A_PUBLIC_KEY"), "ascii")


def allowed_ips(peer) -> tuple[str, ...]:
    found = (ip_network(each["addr"]) for each in peer.get_attr("WGPEER_A_ALLOWEDIPS") or ())
    return tuple(sorted(map(str, found)))


def configured(*blocks: bytes) -> list[bytes]:
    return list(genetlink_messages.build_peer_messages(FAMILY, "qmesh0", blocks))


@given(peers)
def test_pyroute2_reads_a_peer_as_it_was_meant(wanted):
    (message,) = configured(*genetlink_messages.peer_blocks(wanted))
    found = understood(message)
    (peer,) = peers_in(message)
    endpoint = peer.get_attr("WGPEER_A_ENDPOINT")

    assert (found["cmd"], found["version"]) == (WG_CMD_SET_DEVICE, 1)
    assert found["header"]["type"] == FAMILY
    assert found["header"]["flags"] == NLM_F_REQUEST | NLM_F_ACK
    assert found["header"]["length"] == len(message)
    assert found.get_attr("WGDEVICE_A_IFNAME") == "qmesh0"
    assert name(peer) == wanted.public_key
    assert peer.get_attr("WGPEER_A_FLAGS") == WGPEER_F_REPLACE_ALLOWEDIPS
    assert peer.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") == wanted.keepalive_s
    preshared_key = wanted.preshared_key.reveal().encode() if wanted.preshared_key else UNSET
    assert peer.get_attr("WGPEER_A_PRESHARED_KEY") == preshared_key
    assert allowed_ips(peer) == wanted.allowed_ips
    if wanted.endpoint is None:
        assert endpoint is None
    else:
        address = socket.inet_pton(endpoint["family"], endpoint["addr"])
        assert address == socket.inet_pton(endpoint["family"], wanted.endpoint.host)
        assert endpoint["port"] == wanted.endpoint.port


def test_pyroute2_reads_the_key_and_the_port():
    private_key = understood(genetlink_messages.build_private_key_message(FAMILY, "qmesh0", Secret(key(7))))
    port = understood(genetlink_messages.build_listen_port_message(FAMILY, "qmesh0", 51820))

    assert private_key.get_attr("WGDEVICE_A_PRIVATE_KEY") == key(7).encode()
    assert private_key.get_attr("WGDEVICE_A_PEERS") is None
    assert port.get_attr("WGDEVICE_A_LISTEN_PORT") == 51820


def test_pyroute2_reads_the_question():
    found = understood(genetlink_messages.build_device_request(FAMILY, "qmesh0"))

    assert (found["cmd"], found["header"]["flags"]) == (WG_CMD_GET_DEVICE, NLM_F_REQUEST | NLM_F_DUMP)
    assert found.get_attr("WGDEVICE_A_IFNAME") == "qmesh0"


def test_pyroute2_reads_the_question_for_the_family_and_we_its_answer():
    asked = ctrlmsg(genetlink_messages.build_family_request("wireguard"))
    asked.decode()
    assert asked["header"]["type"] == GENL_ID_CTRL
    assert asked["header"]["flags"] == NLM_F_REQUEST | NLM_F_ACK
    assert asked["cmd"] == CTRL_CMD_GETFAMILY
    assert dict(asked["attrs"]) == {"CTRL_ATTR_FAMILY_NAME": "wireguard"}

    answer = ctrlmsg()
    answer["attrs"] = [("CTRL_ATTR_FAMILY_NAME", "wireguard"), ("CTRL_ATTR_FAMILY_ID", FAMILY)]
    answer.encode()
    assert genetlink_messages.parse_family(bytes(answer.data)) == FAMILY
    with pytest.raises(ValueError, match="no netlink family"):
        genetlink_messages.parse_family(bytes(answer.data)[:20])


def test_a_removal_names_the_peer_and_nothing_else():
    (message,) = configured(
        genetlink_messages.removal_block(key(1)), genetlink_messages.removal_block(key(2))
    )

    assert [name(peer) for peer in peers_in(message)] == [key(1), key(2)]
    assert {peer.get_attr("WGPEER_A_FLAGS") for peer in peers_in(message)} == {WGPEER_F_REMOVE_ME}
    assert {len(peer["attrs"]) for peer in peers_in(message)} == {2}


def test_one_change_is_one_message_of_one_peer():
    one = Peer(public_key=key(1), allowed_ips=("10.77.0.2/32",), endpoint=Endpoint("192.0.2.1", 51820))

    (message,) = configured(*genetlink_messages.peer_blocks(one))

    assert len(peers_in(message)) == 1
    assert len(message) < 256


def test_messages_larger_than_netlink_takes_are_split():
    wanted = [
        Peer(
            public_key=key(number),
            allowed_ips=(f"10.77.{number >> 8}.{number & 255}/32",),
            endpoint=Endpoint("2001:db8::1", 51820),
            preshared_key=Secret(key(99)),
        )
        for number in range(1, 5001)
    ]
    found = configured(*(block for peer in wanted for block in genetlink_messages.peer_blocks(peer)))

    assert [name(peer) for message in found for peer in peers_in(message)] == [
        each.public_key for each in wanted
    ]
    assert 10 < len(found) < 20
    # Less than 64 KiB for all peers of a message: the length of an attribute has 16 bits.
    assert all(len(message) < 65536 + 64 for message in found)


def test_a_peer_of_many_allowed_ips_goes_on_as_an_update():
    wanted = tuple(sorted(map(str, IPv4Network("10.64.0.0/12").subnets(new_prefix=24))))
    blocks = list(genetlink_messages.peer_blocks(Peer(public_key=key(1), allowed_ips=wanted)))
    parts = [part for message in configured(*blocks) for part in peers_in(message)]

    assert [part.get_attr("WGPEER_A_FLAGS") for part in parts] == [
        WGPEER_F_REPLACE_ALLOWEDIPS,
        *[WGPEER_F_UPDATE_ONLY] * (len(parts) - 1),
    ]
    assert {name(part) for part in parts} == {key(1)}
    assert sorted(network for part in parts for network in allowed_ips(part)) == list(wanted)
    assert all(len(block) < 65536 for block in blocks)


def told(peer: Peer, counters: Counters) -> dict[str, Any]:
    """A peer as the kernel tells it, for pyroute2 to write."""
    attributes = [
        ["WGPEER_A_PUBLIC_KEY", peer.public_key],
        ["WGPEER_A_PRESHARED_KEY", peer.preshared_key.reveal() if peer.preshared_key else UNSET.decode()],
        ["WGPEER_A_LAST_HANDSHAKE_TIME", {"tv_sec": counters.last_handshake_s or 0, "tv_nsec": 5}],
        ["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", peer.keepalive_s],
        ["WGPEER_A_TX_BYTES", counters.tx_bytes],
        ["WGPEER_A_RX_BYTES", counters.rx_bytes],
        ["WGPEER_A_PROTOCOL_VERSION", 1],
    ]
    if peer.endpoint is not None:
        attributes.append(["WGPEER_A_ENDPOINT", {"addr": peer.endpoint.host, "port": peer.endpoint.port}])
    return {"attrs": [*attributes, ["WGPEER_A_ALLOWEDIPS", [written(each) for each in peer.allowed_ips]]]}


def written(network: str) -> dict[str, Any]:
    address, _, length = network.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return {
        "attrs": [
            ["WGALLOWEDIP_A_FAMILY", family],
            ["WGALLOWEDIP_A_IPADDR", socket.inet_pton(family, address)],
            ["WGALLOWEDIP_A_CIDR_MASK", int(length)],
        ]
    }


def part_of_dump(*told_peers: dict[str, Any], public_key: str | None = None, is_first: bool = True) -> bytes:
    message = wgmsg()
    message["cmd"], message["version"] = WG_CMD_GET_DEVICE, 1
    message["header"]["type"] = FAMILY
    if is_first:
        message["attrs"] = [["WGDEVICE_A_LISTEN_PORT", 51820], ["WGDEVICE_A_IFNAME", "qmesh0"]]
    if public_key is not None:
        message["attrs"].append(["WGDEVICE_A_PUBLIC_KEY", public_key])
    if told_peers:
        message["attrs"].append(["WGDEVICE_A_PEERS", list(told_peers)])
    message.encode()
    return bytes(message.data)


counts = st.integers(0, 2**40)
counters = st.tuples(st.none() | st.integers(1, 2**40), counts, counts)


@given(st.lists(st.tuples(peers, counters), max_size=4, unique_by=lambda pair: pair[0].public_key))
def test_what_pyroute2_writes_is_read_as_it_was_meant(told_of):
    meant = [(peer, counters_of(peer, *numbers)) for peer, numbers in told_of]

    found = genetlink_messages.parse_device(
        [part_of_dump(*(told(*each) for each in meant), public_key=key(7))]
    )

    assert found == Device(
        public_key=key(7),
        listen_port=51820,
        peers=tuple(sorted((peer for peer, _ in meant), key=lambda peer: peer.public_key)),
        counters={peer.public_key: numbers for peer, numbers in meant},
    )


def counters_of(peer: Peer, last_handshake_s: int | None, rx_bytes: int, tx_bytes: int) -> Counters:
    return Counters(
        last_handshake_s=last_handshake_s, rx_bytes=rx_bytes, tx_bytes=tx_bytes, endpoint=peer.endpoint
    )


NONE_YET = Counters(last_handshake_s=None, rx_bytes=0, tx_bytes=0, endpoint=None)


def test_a_bare_device():
    found = genetlink_messages.parse_device([part_of_dump()])

    assert found == Device(public_key=None, listen_port=51820, peers=(), counters={})


def test_a_peer_that_goes_on_in_the_next_part_is_one_peer():
    many = [f"10.77.{number}.0/24" for number in range(6)]
    whole = Peer(public_key=key(1), allowed_ips=tuple(many), keepalive_s=25)
    first = told(Peer(public_key=key(1), allowed_ips=tuple(many[:3]), keepalive_s=25), NONE_YET)
    rest = {
        "attrs": [
            ["WGPEER_A_PUBLIC_KEY", key(1)],
            ["WGPEER_A_ALLOWEDIPS", [written(network) for network in many[3:]]],
        ]
    }
    other = Peer(public_key=key(2), allowed_ips=("10.78.0.0/24",))

    found = genetlink_messages.parse_device(
        [part_of_dump(first), part_of_dump(rest, told(other, NONE_YET), is_first=False)]
    )

    assert found.peers == (whole, other)


def test_an_endpoint_of_no_family_is_none():
    found = genetlink_messages._parse_endpoint(bytes(16))

    assert found is None


def sample() -> bytes:
    peer = Peer(
        public_key=key(1),
        allowed_ips=("10.77.0.0/24", "fd00::/64"),
        endpoint=Endpoint("192.0.2.1", 1),
        preshared_key=Secret(key(3)),
    )
    return part_of_dump(told(peer, NONE_YET), public_key=key(7))


@pytest.mark.parametrize("size", range(0, len(sample()), 3))
def test_a_message_cut_short_is_no_smaller_device(size):
    with pytest.raises(ValueError, match=r"breaks off|no (WireGuard )?device"):
        genetlink_messages.parse_device([part for part, _, _ in parse_answers(sample()[:size])])


@given(st.integers(20, len(sample()) - 1), st.integers(0, 255))
def test_a_damaged_message_is_an_error_of_the_expected_kind_or_another_device(where, value):
    octets = bytearray(sample())
    octets[where] = value
    try:
        found = genetlink_messages.parse_device([bytes(octets)])
    except ValueError:
        return
    assert isinstance(found, Device)
