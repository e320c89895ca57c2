"""Packets and octets through the tunnel to a worker port, with both tables of the guard and without any."""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from benchmarks import sample
from benchmarks.measuring import Figure

from qmesh.host import wireguard
from qmesh.host.firewall import nftables
from qmesh.host.network import links
from qmesh.mesh.guard.script_text import render_release_script
from qmesh.mesh.guard.scripts import render_held_script, render_load_script
from qmesh.mesh.protocol.enrolment import derive_public_key
from qmesh.mesh.state import Guard, Peer
from qmesh.mesh.values import Endpoint, Secret

NAMESPACE = "far"
NEAR, FAR = "10.64.0.2", "10.64.0.1"
PORT = 20008
SECONDS = 0.2
PAYLOAD_OCTETS = 64
LEAST = 0.97


STATEFUL = """
table inet other {
    chain input {
        type filter hook input priority 0; policy accept;
        ct state invalid drop
    }
}
"""
"""The least firewall that knows connections: what it costs, every firewall does."""


def figures(ports: int, runs: int) -> list[Figure]:
    """The far end is the control node, this end the worker machine."""
    two_machines()
    guard = guard_with(ports)
    return [*packets_a_second(guard, runs), *octets_a_second(guard, runs)]


def guard_with(workers: int) -> Guard:
    """This machine's, with so many worker ports; the last is the one that is measured."""
    return Guard(
        role="worker",
        interface=sample.INTERFACE,
        kind=wireguard.detect_tunnel_kind(),
        listen_port=51820 + 64,
        control_address=FAR,
        service_port=51820,
        ports=tuple(range(PORT - workers + 1, PORT + 1)),
    )


def packets_a_second(guard: Guard, runs: int) -> list[Figure]:
    """Datagrams to a socket that nobody reads: what arrives is counted by the kernel."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind((NEAR, PORT))
        with sending("datagrams"):
            medians = medians_of(guard, runs, datagrams)
    return rows(guard, f"packets of {PAYLOAD_OCTETS} octets to a worker", "k/s", 1e3, medians)


def octets_a_second(guard: Guard, runs: int) -> list[Figure]:
    """One TCP connection."""
    with socket.create_server((NEAR, PORT)) as server, sending("stream"):
        connection, _ = server.accept()
        with connection, Reader(connection) as reader:
            medians = medians_of(guard, runs, lambda: reader.octets)
    return rows(guard, "throughput to a worker", "Mbit/s", 1e6 / 8, medians)


class Reader:
    """Reads all that comes, and counts it."""

    def __init__(self, connection: socket.socket) -> None:
        self.octets = 0
        self._connection = connection
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        room = bytearray(1 << 20)
        with contextlib.suppress(OSError):
            while got := self._connection.recv_into(room):
                self.octets += got

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()


def medians_of(guard: Guard, runs: int, counted: Callable[[], int]) -> dict[str, float]:
    """By ruleset, the median of what is counted in a second."""
    scripts = {
        "guard": render_load_script(guard) + render_held_script(guard),
        "stateful": STATEFUL,
        "none": "",
    }

    def with_script(script: str) -> float:
        nftables.run(f"flush ruleset\n{render_release_script()}{script}")
        time.sleep(SECONDS / 5)
        before, began = counted(), time.perf_counter()
        time.sleep(SECONDS)
        return (counted() - before) / (time.perf_counter() - began)

    # In turn and many times: how the two ends share the processors changes by the second.
    taken = [{name: with_script(script) for name, script in scripts.items()} for _ in range(runs)]
    nftables.run(f"flush ruleset\n{render_release_script()}")
    return {name: statistics.median(each[name] for each in taken) for name in scripts}


def rows(guard: Guard, work: str, unit: str, divisor: float, medians: dict[str, float]) -> list[Figure]:
    """Beside no table, which is what is promised; and beside the least firewall that knows connections."""
    how = "kernel" if guard.kind == "wireguard" else "userspace"
    size = f"{len(guard.ports):,} ports"
    ours, stateful, none = (medians[name] / divisor for name in ("guard", "stateful", "none"))
    return [
        Figure(
            f"{work}, {how}, beside no table", size, ours, none, unit, f">= {LEAST} x", ours >= LEAST * none
        ),
        Figure(f"{work}, {how}, beside one stateful rule", size, ours, stateful, unit, "", None),
    ]


def two_machines() -> None:
    """This namespace and another, with a tunnel over a veth pair."""
    ip("netns", "add", NAMESPACE)
    ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", NAMESPACE)
    ip("address", "add", "192.0.2.1/24", "dev", "near")
    ip("link", "set", "near", "up")
    ip("-n", NAMESPACE, "address", "add", "192.0.2.2/24", "dev", "far")
    ip("-n", NAMESPACE, "link", "set", "far", "up")
    make_end(sample.INTERFACE, own=64, other=128, address=NEAR, peer=FAR, endpoint="192.0.2.2")
    code = "from benchmarks.packets import make_far; make_far()"
    subprocess.run(far("-c", code), check=True)


def make_far() -> None:
    """The other end; called in its namespace."""
    make_end("far0", own=128, other=64, address=FAR, peer=NEAR, endpoint="192.0.2.1")


def make_end(interface: str, *, own: int, other: int, address: str, peer: str, endpoint: str) -> None:
    """One end of the tunnel."""
    backend = wireguard.find_backend(interface)
    backend.create(interface)
    backend.set_key(interface, Secret(sample.key(own)))
    backend.set_listen_port(interface, 51820 + own)
    backend.set_peers(
        interface,
        [
            Peer(
                public_key=derive_public_key(Secret(sample.key(other))),
                allowed_ips=(f"{peer}/32",),
                endpoint=Endpoint(endpoint, 51820 + other),
            )
        ],
    )
    links.set_mtu(interface, 1420)
    links.add_address(interface, f"{address}/16")
    links.set_link_state(interface, up=True)


@contextlib.contextmanager
def sending(what: str) -> Iterator[None]:
    """Meanwhile the control node sends as fast as it can: `datagrams`, or a `stream`."""
    with subprocess.Popen(far(__file__, what), stdout=subprocess.PIPE) as sender:
        assert sender.stdout is not None
        sender.stdout.readline()
        time.sleep(1)  # the first handshake is over after this
        try:
            yield
        finally:
            sender.kill()


def datagrams() -> int:
    """UDP datagrams that reached a socket of this namespace, room for them or not. Source: proc(5)."""
    names, values = (
        line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Udp:")
    )
    counts = dict(zip(names, values, strict=True))
    return int(counts["InDatagrams"]) + int(counts["RcvbufErrors"])


def send(what: str) -> None:
    """Send for ever; called in the other namespace."""
    kind = socket.SOCK_DGRAM if what == "datagrams" else socket.SOCK_STREAM
    payload = bytes(PAYLOAD_OCTETS if what == "datagrams" else 1 << 20)
    with socket.socket(socket.AF_INET, kind) as here:
        here.connect((NEAR, PORT))
        print("ready", flush=True)
        while True:
            with contextlib.suppress(OSError):
                here.send(payload)


def far(*words: str) -> list[str]:
    """The command that runs Python in the other namespace."""
    return ["ip", "netns", "exec", NAMESPACE, sys.executable, *words]


def ip(*words: str) -> None:
    """Have the program ip do something."""
    subprocess.run(["ip", *words], check=True)


if __name__ == "__main__":
    send(sys.argv[1])
