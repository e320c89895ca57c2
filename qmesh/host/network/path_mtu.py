"""Paths to other machines: how large a packet may be, outside the tunnel and inside. Source: ip(7)."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from qmesh.errors import MachineRefused
from qmesh.host import files
from qmesh.host.network import routes
from qmesh.host.network.netlink import translate_errors
from qmesh.host.system import boot_clock, heartbeat
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.values import Endpoint

PROBE_S: Final = 60.0
"""Seconds between two probes of one path."""
KNOWN_S: Final = 600.0
"""Seconds for which it is known what a router said: as long as the kernel remembers it."""
WAIT_S: Final = 0.3
"""Seconds in which a router says that a packet was too large for it."""
FULL: Final = 1500
"""Octets of a packet beyond which nothing changes: in what remains of them the tunnel's largest fits."""
MOST_PROBES: Final = 4
"""Paths that are probed in one go, as each takes its time."""
_PROBES: Final = 2
_ROUTERS: Final = 4
"""On one path, each with a narrower link than the one before."""
_NONCE: Final = 16
_LEAST: Final = 68
"""Octets that every link carries. Source: RFC 791."""
_IP_MTU_DISCOVER, _IP_MTU, _IPV6_MTU_DISCOVER, _IPV6_MTU = 10, 14, 23, 24
_DO, _PROBE = 2, 3
"""Don't fragment; and don't heed what was learnt about the path either."""
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_ERROR: Final = struct.Struct("=IBBBBII")  # sock_extended_err: errno, origin, type, code, pad, info, data
_OF_ROUTERS: Final = {2, 3}  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6
_ECHO, _ECHO_REPLY, _ECHO6, _ECHO_REPLY6 = 8, 0, 128, 129

MEMORY: Final = "paths.json"
"""File in the state directory: what routers said, for all commands alike."""


class _Memory(msgspec.Struct):
    """What routers said of each path, in octets, and when, in seconds since the start that `boot` names."""

    boot: str
    told: dict[str, tuple[int, float]]


_probed: dict[Endpoint, float] = {}
_told: dict[str, tuple[int, float]] = {}


def find_path_mtus(
    endpoints: Iterable[Endpoint], *, probe: bool, directory: Path | None = None
) -> dict[Endpoint, int]:
    """The MTU of the path to each endpoint, in bytes; without those that have no route.

    That is the MTU of this machine's own interface or route, or what a router reported for a probe: a
    full-size datagram without an answer. Any machine may have sent what else the kernel has learnt: that is
    only a reason to probe.

    probe: probe also where there is no such reason. Each endpoint's path is probed at most once a minute.
    directory: where what routers said is kept for ten minutes, for other processes; None for nowhere.
    """
    found = {}
    left = MOST_PROBES
    for endpoint in dict.fromkeys(endpoints):
        path = _connect_socket(endpoint, _DO)
        if path is None:
            continue
        with path:  # one after the other: there may be thousands
            learnt = _read_kernel_mtu(path)
        if learnt < FULL or str(endpoint) in _told:
            _load_memory(directory)
        known = _find_known_mtu(endpoint)
        if learnt >= FULL and known is None and not (probe and _is_probe_due(endpoint)):
            found[endpoint] = learnt
            continue
        hop = routes.find_first_hop(endpoint.host)
        if hop is None:
            continue
        if left and hop.is_routed and _is_probe_due(endpoint) and (probe or learnt < hop.mtu):
            left -= 1
            if (said := _probe_path(endpoint, min(hop.mtu, FULL))) is not None:
                known = said
                _save_memory(directory)
        if not hop.is_routed:
            _probed[endpoint] = time.monotonic()
        found[endpoint] = hop.mtu if known is None or not hop.is_routed else min(hop.mtu, known)
    return found


def _is_probe_due(endpoint: Endpoint) -> bool:
    return time.monotonic() - _probed.get(endpoint, -PROBE_S) >= PROBE_S


def _find_known_mtu(endpoint: Endpoint) -> int | None:
    mtu, at = _told.get(str(endpoint), (0, -KNOWN_S))
    return mtu if time.clock_gettime(time.CLOCK_BOOTTIME) - at < KNOWN_S else None


def parse_memory(octets: bytes) -> _Memory:
    """What is kept there. Raises Malformed."""
    return decode_json(octets, _Memory)


def _load_memory(directory: Path | None) -> None:
    """Take what another process was told later."""
    with contextlib.suppress(MachineRefused, Malformed):
        octets = None if directory is None else files.read(directory / MEMORY)
        if octets is not None:
            memory = parse_memory(octets)
            if memory.boot == boot_clock.now().boot:
                for each, told in memory.told.items():
                    _told[each] = max(told, _told.get(each, told), key=lambda found: found[1])


def _save_memory(directory: Path | None) -> None:
    """Tell others. Where that can't be written, they ask again."""
    if directory is None:
        return
    _load_memory(directory)
    with contextlib.suppress(MachineRefused):
        now = boot_clock.now()
        fresh = {each: told for each, told in _told.items() if now.at_s - told[1] < KNOWN_S}
        files.write(directory / MEMORY, msgspec.json.encode(_Memory(now.boot, fresh)))


def _probe_path(endpoint: Endpoint, most: int) -> int | None:
    """What the routers on a path say that it carries, of `most` octets; None where none says anything.

    Only who has seen a probe can quote it.
    """
    _probed[endpoint] = time.monotonic()
    path = _connect_socket(endpoint, _PROBE)
    if path is None:
        return None
    size = most
    with path:
        for _ in range(_ROUTERS):
            said = probe_mtu(path, size)
            if said is None:
                break
            size = said
    if size == most:
        return None
    _told[str(endpoint)] = size, time.clock_gettime(time.CLOCK_BOOTTIME)
    return size


def probe_mtu(path: socket.socket, size: int) -> int | None:
    """What a router says to a packet of that many octets; None for nothing, or nothing to this one."""
    nonce = os.urandom(_NONCE)
    body = nonce + bytes(size - (48 if path.family == socket.AF_INET6 else 28) - _NONCE)
    for _ in range(_PROBES):
        _clear_socket_error(path)  # or it would be told instead of sending
        with contextlib.suppress(OSError):
            path.send(body)
    poll = select.poll()
    poll.register(path, 0)  # errors alone
    until = time.monotonic() + WAIT_S
    while (left_s := until - time.monotonic()) > 0 and poll.poll(left_s * 1000):
        for quoted, mtu in _read_icmp_errors(path):
            if quoted[:_NONCE] == nonce and _LEAST <= mtu < size:
                return mtu
        _clear_socket_error(path)
    return None


def _read_icmp_errors(path: socket.socket) -> Iterator[tuple[bytes, int]]:
    """What was said of packets that were too large: what is quoted of each, and the MTU."""
    with contextlib.suppress(OSError):
        while True:
            quoted, about, _, _ = path.recvmsg(_NONCE, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            for _, _, octets in about:
                code, origin, *_, mtu, _ = _ERROR.unpack_from(octets.ljust(_ERROR.size, b"\0"))
                if code == errno.EMSGSIZE and origin in _OF_ROUTERS:
                    yield quoted, mtu


def _clear_socket_error(path: socket.socket) -> int:
    """Take the error that waits."""
    return path.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _connect_socket(endpoint: Endpoint, discover_how: int) -> socket.socket | None:
    if not endpoint.is_address:
        return None
    is_ipv6 = ":" in endpoint.host
    try:
        path = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    except OSError:
        return None
    try:
        level, discover, errors = (
            (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_RECVERR)
            if is_ipv6
            else (socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_RECVERR)
        )
        path.setsockopt(level, discover, discover_how)
        path.setsockopt(level, errors, 1)
        path.connect((endpoint.host, endpoint.port))
    except OSError:
        path.close()
        return None
    return path


def _read_kernel_mtu(path: socket.socket) -> int:
    if path.family == socket.AF_INET6:
        return path.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
    return path.getsockopt(socket.IPPROTO_IP, _IP_MTU)


def measure_echo_time(address: str, octets: int, *, wait_s: float, tries: int = 2) -> float | None:
    """Seconds until an IP packet of that many octets, not to be fragmented, is echoed; None if it is not.

    Raises MachineRefused when it could not ask at all.
    """
    with translate_errors(f"ask {address} for an echo"):
        asking = _open_echo_socket(address)
    with asking, heartbeat.allow_wait(tries * wait_s):
        for number in range(tries):
            took = _send_echo(asking, address, octets, number, wait_s)
            if took is not None:
                return took
    return None


def _open_echo_socket(address: str) -> socket.socket:
    if ":" in address:
        asking = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        asking.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _DO)
    else:
        asking = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        asking.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _DO)
    return asking


def _send_echo(asking: socket.socket, address: str, octets: int, number: int, wait_s: float) -> float | None:
    is_ipv6 = ":" in address
    nonce = os.urandom(8)
    body = nonce + bytes(max(0, octets - (48 if is_ipv6 else 28) - len(nonce)))
    header = struct.pack("!BBHHH", _ECHO6 if is_ipv6 else _ECHO, 0, 0, os.getpid() & 0xFFFF, number)
    checksum = 0 if is_ipv6 else _checksum(header + body)  # for IPv6 the kernel makes it
    began = time.monotonic()
    try:
        asking.sendto(header[:2] + struct.pack("!H", checksum) + header[4:] + body, (address, 0))
    except OSError:
        return None
    while (left := began + wait_s - time.monotonic()) > 0:
        if not select.select([asking], [], [], left)[0]:
            return None
        answer, sender = asking.recvfrom(1 << 16)
        message = answer if is_ipv6 else answer[(answer[0] & 15) * 4 :]
        is_reply = message[:1] == bytes([_ECHO_REPLY6 if is_ipv6 else _ECHO_REPLY])
        if is_reply and sender[0] == address and message[8:16] == nonce:
            return time.monotonic() - began
    return None


def _checksum(octets: bytes) -> int:
    """Source: RFC 1071."""
    padded = octets + bytes(len(octets) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)
