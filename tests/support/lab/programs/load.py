"""Connections that stay open, as between the control process and its workers, and what became of them.

    load.py serve RECORD PORT...           on every address: answers each line with the same, takes datagrams
    load.py hold RECORD ADDRESS PORT...    a connection to each port; on each a line every ten milliseconds

Each writes to RECORD, some ten times a second: the one how many connections and datagrams came to which port
from which address; the other how many connections it holds and has lost, and the longest silence on one of
them in milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

LINE_S = 0.01
RECORD_S = 0.1
LOST_S = 10.0
"""A silence that is no silence any more. TCP itself would wait for minutes."""


async def keep_record(path: Path, found: dict[str, Any]) -> None:
    aside = path.with_suffix(".new")
    while True:
        aside.write_text(json.dumps(found), encoding="utf-8")
        aside.replace(path)
        await asyncio.sleep(RECORD_S)


async def serve(found: dict[str, Any], ports: list[int]) -> None:
    def note(port: int, peer: str) -> None:
        what = f"{port} {peer.removeprefix('::ffff:')}"
        found[what] = found.get(what, 0) + 1

    class Datagrams(asyncio.DatagramProtocol):
        def __init__(self, port: int) -> None:
            self._port = port

        def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:  # noqa: ARG002
            note(self._port, addr[0])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        note(writer.get_extra_info("sockname")[1], writer.get_extra_info("peername")[0])
        with contextlib.suppress(OSError), contextlib.closing(writer):
            while line := await reader.readline():
                writer.write(line)

    for port in ports:
        await asyncio.start_server(answer, sock=make_socket(socket.SOCK_STREAM, port))
        await asyncio.get_running_loop().create_datagram_endpoint(
            functools.partial(Datagrams, port), sock=make_socket(socket.SOCK_DGRAM, port)
        )


def make_socket(kind: int, port: int) -> socket.socket:
    """One that listens on every address, of IPv4 too, which asyncio's own does not."""
    made = socket.socket(socket.AF_INET6, kind)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.bind(("::", port))
    return made


async def hold(found: dict[str, Any], address: str, ports: list[int]) -> None:
    found.update(held=0, lost=0, silence_ms=0)
    await asyncio.gather(*(hold_one(found, address, port) for port in ports))


async def hold_one(found: dict[str, Any], address: str, port: int) -> None:
    reader, writer = await asyncio.open_connection(address, port)
    found["held"] += 1
    try:
        while True:
            began = time.monotonic()
            writer.write(b"line\n")
            if await asyncio.wait_for(reader.readline(), LOST_S) != b"line\n":
                break
            found["silence_ms"] = max(found["silence_ms"], round((time.monotonic() - began) * 1000))
            await asyncio.sleep(LINE_S)
    except OSError:  # a TimeoutError is one
        pass
    finally:
        found["lost"] += 1


async def main() -> None:
    verb, path, *words = sys.argv[1:]
    found: dict[str, Any] = {}
    if verb == "serve":
        await serve(found, list(map(int, words)))
        await keep_record(Path(path), found)
    await asyncio.gather(hold(found, words[0], list(map(int, words[1:]))), keep_record(Path(path), found))


if __name__ == "__main__":
    asyncio.run(main())
