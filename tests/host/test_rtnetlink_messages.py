"""Our questions as pyroute2 understands them, and what it writes as we do."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_DELADDR, RTM_DELLINK, RTM_GETADDR, RTM_GETLINK, RTM_NEWADDR, RTM_NEWLINK
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
    message["ifi_type"] = fields.pop("hardware", 0)
    message["attrs"] = [("IFLA_IFNAME", "qmesh0"), ("IFLA_MTU", 1420), *fields.items()]
    return told(message)


def address(
    own: str, *, scope: int = 0, index: int = 7, peer: str | None = None, flags: int | None = None
) -> bytes:
    message = ifaddrmsg()
    message["family"] = 10 if ":" in own else 2
    message["prefixlen"], message["scope"], message["index"] = 20, scope, index
    message["attrs"] = [("IFA_ADDRESS", peer or own), *([("IFA_LOCAL", own)] if ":" not in own else [])]
    if flags is not None:
        message["flags"] = flags & 0xFF
        message["attrs"].append(("IFA_FLAGS", flags))
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


CHANGE = NLM_F_REQUEST | NLM_F_ACK


def test_changes_of_links_are_what_pyroute2_reads_of_them():
    made = read(ifinfmsg, rtnetlink_messages.build_link_creation("qmesh0", "wireguard"))
    assert (made["header"]["type"], made["header"]["flags"]) == (
        RTM_NEWLINK,
        CHANGE | NLM_F_CREATE | NLM_F_EXCL,
    )
    assert made.get_attr("IFLA_IFNAME") == "qmesh0"
    assert made.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == "wireguard"

    gone = read(ifinfmsg, rtnetlink_messages.build_link_deletion(7))
    assert (gone["header"]["type"], gone["header"]["flags"], gone["index"]) == (RTM_DELLINK, CHANGE, 7)

    for wanted, fields, attributes in (
        ({"up": True}, (1, 1), {}),
        ({"up": False}, (0, 1), {}),
        ({"mtu": 1380}, (0, 0), {"IFLA_MTU": 1380}),
        ({"master": 0}, (0, 0), {"IFLA_MASTER": 0}),
    ):
        changed = read(ifinfmsg, rtnetlink_messages.build_link_change(7, **wanted))
        assert (changed["header"]["type"], changed["header"]["flags"]) == (RTM_NEWLINK, CHANGE)
        assert (changed["index"], changed["flags"], changed["change"]) == (7, *fields)
        assert dict(changed["attrs"]) == attributes


@pytest.mark.parametrize(("own", "family", "flags"), [("10.77.0.2/20", 2, 0), ("fd77::2/64", 10, 2)])
def test_changes_of_addresses_are_what_pyroute2_reads_of_them(own, family, flags):
    address_, length = own.split("/")
    for add, kind, asked, its in (
        (True, RTM_NEWADDR, CHANGE | NLM_F_CREATE | NLM_F_EXCL, flags),
        (False, RTM_DELADDR, CHANGE, 0),
    ):
        changed = read(ifaddrmsg, rtnetlink_messages.build_address_change(7, own, add=add))
        assert (changed["header"]["type"], changed["header"]["flags"]) == (kind, asked)
        fields = (
            changed["family"],
            changed["prefixlen"],
            changed["flags"],
            changed["scope"],
            changed["index"],
        )
        assert fields == (family, int(length), its, 0, 7)
        assert dict(changed["attrs"]) == {"IFA_LOCAL": address_, "IFA_ADDRESS": address_}


def test_we_ask_for_all_interfaces_and_for_one_by_its_number():
    for octets, flags, index in (
        (rtnetlink_messages.build_links_request(), NLM_F_REQUEST | NLM_F_DUMP, 0),
        (rtnetlink_messages.build_index_request(7), CHANGE, 7),
    ):
        asked = read(ifinfmsg, octets)
        assert (asked["header"]["type"], asked["header"]["flags"], asked["index"]) == (
            RTM_GETLINK,
            flags,
            index,
        )
        assert dict(asked["attrs"]) == {"IFLA_EXT_MASK": 8}


def test_what_is_told_of_an_interface_is_understood():
    info = {"attrs": [("IFLA_INFO_KIND", "wireguard")]}
    assert rtnetlink_messages.parse_link(link(flags=1, IFLA_LINKINFO=info)) == FoundInterface(
        name="qmesh0", index=7, kind="wireguard", mtu=1420, up=True
    )
    assert rtnetlink_messages.parse_link(link(flags=0x1002)) == FoundInterface(
        name="qmesh0", index=7, kind=None, mtu=1420, up=False
    )


def test_who_has_neighbours_and_what_is_loopback():
    for flags, hardware, expected in (
        (0, 1, (False, True)),
        (0x80, 1, (False, False)),
        (0x8, 772, (True, False)),
        (0, 65534, (False, False)),
    ):
        found = rtnetlink_messages.parse_link(link(flags=flags, hardware=hardware))
        assert (found.is_loopback, found.has_neighbours) == expected


@pytest.mark.parametrize(
    ("own", "flags", "scope", "is_lasting"),
    [
        ("10.77.0.2", 0, 0, True),
        ("10.77.0.2", 0x01, 0, True),  # a second one of its network
        ("fd77::2", 0x80, 0, True),
        ("fd77::2", 0x100 | 0x01, 0, False),  # temporary, told by the attribute alone
        ("fd77::2", 0x80 | 0x08, 0, False),  # another machine has it
        ("fd77::2", 0x20, 0, False),
        ("fe80::2", 0x80, 253, False),
    ],
)
def test_which_addresses_last(own, flags, scope, is_lasting):
    found = rtnetlink_messages.parse_address(address(own, scope=scope, flags=flags))
    assert found is not None
    assert (found.text, found.index, found.is_lasting) == (f"{own}/20", 7, is_lasting)
    assert found.is_global == (scope == 0)


def test_an_address_of_another_family_is_none_of_ours():
    told_of_phone = ifaddrmsg()
    told_of_phone["family"] = 35
    assert rtnetlink_messages.parse_address(told(told_of_phone)) is None


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
    nowhere["index"], nowhere["family"] = 7, 2
    with pytest.raises(ValueError, match="no address"):
        list(rtnetlink_messages.parse_addresses([told(nowhere)], 7))
