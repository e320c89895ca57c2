"""Our questions as pyroute2 understands them, and what it writes as we do."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from qmesh.host.network import rtnetlink_messages
from qmesh.host.network.rtnetlink_messages import FoundInterface


def read(kind: type, octets: bytes) -> ifinfmsg | ifaddrmsg:
    message = kind(octets)
    message.decode()
    return message


def told(message: ifinfmsg | ifaddrmsg) -> bytes:
    """What the kernel would send."""
    message.encode()
    return bytes(message.data)


def link(**fields: object) -> bytes:
    message = ifinfmsg()
    message["index"], message["flags"] = 7, fields.pop("flags", 0)
    message["attrs"] = [("IFLA_IFNAME", "qmesh0"), ("IFLA_MTU", 1420), *fields.items()]
    return told(message)


def address(own: str, *, scope: int = 0, index: int = 7, peer: str | None = None) -> bytes:
    message = ifaddrmsg()
    message["family"] = 10 if ":" in own else 2
    message["prefixlen"], message["scope"], message["index"] = 20, scope, index
    message["attrs"] = [("IFA_ADDRESS", peer or own), *([("IFA_LOCAL", own)] if ":" not in own else [])]
    return told(message)


def test_we_ask_for_an_interface_by_its_name_and_without_its_statistics():
    asked = read(ifinfmsg, rtnetlink_messages.build_link_request("qmesh0"))
    assert asked["header"]["type"] == RTM_GETLINK
    assert asked["header"]["flags"] == NLM_F_REQUEST | NLM_F_ACK
    assert dict(asked["attrs"]) == {"IFLA_IFNAME": "qmesh0", "IFLA_EXT_MASK": 8}


def test_we_ask_for_all_addresses():
    asked = read(ifaddrmsg, rtnetlink_messages.build_addresses_request())
    assert asked["header"]["type"] == RTM_GETADDR
    assert asked["header"]["flags"] == NLM_F_REQUEST | NLM_F_DUMP


def test_what_is_told_of_an_interface_is_understood():
    info = {"attrs": [("IFLA_INFO_KIND", "wireguard")]}
    assert rtnetlink_messages.parse_link(link(flags=1, IFLA_LINKINFO=info)) == FoundInterface(
        name="qmesh0", index=7, kind="wireguard", mtu=1420, up=True
    )
    assert rtnetlink_messages.parse_link(link(flags=0x1002)) == FoundInterface(
        name="qmesh0", index=7, kind=None, mtu=1420, up=False
    )


def test_addresses_are_those_of_the_interface_that_are_good_everywhere():
    dump = [
        address("10.77.0.2"),
        address("fd77::2"),
        address("10.77.0.3", peer="10.77.0.9"),
        address("fe80::1", scope=253),
        address("192.0.2.1", index=8),
    ]
    assert list(rtnetlink_messages.parse_addresses(dump, 7)) == ["10.77.0.2/20", "fd77::2/20", "10.77.0.3/20"]


@given(st.integers(16, len(link()) - 1), st.integers(0, 255))
def test_what_is_damaged_is_an_error_of_the_expected_kind_or_another_interface(where, value):
    octets = bytearray(link(IFLA_LINKINFO={"attrs": [("IFLA_INFO_KIND", "wireguard")]}))
    octets[where] = value
    with contextlib.suppress(ValueError):
        assert isinstance(rtnetlink_messages.parse_link(bytes(octets)), FoundInterface)


@given(st.integers(16, len(address("10.77.0.2")) - 1), st.integers(0, 255))
def test_what_is_damaged_is_an_error_of_the_expected_kind_or_another_address(where, value):
    octets = bytearray(address("10.77.0.2"))
    octets[where] = value
    with contextlib.suppress(ValueError):
        assert len(list(rtnetlink_messages.parse_addresses([bytes(octets)], 7))) < 2


def test_what_lacks_its_name_or_address_is_an_error():
    nameless = ifinfmsg()
    with pytest.raises(ValueError, match="no interface"):
        rtnetlink_messages.parse_link(told(nameless))
    nowhere = ifaddrmsg()
    nowhere["index"] = 7
    with pytest.raises(ValueError, match="no address"):
        list(rtnetlink_messages.parse_addresses([told(nowhere)], 7))
