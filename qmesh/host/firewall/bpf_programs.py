"""eBPF programs that packets and calls meet beside all rules: at control groups, tcx, and lookups of sockets.

Source: bpf(2), linux/bpf.h. To who may not use bpf(2), as the agent may not, they do not show.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Final

from qmesh.host.system.processes import find_unified_group
from qmesh.mesh.foreign.other_hooks.packet_programs import PacketProgram

_CALLS: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
"""bpf(2)'s number, by the machine. Source: asm/unistd.h."""
_GET_PROGRAM, _GET_INFO, _QUERY = 13, 15, 16  # BPF_PROG_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD, BPF_PROG_QUERY
_EFFECTIVE: Final = 1  # BPF_F_QUERY_EFFECTIVE: those of the groups above too
_ASKED: Final = struct.Struct("=IIIIQI28xQ")
"""What is asked for: of what, where, flags, (flags), place of the numbers, how many, (others), (revision)."""
_MOST: Final = 64
_INFO: Final = struct.Struct("=64x16s")  # of bpf_prog_info its name
_GROUP_PLACES: Final = {
    0: "ingress",
    1: "egress",
    2: "sock_create",
    8: "bind4",
    9: "bind6",
    10: "connect4",
    11: "connect6",
    12: "post_bind4",
    13: "post_bind6",
    14: "sendmsg4",
    15: "sendmsg6",
    19: "recvmsg4",
    20: "recvmsg6",
}
"""BPF_CGROUP_*, by bpftool's names."""
_TCX_PLACES: Final = {46: "ingress", 47: "egress"}
_SOCKET_LOOKUP: Final = 36

_libc: Final = ctypes.CDLL(None, use_errno=True)


def find_bpf_programs(interfaces: Iterable[str], processes: Iterable[int]) -> tuple[PacketProgram, ...]:
    """Those at these interfaces, at these processes' control groups, and at the network's own lookups."""
    numbers = {name: number for number, name in socket.if_nameindex()}
    return (
        *_list_tcx_programs((name, numbers[name]) for name in interfaces if name in numbers),
        *_list_group_programs(dict.fromkeys(filter(None, map(find_unified_group, processes)))),
        *_list_lookup_programs(),
    )


def _list_tcx_programs(interfaces: Iterable[tuple[str, int]]) -> Iterator[PacketProgram]:
    for name, number in interfaces:
        found = tuple(_list_named(number, _TCX_PLACES, 0))
        if found:
            yield PacketProgram(name, "tcx", found)


def _list_group_programs(groups: Iterable[str]) -> Iterator[PacketProgram]:
    for group in groups:
        with contextlib.suppress(OSError), _open_path(group, os.O_DIRECTORY) as opened:
            found = tuple(_list_named(opened, _GROUP_PLACES, _EFFECTIVE))
            if found:
                yield PacketProgram(group, "control group", found)


def _list_lookup_programs() -> Iterator[PacketProgram]:
    with contextlib.suppress(OSError), _open_path("/proc/self/ns/net", 0) as opened:
        found = tuple(_list_named(opened, {_SOCKET_LOOKUP: "sk_lookup"}, 0))
        if found:
            yield PacketProgram("all", "lookup", found)


@contextlib.contextmanager
def _open_path(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _list_named(of: int, places: dict[int, str], flags: int) -> Iterator[str]:
    """What is attached there: the place, and each program's name and number."""
    for place, word in places.items():
        for number in _query(of, place, flags):
            yield f"{word}: {_read_name(number)} (id {number})"


def _query(of: int, place: int, flags: int) -> tuple[int, ...]:
    """The numbers of the programs at one place; none where the kernel knows no such place, or refuses."""
    numbers = (ctypes.c_uint32 * _MOST)()
    asked = bytearray(_ASKED.pack(of, place, flags, 0, ctypes.addressof(numbers), _MOST, 0))
    if _call_bpf(_QUERY, asked) < 0:
        return ()
    count = _ASKED.unpack(asked)[5]
    return tuple(numbers[:count])


def _read_name(number: int) -> str:
    """A program's name; `?` where it has none, or is gone."""
    opened = _call_bpf(_GET_PROGRAM, bytearray(struct.pack("=III", number, 0, 0)))
    if opened < 0:
        return "?"
    try:
        info = ctypes.create_string_buffer(_INFO.size)
        asked = bytearray(struct.pack("=IIQ", opened, len(info), ctypes.addressof(info)))
        return "?" if _call_bpf(_GET_INFO, asked) < 0 else parse_name(info.raw)
    finally:
        os.close(opened)


def parse_name(info: bytes) -> str:
    """A program's name, of what the kernel tells of it; `?` where it has none. Raises ValueError."""
    if len(info) < _INFO.size:
        raise ValueError("what is told of a program breaks off")
    return str(_INFO.unpack_from(info)[0].partition(b"\0")[0].decode("ascii", "replace")) or "?"


def _call_bpf(command: int, asked: bytearray) -> int:
    """bpf(2), with what is asked for, in which it answers; below 0 where it refuses."""
    number = _CALLS.get(platform.machine())
    if number is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return -1
    held = (ctypes.c_char * len(asked)).from_buffer(asked)
    return int(_libc.syscall(ctypes.c_long(number), ctypes.c_int(command), held, ctypes.c_uint(len(asked))))
