"""Which settings of the kernel are weaker than they could be."""

from __future__ import annotations

import pytest

from qmesh.mesh.sysctls import find_tracking_weakness, find_weaknesses

STRONG = {"all": 0, "eth0": 0}
CHECKED = {"all": 0, "eth0": 2}
FINE = {"route_localnet": STRONG, "accept_local": STRONG, "rp_filter": CHECKED, "arp_ignore": CHECKED}


def test_a_machine_that_is_set_well_has_none() -> None:
    assert list(find_weaknesses(FINE, {"net.ipv4.ip_forward": 0})) == []
    assert list(find_weaknesses({}, {})) == []


@pytest.mark.parametrize(
    ("name", "values", "seen", "cure"),
    [
        (
            "route_localnet",
            {"all": 0, "eth0": 1, "br0": 0},
            "via eth0",
            "net.ipv4.conf.eth0.route_localnet=0",
        ),
        (
            "route_localnet",
            {"all": 1, "eth0": 0},
            "via eth0",
            "net.ipv4.conf.all.route_localnet=0 net.ipv4.conf.eth0.route_localnet=0",
        ),
        ("accept_local", {"all": 0, "eth0.7": 1}, "via eth0.7", "net.ipv4.conf.eth0/7.accept_local=0"),
        ("rp_filter", {"all": 0, "eth0": 0, "eth1": 1}, "via eth0", "net.ipv4.conf.all.rp_filter=2"),
        ("arp_ignore", {"all": 0, "a": 0, "b": 0}, "via a, b", "net.ipv4.conf.all.arp_ignore=1"),
    ],
)
def test_a_weak_setting_is_named_with_its_interfaces_and_its_cure(
    name: str, values: dict[str, int], seen: str, cure: str
) -> None:
    (found,) = find_weaknesses({**FINE, name: values}, {})

    assert found.setting == f"net.ipv4.conf.*.{name}"
    assert found.seen.endswith(seen)
    assert found.cure == f"sysctl -w {cure}"
    assert found.always is (name in {"route_localnet", "accept_local"})


def test_what_all_interfaces_have_makes_one_strong() -> None:
    assert list(find_weaknesses({**FINE, "rp_filter": {"all": 1, "eth0": 0}}, {})) == []


def test_forwarding_is_one() -> None:
    (found,) = find_weaknesses(FINE, {"net.ipv4.ip_forward": 0, "net.ipv6.conf.all.forwarding": 1})

    assert (found.setting, found.cure) == (
        "net.ipv6.conf.all.forwarding",
        "sysctl -w net.ipv6.conf.all.forwarding=0",
    )


@pytest.mark.parametrize(
    ("tracked", "most", "is_full"),
    [(None, None, False), (0, 0, False), (94, 100, False), (95, 100, True), (100, 100, True)],
)
def test_a_full_table_of_connections_is_named(tracked: int | None, most: int | None, is_full: bool) -> None:
    found = list(find_tracking_weakness(tracked, most))
    assert [each.always for each in found] == [True] * is_full
    if found:
        assert found[0].seen.startswith(f"{tracked} of 100 connections")
        assert found[0].cure == "sysctl -w net.netfilter.nf_conntrack_max=200"
