"""A mesh of any size, made without inviting every machine: keys of nobody, addresses of nowhere."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import sqlite3
import tempfile
from pathlib import Path

from qmesh.agent.bring_up import enable_tunnel_and_guard
from qmesh.agent.commands import init
from qmesh.agent.local import load_local
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine
from qmesh.mesh.values import Endpoint

INTERFACE = "qmesh0"
NETWORK = ipaddress.ip_network("10.64.0.0/16")
WORKERS = 8


def key(number: int) -> str:
    """A key of nobody."""
    return base64.b64encode(number.to_bytes(32, "little")).decode()


def machine(number: int, *, workers: int = WORKERS) -> Machine:
    """The numbered worker machine."""
    return Machine(
        name=f"worker-{number}",
        public_key=key(1000 + number),
        address=str(NETWORK[number + 1]),
        workers=workers,
        endpoints=(Endpoint(f"198.51.{number >> 8}.{number & 255}", 51820),),
    )


def inventory(members: int, *, workers: int = WORKERS) -> Inventory:
    """A mesh of a control node and so many machines more, each with as many workers."""
    control = Machine(
        name="control",
        public_key=key(1),
        address=str(NETWORK[1]),
        workers=workers,
        endpoints=(Endpoint("192.0.2.1", 51820),),
    )
    return Inventory(
        mesh="0123456789abcdef",
        network=str(NETWORK),
        control="control",
        node="2.0",
        base_port=20000,
        service_port=51820,
        revision=1,
        machines=(control, *(machine(number, workers=workers) for number in range(1, members + 1))),
    )


def control_node(members: int, *, workers: int = WORKERS) -> State:
    """The state of a control node that was told to be up; nobody tidies it up, or is to make a second one."""
    state = State(Path(tempfile.mkdtemp()) / "state")
    wish = init.InitOptions(
        name="control",
        endpoints=("192.0.2.1",),
        network=str(NETWORK),
        listen_port=None,
        workers=workers,
        node="2.0",
        worker_base_port=20000,
        config=None,
        interface=INTERFACE,
    )
    init.init(state, wish, apply=False)
    enable_tunnel_and_guard(state, load_local(state))
    others = (machine(number, workers=workers) for number in range(1, members + 1))
    rows = [
        (each.name, each.public_key, each.address, place, each.workers, endpoints(each), key(10**6 + place))
        for place, each in enumerate(others, start=2)
    ]
    with contextlib.closing(sqlite3.connect(state.registry_file)) as connection, connection:
        connection.executemany(
            "INSERT INTO machines"
            " (name, public_key, address, place, workers, state, endpoints, preshared_key)"
            " VALUES (?, ?, ?, ?, ?, 'active', ?, ?)",
            rows,
        )
    return state


def endpoints(each: Machine) -> str:
    """As the registry keeps them."""
    (endpoint,) = each.endpoints
    return f'[{{"host":"{endpoint.host}","port":{endpoint.port}}}]'


def invite(state: State, name: str) -> None:
    """A machine more: its throwaway peer."""
    with Registry(state.registry_file) as registry:
        registry.invite(name, workers=None, endpoint=None, expires_at=4 * 10**9, now=1)
