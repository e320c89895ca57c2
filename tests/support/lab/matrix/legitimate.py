"""Who must get through."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final

from tests.support.lab.matrix.arrangements import (
    MASQUERADE,
    TO_WORKER,
    docker_publishes,
    routed_back,
    with_rules,
)
from tests.support.lab.matrix.case import Legitimate, Overlay
from tests.support.lab.matrix.hostile import own_addresses
from tests.support.lab.mesh import (
    ADDRESSES,
    GUARDED,
    LAST_WORKER,
    MEMBERSHIP,
    NEIGHBOUR,
    OF_CONTROL,
    OF_MESH,
    PORTS,
    PROTOCOLS,
    SILENT_OWN,
    SILENT_WORKER,
    SSH,
    USER,
    WORKER,
    Mesh,
    Role,
)
from tests.support.lab.probe import Option, Probe
from tests.support.lab.ways import NETS, lan_ways, to_each, translations


def _from_outside(way: str) -> Legitimate:
    return Legitimate(
        f"SSH from the LAN: {way}",
        lambda mesh, role, overlay: [
            probe
            for probe in lan_ways(mesh.at["attacker"], mesh.machines[role], role)[way](SSH)
            if probe.protocol == "tcp"
        ],
    )


def _outward(number: int, what: str) -> Legitimate:
    return Legitimate(
        f"outward, from {what}",
        lambda mesh, role, overlay: [
            Probe("outward", mesh.at[role], protocol, target, port, source_port=number)
            for target, protocol, port in itertools.product(
                (mesh.member.ipv4, f"{mesh.member.ipv6}"), PROTOCOLS, (SSH, WORKER)
            )
        ],
    )


def _root_asks(how: str, options: tuple[Option, ...]) -> Legitimate:
    return Legitimate(
        f"root of the control machine to its own membership service{how}",
        lambda mesh, role, overlay: [
            Probe("own", mesh.at[role], "tcp", _of(ADDRESSES[role], overlay), MEMBERSHIP, options=options)
        ],
        ("control",),
    )


def _of(addresses: tuple[str, ...], overlay: Overlay) -> str:
    return addresses[overlay == "IPv6"]


def _into(container: str) -> Callable[[Mesh, Role, Overlay], list[Probe]]:
    return lambda mesh, role, overlay: [
        Probe(
            "published",
            mesh.at["control"],
            protocol,
            _of(TO_WORKER, overlay),
            WORKER,
            listener=container,
        )
        for protocol in PROTOCOLS
    ]


LEGITIMATE: Final = (
    Legitimate(
        "control node to every worker",
        lambda mesh, role, overlay: [
            probe
            for port in (WORKER, LAST_WORKER)
            for probe in to_each("control node", mesh.at["control"], [_of(TO_WORKER, overlay)], port)
        ],
        ("worker",),
    ),
    Legitimate(
        "control node to a worker in Docker",
        lambda mesh, role, overlay: [
            Probe("published", mesh.at["control"], protocol, "10.77.0.2", WORKER, listener="container-a")
            for protocol in PROTOCOLS
        ],
        ("worker",),
        docker_publishes({WORKER: WORKER}),
        overlays=("IPv4",),
    ),
    *(
        Legitimate(
            f"control node to a worker in {container}",
            _into(container),
            ("worker",),
            with_rules(translations({WORKER: f"{NETS[container][0]}:{WORKER}"})),
        )
        for container in NETS
    ),
    Legitimate(
        "the control machine to its own workers",
        lambda mesh, role, overlay: [
            probe
            for port in (WORKER, LAST_WORKER)
            for probe in to_each("own", mesh.at["control"], own_addresses(mesh, role), port)
        ],
        ("control",),
    ),
    Legitimate(
        "the machine itself, root and users, to its closed ports that are no workers'",
        lambda mesh, role, overlay: [
            Probe("own", mesh.at[role], protocol, target, port, user=user)
            for target in own_addresses(mesh, role)
            for port in GUARDED
            for protocol in PROTOCOLS
            for user in (0, USER)
        ],
    ),
    Legitimate(
        "control node to the ports that it reaches besides workers'",
        lambda mesh, role, overlay: [
            probe
            for port in (OF_CONTROL, OF_MESH)
            for probe in to_each("control node", mesh.at["control"], [_of(TO_WORKER, overlay)], port)
        ],
        ("worker",),
    ),
    Legitimate(
        "control node to such a port of a container",
        lambda mesh, role, overlay: [
            Probe(
                "published",
                mesh.at["control"],
                protocol,
                _of(TO_WORKER, overlay),
                port,
                listener="container-a",
            )
            for port in (OF_CONTROL, OF_MESH)
            for protocol in PROTOCOLS
        ],
        ("worker",),
        with_rules(
            translations({port: f"{NETS['container-a'][0]}:{port}" for port in (OF_CONTROL, OF_MESH)})
        ),
    ),
    Legitimate(
        "members to a port that all of them reach",
        lambda mesh, role, overlay: [
            probe
            for name in {"control": ("member", "worker"), "worker": ("member",)}[role]
            for probe in to_each("member", mesh.at[name], [_of(ADDRESSES[role], overlay)], OF_MESH)
        ],
    ),
    Legitimate(
        "members to the membership service",
        lambda mesh, role, overlay: [
            Probe("member", mesh.at[name], "tcp", _of(ADDRESSES["control"], overlay), MEMBERSHIP)
            for name in ("member", "worker")
        ],
        ("control",),
    ),
    Legitimate(
        "a member to the membership service, and its answer",
        lambda mesh, role, overlay: [
            Probe("member", mesh.at["worker"], "tcp", _of(ADDRESSES["control"], overlay), MEMBERSHIP)
        ],
        ("worker",),
    ),
    _root_asks("", ()),
    _root_asks(", bound to the tunnel", ((1, 25, b"qmesh0"),)),  # SOL_SOCKET, SO_BINDTODEVICE
    Legitimate(
        "a local user to the service's port of others",
        lambda mesh, role, overlay: [
            Probe("user", mesh.at[role], "tcp", target, MEMBERSHIP, user=USER)
            for target in (mesh.attacker.ipv4, f"{mesh.attacker.ipv6}")
        ],
    ),
    Legitimate(
        "the control machine's user to a worker whose port has the service's number",
        lambda mesh, role, overlay: [
            Probe("user", mesh.at["control"], "tcp", _of(TO_WORKER, overlay), MEMBERSHIP, user=USER)
        ],
        ("control",),
    ),
    *map(_from_outside, ("IPv4", "global IPv6", "link-local IPv6", "extension header")),
    Legitimate(
        "SSH on the machine itself",
        lambda mesh, role, overlay: to_each(
            "own", mesh.at[role], own_addresses(mesh, role), SSH, protocols=["tcp"]
        ),
    ),
    *itertools.starmap(
        _outward,
        (
            (PORTS[0] - 1, "a worker port's neighbour"),
            (SILENT_WORKER, "a worker port's number"),
            (NEIGHBOUR + 1, "the other neighbour"),
            (SILENT_OWN, "another closed port's number"),
        ),
    ),
    Legitimate(
        "a container's masqueraded connection from a worker port's number",
        lambda mesh, role, overlay: [
            Probe("outward", mesh.at["container-a"], protocol, target, SSH, source_port=SILENT_WORKER)
            for target, protocol in itertools.product(
                (mesh.attacker.ipv4, f"{mesh.attacker.ipv6}"), PROTOCOLS
            )
        ],
        ("worker",),
        with_rules(f"table inet theirs {{\n{MASQUERADE}\n}}\n"),
    ),
    Legitimate(
        "routing for others to equal port numbers",
        lambda mesh, role, overlay: [
            *to_each("into", mesh.at["attacker"], ("10.50.0.2", "fd50::2"), WORKER),
            *to_each("out of", mesh.at["beyond"], (mesh.member.ipv4, f"{mesh.member.ipv6}"), WORKER),
        ],
        ("worker",),
        routed_back,
    ),
)
