"""The question which way packets go, as pyroute2 understands it, and its answers as we do."""

from __future__ import annotations

from typing import Any

import pytest
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE, rt_scope
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from qmesh.host.network.kernel_routes import messages


def read(octets: bytes) -> rtmsg:
    message = rtmsg(octets)
    message.decode()
    return message


@pytest.mark.parametrize(
    ("to", "family", "bits", "index"), [("192.0.2.1", 2, 32, None), ("2001:db8::1", 10, 128, 7)]
)
def test_pyroute2_reads_the_question(to: str, family: int, bits: int, index: int | None) -> None:
    asked = read(messages.build_way_request(to, index))
    assert (asked["header"]["type"], asked["header"]["flags"]) == (RTM_GETROUTE, NLM_F_REQUEST | NLM_F_ACK)
    assert (asked["family"], asked["dst_len"]) == (family, bits)
    assert dict(asked["attrs"]) == {"RTA_DST": to} | ({} if index is None else {"RTA_OIF": index})


def route(network: str, **fields: Any) -> messages.FoundRoute:
    usual: dict[str, Any] = {"metric": 0, "index": 7, "gateway": None, "source": None}
    family = 10 if ":" in network else 2
    return messages.FoundRoute(family=family, network=network, **{**usual, **fields})


@pytest.mark.parametrize(
    ("wanted", "scope", "attributes"),
    [
        (
            route("10.77.0.0/20", table=254, kind=1, source="10.77.0.2"),
            rt_scope["link"],
            {"RTA_TABLE": 254, "RTA_OIF": 7, "RTA_PREFSRC": "10.77.0.2"},
        ),
        (
            route("10.77.0.2/32", table=255, kind=2, source="10.77.0.2"),
            rt_scope["host"],
            {"RTA_TABLE": 255, "RTA_OIF": 7, "RTA_PREFSRC": "10.77.0.2"},
        ),
        (
            route("10.77.0.5/32", table=254, kind=1, gateway="10.77.0.9"),
            rt_scope["universe"],
            {"RTA_TABLE": 254, "RTA_OIF": 7, "RTA_GATEWAY": "10.77.0.9"},
        ),
        (
            route("10.77.0.5/32", table=254, kind=1, gateway="fd77::9"),
            rt_scope["universe"],
            {"RTA_TABLE": 254, "RTA_OIF": 7, "RTA_VIA": {"family": 10, "addr": "fd77::9"}},
        ),
        (
            route("fd77::/64", table=254, kind=1, metric=256, index=None),
            rt_scope["universe"],
            {"RTA_TABLE": 254, "RTA_PRIORITY": 256},
        ),
    ],
)
def test_changes_of_routes_are_what_pyroute2_reads_of_them(
    wanted: messages.FoundRoute, scope: int, attributes: dict[str, Any]
) -> None:
    to, length = wanted.network.split("/")
    for add, kind, flags, protocol, its in (
        (True, RTM_NEWROUTE, NLM_F_CREATE, messages.KERNEL_PROTOCOL, scope),
        (False, RTM_DELROUTE, 0, 0, rt_scope["nowhere"]),
    ):
        changed = read(messages.build_route_change(wanted, add=add))
        header = changed["header"]
        assert (header["type"], header["flags"]) == (kind, NLM_F_REQUEST | NLM_F_ACK | flags)
        assert (changed["family"], changed["dst_len"], changed["type"]) == (
            wanted.family,
            int(length),
            wanted.kind,
        )
        assert (changed["proto"], changed["scope"]) == (protocol, its)
        assert dict(changed["attrs"]) == {"RTA_DST": to, **attributes}


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


@pytest.mark.parametrize(
    ("is_plain", "fields", "attributes"),
    [
        (True, {}, []),
        (False, {"tos": 8}, []),
        (False, {"src_len": 64}, []),
        (False, {"flags": 16}, []),
        (True, {}, [("RTA_MULTIPATH", [{"oif": 7, "attrs": []}])]),
        (False, {}, [("RTA_MULTIPATH", [{"oif": 7, "attrs": []}, {"oif": 8, "attrs": []}])]),
    ],
)
def test_a_route_of_several_hops_or_for_some_packets_is_told_apart(
    is_plain: bool, fields: dict[str, int], attributes: list[Any]
) -> None:
    built = rtmsg()
    built["family"], built["dst_len"] = 2, 24
    for name, value in fields.items():
        built[name] = value
    built["attrs"] = [("RTA_DST", "10.1.0.0"), *attributes]
    built.encode()
    assert messages.is_plain_route(bytes(built.data)) is is_plain


def test_a_route_that_is_cut_short_is_not_told_apart() -> None:
    with pytest.raises(ValueError, match="no route"):
        messages.is_plain_route(bytes(18))
