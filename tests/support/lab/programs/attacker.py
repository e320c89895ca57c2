"""Makes attempts on ports, from inside the attacker's machine.

Reads a JSON list of attempts from standard input, makes all of them at once, and writes the
list back with `outcome` in each. An attempt has

    target       IPv4 or IPv6 address, a link-local one with its scope (`fe80::c9%eth0`)
    port         TCP port
    via          optional: the LAN address by which the target is reached, for tunnel addresses
    source       optional: a forged IPv4 source address
    source_port  with `source`: tells the attempts apart

Without `source` the outcome is `connected`, `timeout`, `refused` or `unreachable`. With it only
SYNs are sent, from a raw socket, and the outcome is `sent`: the answer goes to whom the source
belongs to, so only the other side can tell whether the port was reached (`witness.py`).
"""

# ruff: noqa: T201  # a program of the lab, it prints its answer

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
from typing import Any

from tests.support.lab.programs.node import dial
from tests.support.waiting import patience

CONNECT_SECONDS = 1.0
SYN_TIMES = 3
SYN_INTERVAL_SECONDS = 0.3
SYN = 0x02


def checksum(octets: bytes) -> int:
    """The internet checksum of an even number of octets. Source: RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def segment(source: str, source_port: int, target: str, port: int, flags: int) -> bytes:
    """A TCP segment without data, for IPv4. Source: RFC 9293."""

    def packed(check: int) -> bytes:
        return struct.pack("!HHIIBBHHH", source_port, port, 1, 1, 5 << 4, flags, 65535, check, 0)

    ends = socket.inet_aton(source) + socket.inet_aton(target)
    pseudo_header = ends + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(packed(0)))
    return packed(checksum(pseudo_header + packed(0)))


def ipv4_packet(
    source: str, target: str, payload: bytes, *, identification: int = 0, fragment: int = 0
) -> bytes:
    """A packet for a raw socket; the kernel fills in what is 0 here, see raw(7). Source: RFC 791.

    fragment: the field of flags and offset.
    """
    head = struct.pack("!BBHHHBBH", 0x45, 0, 0, identification, fragment, 64, socket.IPPROTO_TCP, 0)
    return head + socket.inet_aton(source) + socket.inet_aton(target) + payload


def syn_packet(source: str, source_port: int, target: str, port: int) -> bytes:
    """An IPv4 packet that asks for a TCP connection."""
    return ipv4_packet(source, target, segment(source, source_port, target, port, SYN))


async def send_forged(attempt: dict[str, Any]) -> str:
    """Ask for a connection in someone else's name, a few times as TCP does."""
    target = attempt["target"]
    packet = syn_packet(attempt["source"], attempt["source_port"], target, attempt["port"])
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for _ in range(SYN_TIMES):
            raw.sendto(packet, (target, 0))
            await asyncio.sleep(SYN_INTERVAL_SECONDS)
    return "sent"


async def connect(attempt: dict[str, Any]) -> str:
    """Try to connect as anyone would; what the other side says makes no difference."""
    try:
        await dial(attempt["target"], attempt["port"], seconds=patience(CONNECT_SECONDS))
    except TimeoutError:
        return "timeout"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "unreachable"
    return "connected"


async def make_all(attempts: list[dict[str, Any]]) -> list[str]:
    """Make all attempts at once."""
    return await asyncio.gather(*(send_forged(a) if a.get("source") else connect(a) for a in attempts))


def route(attempts: list[dict[str, Any]]) -> None:
    """Lead the way to tunnel addresses over the LAN."""
    for target, via in sorted({(a["target"], a["via"]) for a in attempts if a.get("via")}):
        subprocess.run(["ip", "route", "replace", target, "via", via], check=True)


def main() -> None:
    """Attempts in, outcomes out."""
    attempts = json.load(sys.stdin)
    route(attempts)
    outcomes = asyncio.run(make_all(attempts))
    print(json.dumps([{**a, "outcome": o} for a, o in zip(attempts, outcomes, strict=True)]))


if __name__ == "__main__":
    main()
