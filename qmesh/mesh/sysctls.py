"""Kernel settings by which a machine lets strangers come nearer than it must. Source: ip-sysctl.

None of them opens a worker port while the guard is whole: its tests run with all of them on. So qmesh
changes none. `route_localnet` and `accept_local` expose other services of the machine all the same; the
rest matters for the worker ports only while the guard is not whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

PER_INTERFACE: Final = ("route_localnet", "accept_local", "rp_filter", "arp_ignore")
"""In net.ipv4.conf, for `all` and for each interface."""
TRACKED, MOST_TRACKED = "net.netfilter.nf_conntrack_count", "net.netfilter.nf_conntrack_max"
FULL: Final = 0.95
"""The part of the table of tracked connections from which on it counts as full: it fills in bursts."""
STRICT: Final = 1
"""The value of `rp_filter` by which a packet has to come by the interface by which an answer would leave."""
FORWARDING: Final = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")


class Weakness(msgspec.Struct, frozen=True):
    """A setting that is weaker than it could be.

    always: whether it matters though the guard is whole.
    """

    setting: str
    wanted: str
    seen: str
    cure: str
    always: bool = False


class _Rule(msgspec.Struct, frozen=True):
    """together: how the kernel makes one value of those of `all` and of an interface."""

    combine: Callable[[int, int], int]
    is_weak: Callable[[int], bool]
    strong: int
    wanted: str
    seen: str
    always: bool = False


_RULES: Final = {
    "route_localnet": _Rule(
        max,
        bool,
        0,
        "only this machine reaches its loopback addresses",
        "neighbours reach 127.0.0.1",
        always=True,
    ),
    "accept_local": _Rule(
        max,
        bool,
        0,
        "packets from outside with an own address as source are dropped",
        "they are accepted",
        always=True,
    ),
    "rp_filter": _Rule(
        max, lambda value: value == 0, 2, "source addresses are checked", "forged sources are accepted"
    ),
    "arp_ignore": _Rule(
        max,
        lambda value: value == 0,
        1,
        "the tunnel address is not announced",
        "it is announced to neighbours",
    ),
}


def find_weaknesses(
    values: Mapping[str, Mapping[str, int]], forwarding: Mapping[str, int]
) -> Iterator[Weakness]:
    """Those of this machine.

    values: for each of PER_INTERFACE what it is, by interface; `all` is one of them.
    forwarding: what each of FORWARDING is.
    """
    for name, rule in _RULES.items():
        found = values.get(name, {})
        weak = [
            interface
            for interface, value in sorted(found.items())
            if interface != "all" and rule.is_weak(rule.combine(value, found.get("all", 0)))
        ]
        if weak:
            yield _build_weakness(name, rule, weak, is_of_all=bool(found.get("all", 0)))
    for setting, value in forwarding.items():
        if value:
            wanted = "no forwarding, unless this machine routes for others"
            yield Weakness(setting, wanted, "on", f"sysctl -w {setting}=0")


def find_tracking_weakness(tracked: int | None, most: int | None) -> Iterator[Weakness]:
    """A table of tracked connections that is full, or nearly: the kernel drops what begins another one.

    tracked, most: connections; None where the kernel tracks none.
    """
    if tracked is not None and most and tracked >= most * FULL:
        yield Weakness(
            "net.netfilter.nf_conntrack_max",
            "room for more connections",
            f"{tracked} of {most} connections are tracked: a full table drops what begins another",
            f"sysctl -w net.netfilter.nf_conntrack_max={most * 2}",
            always=True,
        )


def _build_weakness(name: str, rule: _Rule, weak: list[str], *, is_of_all: bool) -> Weakness:
    # What is off everywhere is put on, and what is on for all is put off, at `all`.
    places = ["all"] if is_of_all or rule.strong else []
    places += [] if rule.strong else weak
    settings = " ".join(f"{name_setting(place, name)}={rule.strong}" for place in places)
    return Weakness(
        f"net.ipv4.conf.*.{name}",
        rule.wanted,
        f"{rule.seen}, via {', '.join(weak)}",
        f"sysctl -w {settings}",
        rule.always,
    )


def name_setting(interface: str, name: str) -> str:
    """An interface's setting, as sysctl(8) takes it: a dot in an interface's name is a slash there."""
    return f"net.ipv4.conf.{interface.replace('.', '/')}.{name}"


def describe_outer_sysctl(ports: str) -> str:
    """What to do where the list of reserved ports cannot be written from inside. ports: the whole list."""
    setting = f"net.ipv4.ip_local_reserved_ports={ports}"
    return (
        f"/proc/sys is read-only here, as in containers: set it from outside, with `sysctl -w {setting}` on"
        f" the host, or in a network of its own with the container's option, such as `--sysctl {setting}`"
    )
