"""Many machines that join at once, without a tunnel each: they only speak with the membership service.

`crowd.py OLD NUMBER ROUNDS`, on a control node that runs its agent, makes so many members, which wait for
news as agents do. In each round so many machines more redeem an invitation, ask until they are answered, as
`qmesh join` does, and then wait for news. All are this one process, and ask the agent's own service at its
interface, each from a tunnel address of its own, which is local here. So what the clients take of the
processors is little, and known apart. It prints a JSON list of `Round`s.

Before each round the same requests go to a floor: a bare asyncio server that makes one durable row of each
redemption, and answers with as many octets.
"""

# ruff: noqa: T201  # programs of the lab, they print their answers

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import multiprocessing
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qmesh.agent.local import load_local
from qmesh.host.api.messages import MEMBERSHIP, REDEMPTIONS
from qmesh.host.registry import Registry, rows
from qmesh.host.state.directory import State
from qmesh.mesh.machine import Machine
from qmesh.mesh.networks import parse_ip_network
from qmesh.mesh.protocol.enrolment import build_redemption, derive_invitation_keys
from qmesh.mesh.protocol.membership import SignedMembership, apply_update, read_update
from tests.support.processes import read_of_each

STATE: Final = State(Path("/var/lib/qmesh"))
FLOOR: Final = ("127.0.0.1", 51899)
LONGEST_S: Final = 120.0
ANSWER_S: Final = 5.0
AGAIN_S: Final = 0.2
"""Seconds for which a machine waits for an answer, and until it asks again."""
TABLE: Final = 77
"""Of routes, beside those that the agent looks at."""
IP_TRANSPARENT: Final = 19
TICKS_S: Final = 1 / os.sysconf("SC_CLK_TCK")


class Joiner(NamedTuple):
    """Who is about to join. request: its redemption."""

    source: str
    request: bytes


class Measured(NamedTuple):
    """Joins of one crowd.

    again: how often one had to ask again. redeemed, joined: seconds of each until then. clients_s, server_s:
    processor seconds of all.
    """

    failed: int
    again: int
    redeemed: list[float]
    joined: list[float]
    clients_s: float
    server_s: float


class Round(NamedTuple):
    """One round. octets: of the last answer to a redemption."""

    floor: Measured
    qmesh: Measured
    tunnel_s: float
    octets: int


class Crowd:
    """All that have joined, and what they hold: what is the same for many is made once."""

    def __init__(self) -> None:
        here = load_local(STATE)
        self.place = (here.machine.address, here.inventory.service_port)
        self.interface = here.settings.interface
        self.octets = 0
        self.again = 0
        self._known: dict[tuple[int, bytes], int] = {}
        self._payloads: dict[int, bytes] = {}
        self._waiting: set[asyncio.Task[None]] = set()

    async def ask(self, source: str, request: bytes, place: tuple[str, int]) -> tuple[int, bytes]:
        """Status and body of an answer. Where none comes in time, it asks again, as a machine does."""
        until = time.monotonic() + LONGEST_S
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                async with asyncio.timeout(ANSWER_S + (50 if b"wait=50" in request else 0)):
                    status, body = await self._ask_once(source, request, place)
                    if status and status < 500:
                        return status, body
            self.again += 1
            await asyncio.sleep(AGAIN_S)
        return 0, b""

    async def _ask_once(self, source: str, request: bytes, place: tuple[str, int]) -> tuple[int, bytes]:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        connection.setblocking(False)
        if place == self.place:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.interface.encode())
            connection.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
            connection.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(connection, place)
        reader, writer = await asyncio.open_connection(sock=connection)
        writer.write(request)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head[9:12] or b"0"), body

    async def join(
        self, joiner: Joiner, place: tuple[str, int], go: asyncio.Event
    ) -> tuple[int, float, float]:
        """Join as `qmesh join` does; status, and seconds until it was redeemed and until all was done."""
        await go.wait()
        began = time.monotonic()
        status, body = await self.ask(joiner.source, joiner.request, place)
        redeemed_s = time.monotonic() - began
        if place == self.place and status == 200:
            self.octets = len(body)
            held = self.read(0, body)
        else:
            held = 0
        asked, _ = await self.ask(joiner.source, poll(held, 0), place)
        joined_s = time.monotonic() - began
        if place == self.place and status == 200:
            self.wait_for_news(joiner.source, held)
        return status if asked in {200, 204} else asked, redeemed_s, joined_s

    def wait_for_news(self, source: str, held: int) -> None:
        """Have it wait as an agent does, until this process ends."""
        task = asyncio.get_running_loop().create_task(self._follow(source, held))
        self._waiting.add(task)

    async def _follow(self, source: str, held: int) -> None:
        while True:
            status, body = await self.ask(source, poll(held, 50), self.place)
            if status == 200:
                held = self.read(held, body)

    def read(self, held: int, body: bytes) -> int:
        """The revision that an update makes of the one that is held."""
        if (held, body) not in self._known:
            update = read_update(body)
            base = None if update.base is None else SignedMembership(self._payloads[held], b"")
            payload = apply_update(update, base).payload
            revision = self._known[held, body] = json.loads(payload)["revision"]
            self._payloads[revision] = payload
        return self._known[held, body]


def poll(held: int, wait_s: int) -> bytes:
    """A question for news."""
    path = f"{MEMBERSHIP}?newer_than={held}&wait={wait_s}&whole=0"
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()


def make_key() -> str:
    """A public key."""
    return base64.b64encode(X25519PrivateKey.generate().public_key().public_bytes_raw()).decode()


def add_members(count: int) -> list[str]:
    """Write so many members into the registry; their addresses."""
    addresses: list[str] = []
    with Registry(STATE.registry_file) as registry:
        before = registry.inventory()
        network = parse_ip_network(before.network)
        with registry._open_transaction() as connection:
            for number in range(count):
                addresses.append(str(network[-2 - number]))
                machine = Machine(
                    name=f"old-{number}", public_key=make_key(), address=addresses[-1], workers=1
                )
                rows.insert_machine(connection, machine, len(before.machines) + 1 + number, None)
            connection.execute("UPDATE mesh SET revision = ?", (before.revision + 1,))
            connection.execute(
                "INSERT INTO events (at, command, what, machine, revision)"
                " VALUES (1, 'set', 'changed', ?, ?)",
                (before.control, before.revision + 1),
            )
    return addresses


def invite(first: int, count: int) -> list[Joiner]:
    """Have so many machines invited; what they will send."""
    now = int(time.time())
    joiners = []
    with Registry(STATE.registry_file) as registry:
        for number in range(first, first + count):
            issued = registry.invite(
                f"new-{number}", workers=1, endpoint=None, expires_at=now + 3600, now=now
            )
            message = build_redemption(
                derive_invitation_keys(issued.secret), public_key=make_key(), workers=1, endpoint=None
            )
            joiners.append(Joiner(issued.machine.address, post(msgspec.json.encode(message))))
    return joiners


def post(body: bytes) -> bytes:
    """A redemption as it is sent."""
    head = (
        f"POST {REDEMPTIONS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def add_addresses(interface: str, addresses: Iterable[str]) -> None:
    """Have these answered here, by the tunnel's interface, so that one can ask from them."""
    commands = "".join(f"route add local {address} dev {interface} table {TABLE}\n" for address in addresses)
    subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True)


def find_process(*words: str) -> int:
    """The process of this machine that has these words in its command."""
    for number, line in read_of_each("cmdline"):
        found = line.split("\0")
        if all(word in found or found[0].endswith(word) for word in words):
            return number
    raise SystemExit(f"no such process: {words}")


def processor_s(process: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICKS_S


async def settle(process: int) -> None:
    """Until a process has nothing to do but look at the clock."""
    while True:
        before = processor_s(process)
        await asyncio.sleep(0.5)
        if processor_s(process) - before <= 0.05:
            return


async def measure(crowd: Crowd, joiners: list[Joiner], place: tuple[str, int], server: int) -> Measured:
    """All of them at once."""
    go = asyncio.Event()
    joining = [asyncio.ensure_future(crowd.join(each, place, go)) for each in joiners]
    await settle(server)
    own_s, server_s, again = time.process_time(), processor_s(server), crowd.again
    go.set()
    found = await asyncio.gather(*joining)
    return Measured(
        failed=sum(status != 200 for status, _, _ in found),
        again=crowd.again - again,
        redeemed=[redeemed_s for _, redeemed_s, _ in found],
        joined=[joined_s for _, _, joined_s in found],
        clients_s=time.process_time() - own_s,
        server_s=processor_s(server) - server_s,
    )


def serve_floor(ready: Any, octets: Any) -> None:
    """Answer, with a durable row for each redemption."""
    with tempfile.TemporaryDirectory(dir=STATE.directory.parent) as directory:
        rows_of_it = sqlite3.connect(f"{directory}/floor.db", isolation_level=None)
        for statement in ("journal_mode = WAL", "synchronous = FULL"):
            rows_of_it.execute(f"PRAGMA {statement}")
        rows_of_it.execute("CREATE TABLE redeemed (body BLOB)")

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            body = b""
            if head.startswith(b"POST"):
                length = int(head.partition(b"Content-Length: ")[2].split()[0])
                rows_of_it.execute("INSERT INTO redeemed VALUES (?)", (await reader.readexactly(length),))
                body = bytes(octets.value)
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            writer.close()

        async def serve() -> None:
            server = await asyncio.start_server(answer, *FLOOR, backlog=4096)
            ready.set()
            await server.serve_forever()

        asyncio.run(serve())


async def run(old: int, count: int, rounds: int) -> list[Round]:
    """Some rounds."""
    context = multiprocessing.get_context("fork")
    ready, octets = context.Event(), context.Value("i", 0)
    floor = context.Process(target=serve_floor, args=(ready, octets), daemon=True)
    floor.start()
    ready.wait(30)
    assert floor.pid is not None
    agent, tunnel = find_process("qmesh", "agent"), find_process("wireguard-go")
    crowd = Crowd()
    found = []
    try:
        if old:
            addresses = add_members(old)
            add_addresses(crowd.interface, addresses)
            await settle(agent)
            for address in addresses:
                crowd.wait_for_news(address, 0)
        for number in range(rounds):
            joiners = invite(number * count, count)
            add_addresses(crowd.interface, (each.source for each in joiners))
            octets.value = crowd.octets or 60 * (old + count)
            compared = await measure(crowd, joiners, FLOOR, floor.pid)
            await settle(agent)
            tunnel_s = processor_s(tunnel)
            measured = await measure(crowd, joiners, crowd.place, agent)
            found.append(Round(compared, measured, processor_s(tunnel) - tunnel_s, crowd.octets))
    finally:
        floor.kill()
    return found


def main() -> None:
    """Do it, and print."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection for each member
    # For what asks at the interface alone: else the agent would say that these go astray.
    words = ["ip", "rule", "add", "pref", "10", "oif", load_local(STATE).settings.interface]
    subprocess.run([*words, "lookup", str(TABLE)], check=True)
    old, count, rounds = map(int, sys.argv[1:])
    print(json.dumps(asyncio.run(run(old, count, rounds))), flush=True)


if __name__ == "__main__":
    main()
