"""Packets through the tunnel to a worker port, with the guard and without any table."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import sample
from benchmarks.measuring import Figure, paired

from qmesh.host import links, nftables, wireguard
from qmesh.mesh.enrolment import public_key_of
from qmesh.mesh.guard import load_script
from qmesh.mesh.model import Endpoint, Guard, Peer, Secret

NAMESPACE = "far"
NEAR, FAR = "10.64.0.2", "10.64.0.1"
PORT = 20008
SECONDS = 0.7
PAIRS = 25
PAYLOAD_OCTETS = 64
LEAST = 0.97


def figures() -> list[Figure]:
    """One row: the far end is the control node, this end the worker machine."""
    with two_machines(), worker():
        guard = Guard(
            role="worker",
            interface=sample.INTERFACE,
            kind=wireguard.available_kind(),
            listen_port=51820,
            control_address=FAR,
            service_port=51820,
            ports=tuple(range(PORT, PORT + sample.WORKERS)),
        )

        def guarded(_: int) -> float:
            nftables.run(load_script(guard))
            return received_a_second()

        def open_to_all(_: int) -> float:
            nftables.run("flush ruleset")
            return received_a_second()

        ours, none = paired(PAIRS, guarded, open_to_all)
    how = "kernel" if guard.kind == "wireguard" else "userspace"
    return [
        Figure(
            f"packets a second to a worker, {how}; no table",
            f"{PAYLOAD_OCTETS} octets",
            ours / 1e3,
            none / 1e3,
            "k/s",
            f">= {LEAST} x",
            ours >= LEAST * none,
        )
    ]


@contextlib.contextmanager
def two_machines() -> Iterator[None]:
    """This namespace and another, with a tunnel over a veth pair."""
    ip("netns", "add", NAMESPACE)
    ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", NAMESPACE)
    ip("address", "add", "192.0.2.1/24", "dev", "near")
    ip("link", "set", "near", "up")
    ip("-n", NAMESPACE, "address", "add", "192.0.2.2/24", "dev", "far")
    ip("-n", NAMESPACE, "link", "set", "far", "up")
    make_end(sample.INTERFACE, own=64, other=128, address=NEAR, peer=FAR, endpoint="192.0.2.2")
    code = "from benchmarks.packets import make_far; make_far()"
    run_far("-c", code)
    try:
        yield
    finally:
        run_far("-c", "from qmesh.host import wireguard; wireguard.backend_for('far0').delete('far0')")
        wireguard.backend_for(sample.INTERFACE).delete(sample.INTERFACE)
        ip("netns", "delete", NAMESPACE)


def make_far() -> None:
    """The other end; called in its namespace."""
    make_end("far0", own=128, other=64, address=FAR, peer=NEAR, endpoint="192.0.2.1")


def make_end(interface: str, *, own: int, other: int, address: str, peer: str, endpoint: str) -> None:
    """One end of the tunnel."""
    backend = wireguard.backend_for(interface)
    backend.create(interface)
    backend.set_key(interface, Secret(sample.key(own)))
    backend.set_listen_port(interface, 51820 + own)
    backend.set_peers(
        interface,
        [
            Peer(
                public_key=public_key_of(Secret(sample.key(other))),
                allowed_ips=(f"{peer}/32",),
                endpoint=Endpoint(endpoint, 51820 + other),
            )
        ],
    )
    links.set_mtu(interface, 1420)
    links.add_address(interface, f"{address}/16")
    links.set_up(interface, up=True)


@contextlib.contextmanager
def worker() -> Iterator[None]:
    """A socket at the port; nobody reads it, and what arrives is counted by the kernel."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind((NEAR, PORT))
        received_a_second()  # the first handshake is over after this
        yield


def received_a_second() -> float:
    """What arrives while the control node sends as fast as it can."""
    with subprocess.Popen(far(__file__, str(SECONDS + 0.5)), stdout=subprocess.PIPE) as sender:
        assert sender.stdout is not None
        sender.stdout.readline()
        time.sleep(0.2)
        before, began = arrived(), time.perf_counter()
        time.sleep(SECONDS)
        count, taken = arrived() - before, time.perf_counter() - began
    return count / taken


def arrived() -> int:
    """UDP datagrams that reached a socket of this namespace, room for them or not. Source: proc(5)."""
    names, values = (
        line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Udp:")
    )
    counts = dict(zip(names, values, strict=True))
    return int(counts["InDatagrams"]) + int(counts["RcvbufErrors"])


def send(seconds: float) -> None:
    """Send for so long; called in the other namespace."""
    payload = bytes(PAYLOAD_OCTETS)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.connect((NEAR, PORT))
        print("ready", flush=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                for _ in range(64):
                    here.send(payload)


def far(*words: str) -> list[str]:
    """The command that runs Python in the other namespace."""
    return ["ip", "netns", "exec", NAMESPACE, sys.executable, *words]


def run_far(*words: str) -> None:
    """Run Python in the other namespace."""
    subprocess.run(far(*words), check=True, cwd=Path(__file__).parents[1])


def ip(*words: str) -> None:
    """Have the program ip do something."""
    subprocess.run(["ip", *words], check=True)


if __name__ == "__main__":
    send(float(sys.argv[1]))
