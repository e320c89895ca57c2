"""One port under siege: who serves it, who attacks it, who may use it, and who shakes the rules.

    python siege.py serve PORT...          counts who came, by address
    python siege.py attack HOST PORT...    connects and sends datagrams without pause, to each port in turn
    python siege.py dial HOST PORT         one connection after the other, each with an answer
    python siege.py shake TIMES            flushes all rules, replaces both tables, each so many times
    python siege.py delete TIMES           deletes the guard's table, and waits until it is back

The first three go on until SIGTERM. Each writes what it counted as JSON.
"""

# ruff: noqa: T201  # a program of the lab, it prints its answer

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from qmesh.host.firewall import holder_client, nftables
from qmesh.host.state.directory import State
from qmesh.mesh.guard.tables import TABLE
from tests.support.waiting import patience, pause, some_time

ATTACKS_AT_ONCE = 32
ATTACK_S = 0.3
DIAL_S = 10.0
"""Seconds after which somebody with a right to it counts as not let in: three of TCP's attempts."""


class Counts(asyncio.DatagramProtocol):
    """What came, by port, protocol and address."""

    def __init__(self) -> None:
        self.came: Counter[str] = Counter()
        self._transport: asyncio.DatagramTransport | None = None

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A TCP connection: said hello to, and counted."""
        del reader
        port, address = writer.get_extra_info("sockname")[1], writer.get_extra_info("peername")[0]
        self.came[f"tcp {port} {address}"] += 1
        with contextlib.suppress(OSError):
            writer.write(b"hello\n")
            await writer.drain()
            writer.close()
            await writer.wait_closed()


class Datagrams(asyncio.DatagramProtocol):
    """Datagrams at one port."""

    def __init__(self, counts: Counts, port: int) -> None:
        self._counts = counts
        self._port = port

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Count it."""
        del data
        self._counts.came[f"udp {self._port} {addr[0]}"] += 1


async def serve(ports: list[int]) -> None:
    """Listen at every address."""
    counts, loop = Counts(), asyncio.get_running_loop()
    for port in ports:
        await asyncio.start_server(counts.connection, "0.0.0.0", port, backlog=512)  # noqa: S104
        await loop.create_datagram_endpoint(
            lambda port=port: Datagrams(counts, port),  # type: ignore[misc]
            local_addr=("0.0.0.0", port),  # noqa: S104
        )
    await until_told()
    print(json.dumps(counts.came))


async def attack(host: str, ports: list[int]) -> None:
    """As much as one process can."""
    tried: Counter[str] = Counter()
    over = asyncio.Event()

    async def one(number: int) -> None:
        while not over.is_set():
            port = ports[number % len(ports)]
            number += 1
            tried[f"tcp {port}"] += 1
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(ATTACK_S):
                    _, writer = await asyncio.open_connection(host, port)
                    writer.close()

    async def datagrams() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            while not over.is_set():
                for port in ports:
                    tried[f"udp {port}"] += 1
                    with contextlib.suppress(OSError):
                        sender.sendto(b"attack", (host, port))
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(one(number)) for number in range(ATTACKS_AT_ONCE)]
    tasks.append(asyncio.create_task(datagrams()))
    await until_told()
    over.set()
    await asyncio.gather(*tasks)
    print(json.dumps(tried))


async def dial(host: str, port: int) -> None:
    """What the control process does, only more often."""
    dialled: Counter[str] = Counter()
    told = asyncio.create_task(until_told())
    while not told.done():
        try:
            async with asyncio.timeout(patience(DIAL_S)):
                reader, writer = await asyncio.open_connection(host, port)
                dialled["answered" if await reader.readline() == b"hello\n" else "refused"] += 1
                writer.close()
        except (OSError, TimeoutError):
            dialled["refused"] += 1
        await asyncio.sleep(0.002)
    print(json.dumps(dialled))


async def until_told() -> None:
    """Wait for SIGTERM."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    print("ready", flush=True)
    await told.wait()


def shake(times: int) -> None:
    """Everything that other programs do to the rules, in any order."""
    state = State(Path("/var/lib/qmesh"))
    deeds = ["flush", "replace", "hold"] * times
    random.shuffle(deeds)
    for deed in deeds:
        if deed == "flush":
            subprocess.run(["nft", "flush", "ruleset"], check=True)
        elif deed == "replace":
            subprocess.run(["nft", "-f", state.guard_file], check=True)
        else:
            holder_client.hold_saved_guard(state)
    print(json.dumps(Counter(deeds)))


def delete(times: int) -> None:
    """How long the agent takes to put the table back, in milliseconds."""
    taken = []
    for _ in range(times):
        some_time(0.1, 0.2)
        nftables.run(f"delete table inet {TABLE}")
        began = time.perf_counter()
        while f"table inet {TABLE}" not in nftables.run("list tables inet").splitlines():
            pause(0.0005)
        taken.append((time.perf_counter() - began) * 1e3)
    print(json.dumps(taken))


def main(words: list[str]) -> None:
    """The command line."""
    match words:
        case ["serve", *ports]:
            asyncio.run(serve(list(map(int, ports))))
        case ["attack", host, *ports]:
            asyncio.run(attack(host, list(map(int, ports))))
        case ["dial", host, port]:
            asyncio.run(dial(host, int(port)))
        case ["shake", times]:
            shake(int(times))
        case ["delete", times]:
            delete(int(times))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[4]))
    main(sys.argv[1:])
