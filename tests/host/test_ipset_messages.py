"""Questions about sets of `ipset` as pyroute2 understands them, and its answers as we do."""

from __future__ import annotations

import socket
import struct

import pytest
from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_IPSET
from pyroute2.netlink.nfnetlink.ipset import (
    IPSET_CMD_GET_BYINDEX,
    IPSET_CMD_HEADER,
    IPSET_CMD_TEST,
    IPSET_ERR_EXIST,
    ipset_msg,
)

from qmesh.host.firewall import ipset_messages

FOUR, SIX = (socket.inet_pton(family, text) for family, text in ((2, "192.0.2.1"), (10, "2001:db8::1")))


def understood(octets: bytes, command: int) -> ipset_msg:
    message = ipset_msg(octets)
    message.decode()
    assert message["header"]["type"] == NFNL_SUBSYS_IPSET << 8 | command
    assert message["header"]["flags"] == NLM_F_REQUEST | NLM_F_ACK
    assert message.get_attr("IPSET_ATTR_PROTOCOL") == 7
    return message


def test_pyroute2_reads_the_questions_for_a_set():
    named = understood(ipset_messages.build_index_question(7), IPSET_CMD_GET_BYINDEX)
    assert named.get_attr("IPSET_ATTR_INDEX") == 7
    typed = understood(ipset_messages.build_type_question(b"friends\0"), IPSET_CMD_HEADER)
    assert typed.get_attr("IPSET_ATTR_SETNAME") == "friends"


def test_pyroute2_reads_the_question_for_an_element():
    element = [
        ipset_messages.build_address(0, FOUR),
        ipset_messages.build_port(8336, socket.IPPROTO_UDP),
        ipset_messages.build_address(1, SIX),
        ipset_messages.build_interface("eth0"),
    ]
    asked = understood(ipset_messages.build_element_question(b"friends\0", element), IPSET_CMD_TEST)
    assert asked.get_attr("IPSET_ATTR_SETNAME") == "friends"
    data = asked.get_attr("IPSET_ATTR_DATA")
    assert data.get_attr("IPSET_ATTR_IP_FROM").get_attr("IPSET_ATTR_IPADDR_IPV4") == "192.0.2.1"
    assert data.get_attr("IPSET_ATTR_IP2").get_attr("IPSET_ATTR_IPADDR_IPV6") == "2001:db8::1"
    assert (data.get_attr("IPSET_ATTR_PORT_FROM"), data.get_attr("IPSET_ATTR_PROTO")) == (8336, 17)
    assert data.get_attr("IPSET_ATTR_IFACE") == "eth0"
    assert ipset_messages.NOT_IN_IT == IPSET_ERR_EXIST


def test_numbers_and_addresses_are_marked_as_in_the_order_of_networks():
    """Which pyroute2 passes over, and the kernel insists on."""
    port = ipset_messages.build_port(8336, socket.IPPROTO_UDP)
    assert port == struct.pack("=HH", 6, 0x4000 | 4) + b"\x20\x90\0\0" + struct.pack(
        "=HHBxxx", 5, 0x4000 | 7, 17
    )
    for address, kind in ((FOUR, 1), (SIX, 2)):
        inner = struct.pack("=HH", 4 + len(address), 0x4000 | kind) + address
        outer = struct.pack("=HH", 4 + len(inner), 0x8000 | 1)
        assert ipset_messages.build_address(0, address) == outer + inner


def test_an_answer_is_understood():
    answer = ipset_msg()
    answer["attrs"] = [("IPSET_ATTR_SETNAME", "friends"), ("IPSET_ATTR_TYPENAME", "hash:ip,port")]
    answer.encode()
    assert ipset_messages.parse_name(bytes(answer.data)) == b"friends\0"
    assert ipset_messages.parse_type(bytes(answer.data)) == "hash:ip,port"
    with pytest.raises(ValueError, match="nothing of a set"):
        ipset_messages.parse_name(bytes(answer.data)[:20])
