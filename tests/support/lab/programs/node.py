"""What the stand-ins for the node's processes have in common: the list in config.yml, and answers."""

# ruff: noqa: T201  # a program of the lab, it prints its answer

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

import yaml


class NodeRefuses(Exception):
    """The node would not start with this config.yml."""


@dataclass(frozen=True)
class WorkerAddress:
    """One entry of the list of data workers."""

    address: str
    port: int


def read_list(config: Path, key: str) -> list[WorkerAddress]:
    """The entries of the list in DIR/config.yml, in order; NodeRefuses when there is none to read."""
    try:
        tree = yaml.safe_load((config / "config.yml").read_text(encoding="utf-8"))
        entries = tree["engine"][key]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise NodeRefuses(f"{config}/config.yml: no list {key}: {error!r}") from error
    return [_worker_address(str(entry)) for entry in entries or ()]


def _worker_address(multiaddr: str) -> WorkerAddress:
    match multiaddr.split("/"):
        case ["", "ip4", address, "tcp", port]:
            return WorkerAddress(str(ipaddress.IPv4Address(address)), int(port))
        case ["", "ip6", address, "tcp", port]:
            return WorkerAddress(str(ipaddress.IPv6Address(address)), int(port))
        case _:
            raise NodeRefuses(f"not a worker's multiaddr: {multiaddr}")


def listen_at(address: str, port: int) -> socket.socket:
    """A listening socket; on `::` it takes IPv4 too."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def answer_until_terminated(lines: list[tuple[socket.socket, str]]) -> None:
    """Answer every connection of a listener with its line, say `ready`, return on SIGTERM or SIGINT."""
    asyncio.run(_answer(lines))


async def _answer(lines: list[tuple[socket.socket, str]]) -> None:
    loop = asyncio.get_running_loop()
    terminated = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, terminated.set)
    for listener, line in lines:
        await asyncio.start_server(_say(f"{line} on {socket.gethostname()}\n"), sock=listener)
    print("ready", flush=True)
    await terminated.wait()


def _say(line: str):
    async def say(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(line.encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    return say


async def dial(address: str, port: int, *, seconds: float) -> str:
    """Connect and read the line that the other side answers with; empty when it says nothing.

    Raises OSError (TimeoutError among them) when no connection came about in that time.
    """
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(address, port)
    try:
        async with asyncio.timeout(seconds):
            return (await reader.readline()).decode().strip()
    except (TimeoutError, ConnectionError):
        return ""
    finally:
        writer.close()
