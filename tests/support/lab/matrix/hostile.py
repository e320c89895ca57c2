"""Who must not reach a worker port, another closed port, or the membership service."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Callable
from typing import Final

from tests.support.lab.matrix.arrangements import (
    TO_WORKER,
    address_taken_over,
    bears_the_tunnels_name,
    docker_publishes,
    later_interface,
    loopback_routed,
    way_by_the_hub,
    way_to_the_hubs_lan,
    with_rules,
)
from tests.support.lab.matrix.case import Hostile
from tests.support.lab.mesh import (
    ADDRESSES,
    CONTROL,
    CONTROL6,
    ELSEWHERE,
    GUARDED,
    LAST_WORKER,
    MEMBER_BY_HUB,
    MEMBERSHIP,
    NEIGHBOUR,
    OF_CONTROL,
    OF_MESH,
    OWN,
    PROTOCOLS,
    SILENT_WORKER,
    USER,
    WORKER,
    WORKER_BY_HUB,
    Mesh,
    Role,
)
from tests.support.lab.probe import Option, Probe
from tests.support.lab.ways import (
    IMPOSTORS,
    LAN_WAYS,
    NETS,
    forged,
    lan_ways,
    published,
    to_each,
    translations,
)


def _lan(way: str) -> Hostile:
    return Hostile(
        f"LAN: {way}",
        lambda mesh, role, port: lan_ways(mesh.at["attacker"], mesh.machines[role], role)[way](port),
        ports=(WORKER, LAST_WORKER),
    )


def _in_its_name(mesh: Mesh, role: Role, port: int) -> list[Probe]:
    attacker, machine = mesh.at["attacker"], mesh.machines[role]
    return [
        *to_each("taken over", attacker, (machine.ipv4, "10.77.0.2"), port, source=CONTROL),
        *to_each("taken over", attacker, [f"{machine.ipv6}"], port, source=CONTROL6),
    ]


OFFSET: Final = ELSEWHERE - WORKER


def _by_docker(offset: int) -> Callable[[Mesh, Role, int], list[Probe]]:
    return lambda mesh, role, port: [
        Probe(
            "published",
            mesh.at["attacker"],
            protocol,
            mesh.worker.ipv4,
            port + offset,
            listener="container-a",
        )
        for protocol in PROTOCOLS
    ]


def _from_behind(place: str, own: tuple[str, ...]) -> Callable[[Mesh, Role, int], list[Probe]]:
    return lambda mesh, role, port: to_each(
        "from behind", mesh.at[place], (*own, mesh.worker.ipv4, "10.77.0.2"), port
    )


def _straight_to(container: str) -> Callable[[Mesh, Role, int], list[Probe]]:
    return lambda mesh, role, port: to_each("straight", mesh.at["attacker"], NETS[container], port)


_RESET_IN_THE_END: Final = ((socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)),)
"""So that the next connection can have the same port. Source: socket(7)."""


def _published(container: str, place: str, offset: int, inside: int = 0, source_port: int = 0) -> Hostile:
    what = {0: "under its number", OFFSET: "under another"}[offset]
    where = NETS[container][0] if container in NETS else "10.50.0.2"
    whereto = {port + offset: f"{where}:{inside or port}" for port in (WORKER, NEIGHBOUR)}
    theirs = f", a port of its own under a worker's ({place})" if inside else f" {what} ({place})"
    theirs += ", from a worker port's number" if source_port else ""
    options = _RESET_IN_THE_END if source_port else ()
    return Hostile(
        f"{container}'s port published{theirs}",
        lambda mesh, role, port: published(mesh, place, container, offset, options, source_port)(port),
        ("worker",),
        with_rules(translations(whereto)),
    )


def _earlier(verdict: str) -> Hostile:
    hooks = ["prerouting", "output", *(["input", "forward"] if verdict != "notrack" else [])]
    first = "-190" if verdict.startswith("ct") else "raw"
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority {first}; {verdict}; }}\n" for hook in hooks
    )
    return Hostile(
        f"LAN, with another table's earlier `{verdict}`",
        lambda mesh, role, port: [
            probe
            for way in ("IPv4", "global IPv6")
            for probe in lan_ways(mesh.at["attacker"], mesh.machines[role], role)[way](port)
        ],
        arranged=with_rules(f"table inet theirs {{\n{chains}}}\n"),
    )


def own_addresses(mesh: Mesh, role: Role) -> tuple[str, ...]:
    machine = mesh.machines[role]
    return ("127.0.0.1", "::1", machine.ipv4, f"{machine.ipv6}", *ADDRESSES[role])


_REDIRECTS: Final = {ELSEWHERE: f":{WORKER}", ELSEWHERE + NEIGHBOUR - WORKER: f":{NEIGHBOUR}"}
_DEVICE: Final = ((1, 25, b"cable"),)  # SOL_SOCKET, SO_BINDTODEVICE


def _user_asks(how: str, address: str, options: tuple[Option, ...] = (), source_port: int = 0) -> Hostile:
    """Of each machine's own users, the membership service of a mesh of that address."""
    return Hostile(
        f"a local user to the membership service at {address}{how}",
        lambda mesh, role, port: [
            Probe(
                "user",
                mesh.at[role],
                "tcp",
                address,
                MEMBERSHIP,
                options=options,
                source_port=source_port,
                user=USER,
            )
        ],
        others=False,
        overlays=("IPv6" if ":" in address else "IPv4",),
    )


_WHAT: Final = "to closed ports that are no workers'"
_WHERETO: Final = {port: f"{NETS['container-a'][0]}:{port}" for port in (*GUARDED, NEIGHBOUR)}
_TO_GUARDED: Final = (
    Hostile(
        f"LAN, every way, {_WHAT}",
        lambda mesh, role, port: [
            probe
            for way in LAN_WAYS
            for probe in lan_ways(mesh.at["attacker"], mesh.machines[role], role)[way](port)
        ],
        ports=GUARDED,
    ),
    Hostile(
        f"control node's address forged, {_WHAT}",
        lambda mesh, role, port: forged(
            mesh.at["attacker"],
            (mesh.machines[role].ipv4, f"{mesh.machines[role].ipv6}", *ADDRESSES[role]),
            port,
        ),
        ports=GUARDED,
    ),
    Hostile(
        f"a veth with the tunnel's name, {_WHAT}",
        lambda mesh, role, port: to_each(
            "impostor", mesh.at["attacker"], ADDRESSES[role], port, options=_DEVICE
        ),
        arranged=bears_the_tunnels_name("veth"),
        others=False,
        ports=GUARDED,
    ),
    Hostile(
        f"a container behind the machine, {_WHAT}",
        _from_behind("container-a", ("172.17.0.1", "fd17::1")),
        ("worker",),
        ports=GUARDED,
    ),
    Hostile(
        f"container-a's port published, {_WHAT}",
        lambda mesh, role, port: published(mesh, "attacker", "container-a", 0)(port),
        ("worker",),
        with_rules(translations(_WHERETO)),
        ports=GUARDED,
    ),
    Hostile(f"container-a's own address, {_WHAT}", _straight_to("container-a"), ("worker",), ports=GUARDED),
    Hostile(
        "another member, through the tunnel, to what the machine alone or the control node too reaches",
        lambda mesh, role, port: to_each("member", mesh.at["member"], ADDRESSES[role], port),
        others=False,
        ports=(OWN, OF_CONTROL),
    ),
    Hostile(
        "the control node, to a port that only the machine itself reaches",
        lambda mesh, role, port: to_each("control node", mesh.at["control"], ADDRESSES[role], port),
        ("worker",),
        others=False,
        ports=(OWN,),
    ),
    Hostile(
        "a member, to a port of the control node's LAN that all members reach on the control machine",
        lambda mesh, role, port: to_each(
            "by the hub", mesh.at["member"], [mesh.attacker.ipv4], port, protocols=["udp"]
        ),
        ("control",),
        way_to_the_hubs_lan,
        others=False,
        ports=(OF_MESH,),
    ),
)


_TUNNEL: Final = ((1, 25, b"qmesh0"),)  # SOL_SOCKET, SO_BINDTODEVICE
HOSTILE: Final = (
    *map(_lan, LAN_WAYS),
    Hostile(
        "control node's address forged, tunnel up",
        lambda mesh, role, port: forged(
            mesh.at["attacker"],
            (mesh.machines[role].ipv4, f"{mesh.machines[role].ipv6}", *ADDRESSES[role]),
            port,
        ),
    ),
    Hostile(
        "control node's address taken over, tunnel down",
        _in_its_name,
        ("worker",),
        address_taken_over(deleted=False),
    ),
    Hostile(
        "control node's address taken over, tunnel deleted",
        _in_its_name,
        ("worker",),
        address_taken_over(deleted=True),
    ),
    Hostile(
        "127.0.0.1 from the LAN, `route_localnet` on",
        lambda mesh, role, port: to_each(
            "LAN", mesh.at["attacker"], ["127.0.0.1"], port, source=mesh.attacker.ipv4
        ),
        arranged=loopback_routed,
    ),
    Hostile(
        "another port redirected to the worker",
        lambda mesh, role, port: to_each(
            "redirect",
            mesh.at["attacker"],
            (mesh.machines[role].ipv4, f"{mesh.machines[role].ipv6}"),
            port + OFFSET,
        ),
        arranged=with_rules(translations(_REDIRECTS)),
    ),
    *map(_earlier, ("accept", "notrack", "ct state established,new accept")),
    Hostile(
        "an interface made after the guard",
        lambda mesh, role, port: to_each("later", mesh.at["attacker"], ["10.99.0.2"], port),
        arranged=later_interface,
    ),
    *(
        Hostile(
            f"a {kind} with the tunnel's name",
            lambda mesh, role, port: to_each(
                "impostor", mesh.at["attacker"], ADDRESSES[role], port, options=_DEVICE
            ),
            arranged=bears_the_tunnels_name(kind),
            others=False,
        )
        for kind in IMPOSTORS
    ),
    Hostile(
        "another member, through the tunnel",
        lambda mesh, role, port: to_each("member", mesh.at["member"], ADDRESSES[role], port),
        others=False,
    ),
    Hostile(
        "another member, to what is no worker",
        lambda mesh, role, port: to_each("member", mesh.at["member"], ADDRESSES[role], NEIGHBOUR),
        others=False,
    ),
    Hostile(
        "another member, by an unguarded hub",
        lambda mesh, role, port: to_each(
            "by the hub", mesh.at["member"], [WORKER_BY_HUB], port, source=MEMBER_BY_HUB
        ),
        others=False,
    ),
    Hostile(
        "the hub's LAN, by a hub that masquerades",
        lambda mesh, role, port: to_each("by the hub", mesh.at["attacker"], ["10.77.0.2", "fd77::2"], port),
        ("control",),
        way_by_the_hub,
        others=False,
    ),
    Hostile(
        "the hub's LAN, by a hub, the control node's address forged",
        lambda mesh, role, port: forged(mesh.at["attacker"], TO_WORKER, port),
        ("control",),
        way_by_the_hub,
        others=False,
    ),
    Hostile(
        "local users",
        lambda mesh, role, port: to_each("local", mesh.at["worker"], own_addresses(mesh, role), port),
        ("worker",),
    ),
    Hostile(
        "local users, the control node's address forged",
        lambda mesh, role, port: forged(mesh.at["worker"], ("127.0.0.1", *TO_WORKER), port),
        ("worker",),
    ),
    *(
        Hostile(
            f"{what} behind the machine",
            _from_behind(place, own),
            ("worker",),
        )
        for what, place, own in (
            ("a container", "container-a", ("172.17.0.1", "fd17::1")),
            ("a routed network", "beyond", ("10.50.0.1", "fd50::1")),
        )
    ),
    *(
        _published(container, place, offset)
        for container, (place, offset) in itertools.product(
            NETS, (("attacker", 0), ("worker", 0), ("attacker", OFFSET))
        )
    ),
    *(
        _published(container, place, 0, inside=8080)
        for container, place in itertools.product(NETS, ("attacker", "worker"))
    ),
    _published("beyond", "attacker", OFFSET),
    _published("container-a", "worker", 0, source_port=SILENT_WORKER),
    *(
        Hostile(
            f"Docker's own rules, published under {'another number' if offset else 'its number'}",
            _by_docker(offset),
            ("worker",),
            docker_publishes({port + offset: port for port in (WORKER, NEIGHBOUR)}),
        )
        for offset in (0, OFFSET)
    ),
    Hostile(
        "Docker's own rules, a port of its own under a worker's",
        _by_docker(0),
        ("worker",),
        docker_publishes(dict.fromkeys((WORKER, NEIGHBOUR), 8080)),
    ),
    *(
        Hostile(
            f"{container}'s own address",
            _straight_to(container),
            ("worker",),
        )
        for container in NETS
    ),
    *_TO_GUARDED,
    *(
        case
        for address in ADDRESSES["control"]
        for case in (
            _user_asks("", address),
            _user_asks(", bound to the tunnel", address, _TUNNEL),
            _user_asks(", from a worker port's number", address, source_port=SILENT_WORKER),
        )
    ),
)
