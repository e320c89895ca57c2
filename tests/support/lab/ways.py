"""Ways by which strangers come to a port, and the arrangements that they need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tests.support.lab.machines import Machine, _ip
from tests.support.lab.mesh import (
    ADDRESSES,
    CONTROL,
    CONTROL6,
    PEERS,
    PROTOCOLS,
    TUNNEL_ADDRESSES,
    Mesh,
    Probes,
    Role,
    given,
    ip,
)
from tests.support.lab.probe import (
    BROADCAST,
    DESTINATION_OPTIONS,
    IP_TRANSPARENT,
    IPV6_TRANSPARENT,
    Option,
    Place,
    Probe,
    Protocol,
)


def to_each(
    way: str,
    place: Place,
    targets: Iterable[str],
    port: int,
    *,
    source: str = "",
    options: tuple[Option, ...] = (),
    protocols: Iterable[Protocol] = PROTOCOLS,
) -> list[Probe]:
    return [
        Probe(way, place, protocol, target, port, source=source, options=options)
        for target in targets
        for protocol in protocols
    ]


def forged(place: Place, targets: Iterable[str], port: int) -> list[Probe]:
    """Datagrams in the control node's name; of a connection only the request could be forged."""
    return [
        Probe(
            "forged",
            place,
            "udp",
            target,
            port,
            source=CONTROL6 if ":" in target else CONTROL,
            options=(IPV6_TRANSPARENT if ":" in target else IP_TRANSPARENT,),
        )
        for target in targets
    ]


def lan_ways(place: Place, machine: Machine, role: Role) -> dict[str, Probes]:
    """Every way that a neighbour on the LAN has without forging who it is, and some that are odd."""
    ipv4, ipv6, link_local = machine.ipv4, f"{machine.ipv6}", f"{machine.link_local}%eth0"
    everyone = {"protocol": "udp", "listener": machine.name}

    def to(*targets: str, **more: Any) -> Probes:
        protocols = (more.pop("protocol"),) if "protocol" in more else PROTOCOLS
        return lambda port: [
            Probe("LAN", place, protocol, target, port, **more)
            for target in targets
            for protocol in protocols
        ]

    return {
        "IPv4": to(ipv4),
        "global IPv6": to(ipv6),
        "link-local IPv6": to(link_local),
        "tunnel address": to(*ADDRESSES[role]),
        "broadcast": to("192.168.0.255", options=(BROADCAST,), **everyone),
        "multicast": to("ff02::1%eth0", **everyone),
        "fragments": to(ipv4, ipv6, protocol="udp", size=4000),
        "extension header": to(ipv6, link_local, options=(DESTINATION_OPTIONS,)),
    }


LAN_WAYS = (
    "IPv4", "global IPv6", "link-local IPv6", "tunnel address",
    "broadcast", "multicast", "fragments", "extension header",
)  # fmt: skip
IMPOSTORS: Final = {
    "veth": ("link set cable down", "link set cable name qmesh0"),
    "bridge": ("link add qmesh0 type bridge forward_delay 0", "link set cable master qmesh0"),
    "macvlan": ("link add link cable name qmesh0 type macvlan",),
}


def translations(whereto: dict[int, str]) -> str:
    """A container runtime's table: for each port asked of this machine where it leads, 4 and 6."""
    rules = []
    for asked, target in whereto.items():
        to, to6 = target, f"[fd{target.partition('.')[2][:2]}::2]{target[target.rindex(':') :]}"
        how = "redirect to" if target.startswith(":") else "dnat ip to"
        match = f"meta l4proto {{ tcp, udp }} th dport {asked} fib daddr type local"
        if target.startswith(":"):
            rules.append(f"{match} {how} {target}")
        else:
            rules += [f"meta nfproto ipv4 {match} {how} {to}", f"meta nfproto ipv6 {match} dnat ip6 to {to6}"]
    text = "\n".join(rules)
    chains = "".join(
        f"chain {hook} {{ type nat hook {hook} priority -100;\n{text}\n}}\n"
        for hook in ("prerouting", "output")
    )
    return f"table inet theirs {{\n{chains}}}\n"


@contextlib.contextmanager
def cable(one: Machine, *addresses: str, to: Machine) -> Iterator[None]:
    """A cable between two machines, whose ends are called so; `one` has addresses at its end."""
    _ip(one.pid, f"link add cable type veth peer name cable netns {to.pid}\n")
    ip(one, "link set cable up", *given(addresses, "cable"))
    ip(to, "link set cable up")
    try:
        yield
    finally:
        one.run(["ip", "link", "del", "cable"], check=False)  # one that was renamed is gone by now


@contextlib.contextmanager
def impostor(machine: Machine, kind: str, *addresses: str) -> Iterator[None]:
    """An interface qmesh0 of another kind, at the end of the machine's cable."""
    ip(machine, *IMPOSTORS[kind], "link set qmesh0 up", *given(addresses, "qmesh0"))
    try:
        yield
    finally:
        ip(machine, "link del qmesh0")


@contextlib.contextmanager
def without_tunnel(mesh: Mesh, name: str) -> Iterator[None]:
    """Meanwhile the machine has no tunnel interface."""
    mesh.delete_tunnel(name)
    try:
        yield
    finally:
        restore_tunnel(mesh, name)


def restore_tunnel(mesh: Mesh, name: str) -> None:
    """The tunnel of a machine anew, and connected: the others learn that it lost their sessions."""
    mesh.make_tunnel(name)
    for peer in PEERS[name]:
        assert mesh.at[name].ping(TUNNEL_ADDRESSES[peer][0].partition("/")[0])


def published(
    mesh: Mesh,
    place: str,
    container: str,
    offset: int,
    options: tuple[Option, ...] = (),
    source_port: int = 0,
) -> Probes:
    """Probes to the port that the worker machine publishes for a container, 4 and 6."""
    return lambda port: [
        Probe(
            "published",
            mesh.at[place],
            protocol,
            f"{target}",
            port + offset,
            source_port=source_port,
            options=options if protocol == "tcp" else (),
            listener=container,
        )
        for target in (mesh.worker.ipv4, mesh.worker.ipv6)
        for protocol in PROTOCOLS
    ]


NETS: Final = {"container-a": ("172.17.0.2", "fd17::2"), "container-b": ("172.18.0.2", "fd18::2")}
