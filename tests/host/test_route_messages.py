"""The question which way packets go, as pyroute2 understands it, and its answers as we do."""

from __future__ import annotations

from typing import Any

import pytest
from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_GETROUTE
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from qmesh.host.network.kernel_routes import messages


@pytest.mark.parametrize(
    ("to", "family", "bits", "index"), [("192.0.2.1", 2, 32, None), ("2001:db8::1", 10, 128, 7)]
)
def test_pyroute2_reads_the_question(to: str, family: int, bits: int, index: int | None) -> None:
    asked = rtmsg(messages.build_way_request(to, index))
    asked.decode()
    assert (asked["header"]["type"], asked["header"]["flags"]) == (RTM_GETROUTE, NLM_F_REQUEST | NLM_F_ACK)
    assert (asked["family"], asked["dst_len"]) == (family, bits)
    assert dict(asked["attrs"]) == {"RTA_DST": to} | ({} if index is None else {"RTA_OIF": index})


def told(*attributes: tuple[str, Any], family: int = 2) -> bytes:
    message = rtmsg()
    message["family"], message["dst_len"], message["type"] = family, 32 if family == 2 else 128, 1
    message["attrs"] = [("RTA_OIF", 7), *attributes]
    message.encode()
    return bytes(message.data)


def metrics(mtu: int) -> tuple[str, Any]:
    return "RTA_METRICS", {"attrs": [("RTAX_MTU", mtu)]}


def cache(expires: int) -> tuple[str, Any]:
    return "RTA_CACHEINFO", {"rta_expires": expires}


@pytest.mark.parametrize(
    ("answer", "gateway", "is_routed", "mtu"),
    [
        (told(), None, False, None),
        (told(("RTA_GATEWAY", "192.0.2.254")), "192.0.2.254", True, None),
        (told(("RTA_GATEWAY", "fe80::1"), family=10), "fe80::1", True, None),
        (told(metrics(1400)), None, False, 1400),
        (told(metrics(1400), cache(0)), None, False, 1400),
        (told(metrics(1300), cache(500)), None, False, None),  # a router said so
        (told(metrics(0)), None, False, None),
    ],
)
def test_an_answer_is_understood(
    answer: bytes, gateway: str | None, is_routed: bool, mtu: int | None
) -> None:
    way = messages.parse_way(answer)
    assert (way.index, way.gateway, way.is_routed, way.mtu) == (7, gateway, is_routed, mtu)
    assert way.source is None


def test_the_source_is_told() -> None:
    assert messages.parse_way(told(("RTA_PREFSRC", "192.0.2.9"))).source == "192.0.2.9"


def test_an_answer_that_is_cut_short_is_none() -> None:
    with pytest.raises(ValueError, match="route"):
        messages.parse_way(told()[:26])
