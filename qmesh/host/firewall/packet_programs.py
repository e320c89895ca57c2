"""XDP programs, filters and queues of tc on interfaces; programs that rules give packets to.

Source: linux/if_link.h, rtnetlink.h, pkt_sched.h, net/netfilter/nfnetlink_queue.c.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import Struct
from typing import Final

from qmesh.host.firewall.tables_and_chains import list_chains
from qmesh.host.network.netlink import translate_errors
from qmesh.host.network.netlink_messages import (
    DUMP,
    HEADER,
    build_request,
    read_whole_dump,
    send_request,
)
from qmesh.host.network.rtnetlink_messages import build_link_request
from qmesh.mesh.foreign.attributes import parse_attributes
from qmesh.mesh.foreign.other_hooks.packet_programs import PacketProgram, ProgramPlace

_ROUTE: Final = 0  # NETLINK_ROUTE
_GET_QDISC, _GET_FILTER = 38, 46  # RTM_*
_TRAFFIC: Final = Struct("=BxxxiIII")  # struct tcmsg: family, interface, handle, parent, info
_LINK_SIZE: Final = 16  # struct ifinfomsg
_XDP, _XDP_ATTACHED, _TC_KIND = 43, 2, 1  # IFLA_XDP, IFLA_XDP_ATTACHED, TCA_KIND
_PARENTS: Final[tuple[tuple[ProgramPlace, int], ...]] = (("ingress", 0xFFFFFFF2), ("egress", 0xFFFFFFF3))
_WITH_FILTERS: Final = frozenset({"clsact", "ingress"})
_LOSSY: Final = frozenset({"netem", "tbf", "blackhole", "plug"})
"""Queues that drop or hold back packets on purpose."""
_PACKET_QUEUES: Final = Path("/proc/net/netfilter/nfnetlink_queue")


def find_packet_programs(interfaces: Iterable[str]) -> tuple[PacketProgram, ...]:
    """What sees packets on these interfaces before any rule. Raises MachineRefused."""
    numbers = {name: number for number, name in socket.if_nameindex()}
    with (
        translate_errors("read the filters of interfaces"),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _ROUTE) as netlink,
    ):
        return tuple(
            program
            for name in interfaces
            if name in numbers
            for program in _list_programs(netlink, name, numbers[name])
        )


def read_packet_queues() -> dict[int, int]:
    """By each queue's number the port of the program that waits there, mostly its process number.

    Raises MachineRefused.
    """
    with translate_errors(f"read {_PACKET_QUEUES}"):
        try:
            lines = _PACKET_QUEUES.read_text(encoding="ascii").splitlines()
        except FileNotFoundError:  # the kernel has no such queues
            return {}
        return {int(number): int(port) for number, port in (line.split()[:2] for line in lines)}


def find_queue_programs() -> tuple[PacketProgram, ...]:
    """Programs that wait for packets which rules give to them. Raises MachineRefused."""
    queues = read_packet_queues()
    return tuple(PacketProgram(str(number), "packet queue", (str(port),)) for number, port in queues.items())


def find_other_tables(interfaces: Iterable[str]) -> tuple[PacketProgram, ...]:
    """Tables of nftables that are asked about ARP, and of a bridge's packets, where one is among these.

    Raises MachineRefused.
    """
    is_bridged = any(Path(f"/sys/class/net/{name}/bridge").is_dir() for name in interfaces)
    families = {"arp", "bridge"} if is_bridged else {"arp"}
    found: dict[str, list[str]] = {}
    for chain in list_chains():
        if chain.hook and chain.family in families:
            name, table = (each.decode("utf-8", "backslashreplace") for each in (chain.name, chain.table))
            found.setdefault(f"{chain.family} {table}", []).append(name)
    return tuple(PacketProgram(table, "table", tuple(chains)) for table, chains in found.items())


def _list_programs(netlink: socket.socket, name: str, number: int) -> Iterator[PacketProgram]:
    if any(map(has_xdp, send_request(netlink, build_link_request(name))[0])):
        yield PacketProgram(name, "xdp")
    queues = {kind for index, kind in _dump(netlink, _GET_QDISC, number, 0) if index == number}
    if queues & _LOSSY:
        yield PacketProgram(name, "queue", tuple(sorted(queues & _LOSSY)))
    for place, parent in _PARENTS if queues & _WITH_FILTERS else ():
        kinds = {kind for _, kind in _dump(netlink, _GET_FILTER, number, parent)}
        if kinds:
            yield PacketProgram(name, place, tuple(sorted(kinds)))


def _dump(netlink: socket.socket, kind: int, number: int, parent: int) -> list[tuple[int, str]]:
    request = build_request(kind, DUMP, _TRAFFIC.pack(0, number, 0, parent, 0))
    return [parse_kind(message) for message in read_whole_dump(lambda: send_request(netlink, request))]


def parse_kind(message: bytes) -> tuple[int, str]:
    """The interface of a queue or filter, by number, and its kind. Raises ValueError."""
    start = HEADER.size + _TRAFFIC.size
    if len(message) < start:
        raise ValueError("a queue or filter breaks off")
    found = dict(parse_attributes(message[start:]))
    name = found.get(_TC_KIND, b"").rstrip(b"\0").decode("ascii", "replace")
    return int(_TRAFFIC.unpack_from(message, HEADER.size)[1]), name


def has_xdp(message: bytes) -> bool:
    """Whether an interface has an XDP program, by what the kernel tells of it. Raises ValueError."""
    found = dict(parse_attributes(message[HEADER.size + _LINK_SIZE :]))
    return any(dict(parse_attributes(found.get(_XDP, b""))).get(_XDP_ATTACHED, b""))
