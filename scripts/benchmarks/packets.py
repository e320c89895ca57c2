"""Packets through the tunnel to a worker port, with the guard and without any table."""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import sample
from benchmarks.measuring import Figure

from qmesh.host import links, nftables, wireguard
from qmesh.mesh.enrolment import public_key_of
from qmesh.mesh.guard import held_script, load_script
from qmesh.mesh.model import Endpoint, Guard, Peer, Secret

NAMESPACE = "far"
NEAR, FAR = "10.64.0.2", "10.64.0.1"
PORT = 20008
SECONDS = 0.2
TIMES = 101
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


def figures() -> list[Figure]:
    """The far end is the control node, this end the worker machine."""
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

        def with_script(script: str) -> float:
            nftables.run(f"flush ruleset\n{script}")
            time.sleep(SECONDS / 5)
            return received_a_second()

        scripts = {"guard": load_script(guard) + held_script(guard), "stateful": STATEFUL, "none": ""}
        with flood():
            # In turn and many times: how the two ends share the processors changes by the second.
            taken = [{name: with_script(script) for name, script in scripts.items()} for _ in range(TIMES)]
    how = "kernel" if guard.kind == "wireguard" else "userspace"
    medians = {name: statistics.median(each[name] for each in taken) / 1e3 for name in scripts}
    ours, none = medians["guard"], medians["none"]
    size = f"{PAYLOAD_OCTETS} octets"
    work = f"packets a second to a worker, {how}"
    return [
        Figure(f"{work}, beside no table", size, ours, none, "k/s", f">= {LEAST} x", ours >= LEAST * none),
        Figure(f"{work}, beside one stateful rule", size, ours, medians["stateful"], "k/s", "", None),
        Figure(
            f"one stateful rule, {how}, beside no table", size, medians["stateful"], none, "k/s", "", None
        ),
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
        yield


@contextlib.contextmanager
def flood() -> Iterator[None]:
    """Meanwhile the control node sends as fast as it can."""
    with subprocess.Popen(far(__file__), stdout=subprocess.PIPE) as sender:
        assert sender.stdout is not None
        sender.stdout.readline()
        time.sleep(1)  # the first handshake is over after this
        try:
            yield
        finally:
            sender.kill()


def received_a_second() -> float:
    """What arrives."""
    before, began = arrived(), time.perf_counter()
    time.sleep(SECONDS)
    return (arrived() - before) / (time.perf_counter() - began)


def arrived() -> int:
    """UDP datagrams that reached a socket of this namespace, room for them or not. Source: proc(5)."""
    names, values = (
        line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Udp:")
    )
    counts = dict(zip(names, values, strict=True))
    return int(counts["InDatagrams"]) + int(counts["RcvbufErrors"])


def send() -> None:
    """Send for ever; called in the other namespace."""
    payload = bytes(PAYLOAD_OCTETS)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.connect((NEAR, PORT))
        print("ready", flush=True)
        while True:
            with contextlib.suppress(OSError):
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
    send()
