"""Values of the mesh, made in few words."""

from __future__ import annotations

import base64
from typing import Any

from qmesh.mesh.audit.surroundings import AuditContext
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine
from qmesh.mesh.state import Guard, Peer, Tunnel, list_address_routes


def key(number: int) -> str:
    """The numbered octets as a key: public, private or preshared. None of them is in use anywhere."""
    return base64.b64encode(number.to_bytes(32, "big")).decode()


def machine(name: str, number: int, workers: int | None = 1, **named: Any) -> Machine:
    """One of a mesh, with the numbered key and address."""
    values = {"public_key": key(number), "address": f"10.77.0.{number}", **named}
    return Machine(name=name, workers=workers, **values)


def mesh(*machines: Machine, **named: Any) -> Inventory:
    """A mesh of node 2.0 whose control node is a."""
    values: dict[str, Any] = {
        "mesh": "0123456789abcdef",
        "network": "10.77.0.0/20",
        "control": "a",
        "node": "2.0",
        "base_port": 40000,
        "service_port": 51820,
        "revision": 7,
        "machines": machines,
    }
    return Inventory(**{**values, **named})


def cluster(*counts: int, **named: Any) -> Inventory:
    """Machines a (the control node), b, c and so on with these counts of workers."""
    return mesh(*(machine("abcdefgh"[at], at + 1, count) for at, count in enumerate(counts)), **named)


TUTORIAL = cluster(3, 4, 10)


def guard(*ports: int, **named: Any) -> Guard:
    """Of a worker machine with these ports, or four."""
    values: dict[str, Any] = {
        "role": "worker",
        "interface": "qmesh0",
        "kind": "wireguard",
        "listen_port": 51820,
        "control_address": "10.77.0.1",
        "service_port": 51821,
        "ports": ports or (40003, 40004, 40005, 40006),
    }
    return Guard(**{**values, **named})


def audit_context(*names: str, **named: Any) -> AuditContext:
    """What surrounds the first of these machines, the control node: fra-1 with hel-2, where none is named."""
    names = names or ("fra-1", "hel-2")
    values: dict[str, Any] = {
        "public_key": key(1),
        "names": {key(number): name for number, name in enumerate(names, 1)},
        "members": {name: f"10.77.0.{number}" for number, name in enumerate(names, 1)},
        "workers": (),
        "profile": "1.4",
        "is_control": True,
        "key_files": (),
        "secret_files": (),
        "config": None,
        "listeners": (),
    }
    return AuditContext(**{**values, **named})


def tunnel(*peers: Peer, **named: Any) -> Tunnel:
    """Of a control node, and up."""
    values: dict[str, Any] = {
        "interface": "qmesh0",
        "kind": "wireguard",
        "public_key": key(1),
        "listen_port": 51820,
        "addresses": ("10.77.0.1/20",),
        "mtu": 1420,
        "up": True,
        "peers": peers,
        **named,
    }
    routes = list_address_routes(values["addresses"]) if values["up"] else ()
    return Tunnel(**{"routes": routes, **values})
