"""Whom the kernel's check of sources refuses, and who is no matter of it."""

from __future__ import annotations

from qmesh.mesh.foreign.other_hooks.source_checks import Arrival, find_source_obstacles

REFUSED = Arrival("203.0.113.9", "198.51.100.7", "up.link", "eth0")


def test_an_interface_that_refuses_somebody_is_named_once_with_the_command():
    other = Arrival("203.0.113.10", "198.51.100.7", "up.link", "eth0")
    (found,) = find_source_obstacles([REFUSED, other])
    assert found.place == "source check, up.link"
    assert "from 203.0.113.9, as its own packets to there leave by eth0" in found.seen
    assert found.cure == "sysctl -w net.ipv4.conf.up/link.rp_filter=2"
    assert found.is_certain


def test_who_is_let_in_at_another_address_needs_no_more():
    """A LAN's interface that refuses the internet is right, and so is one of two uplinks."""
    assert list(find_source_obstacles([REFUSED, Arrival("203.0.113.9", "192.0.2.7", "eth0")])) == []
    assert list(find_source_obstacles([])) == []
