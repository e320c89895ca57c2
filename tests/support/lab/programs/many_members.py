"""Many members of one mesh on one machine: a WireGuard interface for each, and its workers.

It reads JSON from standard input: `Crowd`. Whoever connects to a worker is let go at once. Each worker has a
connection to the control process, as those of node 2.1 do. It says `ready`, and runs until it is killed.
"""

# ruff: noqa: T201  # a program of the lab, it prints that it is ready

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from qmesh.host.wireguard import uapi
from qmesh.mesh.state import Peer
from qmesh.mesh.values import Endpoint, Secret
from tests.support.waiting import wait_until

EPHEMERAL: Final = "10000 30000"
"""Ports from which workers call, and at which none listens."""
FIRST_USER: Final = 10_000
CAPABILITIES: Final = ("--inh-caps=+net_admin,+dac_override", "--ambient-caps=+net_admin,+dac_override")
"""The second for /dev/net/tun, which may be root's alone."""


class Member(msgspec.Struct, frozen=True):
    """One member. ports: of its workers."""

    address: str
    private_key: str
    preshared_key: str
    listen_port: int
    ports: tuple[int, ...]


class Crowd(msgspec.Struct, frozen=True):
    """All members. control: its address in the tunnel. stream_port: where it waits for workers."""

    control: str
    control_key: str
    endpoint: str
    endpoint_port: int
    stream_port: int
    members: tuple[Member, ...]


def make_tunnel(number: int, member: Member, crowd: Crowd) -> None:
    """The member's interface. What comes from its address leaves by it, whatever the others have.

    Each is another user's, as a user may have few inotify instances, and each of these processes has one.
    """
    interface = f"wg{number}"
    as_user = ("setpriv", f"--reuid={FIRST_USER + number}", "--clear-groups", *CAPABILITIES)
    tunnel = subprocess.Popen([*as_user, "wireguard-go", "-f", interface], stdout=subprocess.DEVNULL)
    wait_until(lambda: uapi.is_responding(interface) or tunnel.poll() is not None, 30)
    peer = Peer(
        public_key=crowd.control_key,
        allowed_ips=(f"{crowd.control}/32",),
        endpoint=Endpoint(crowd.endpoint, crowd.endpoint_port),
        preshared_key=Secret(member.preshared_key),
        keepalive_s=25,
    )
    lines = [*uapi.key_lines(Secret(member.private_key)), f"listen_port={member.listen_port}"]
    uapi.configure(interface, [*lines, *uapi.peer_lines(peer)])
    commands = (
        f"addr add {member.address}/32 dev {interface}",
        f"link set {interface} up",
        f"route add {crowd.control}/32 dev {interface} table {1000 + number}",
        f"rule add from {member.address} lookup {1000 + number}",
    )
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


def main() -> None:
    """Make all of it, and answer."""
    crowd = msgspec.json.decode(sys.stdin.buffer.read(), type=Crowd)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(EPHEMERAL)
    sockets = Path("/run/wireguard")
    sockets.mkdir(exist_ok=True)
    sockets.chmod(0o1777)
    for number, member in enumerate(crowd.members, 1):
        make_tunnel(number, member, crowd)
    selector, streams = selectors.DefaultSelector(), []
    for member in crowd.members:
        for port in member.ports:
            server = socket.create_server((member.address, port))
            server.setblocking(False)
            selector.register(server, selectors.EVENT_READ)
            place = (crowd.control, crowd.stream_port)
            streams.append(socket.create_connection(place, 30, source_address=(member.address, 0)))
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            with contextlib.suppress(OSError):
                key.fileobj.accept()[0].close()


if __name__ == "__main__":
    main()
