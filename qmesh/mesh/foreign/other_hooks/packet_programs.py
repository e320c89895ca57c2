"""What may take packets besides firewalls, and can't be read: XDP, filters of tc, WireGuard's mark.

It is told only where something is silent: a machine with Cilium or a VPN has such things, and is well.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

from qmesh.mesh.foreign.obstacles import Obstacle

ProgramPlace: TypeAlias = Literal[
    "xdp", "ingress", "egress", "queue", "tcx", "control group", "lookup", "table", "packet queue"
]


class PacketProgram(msgspec.Struct, frozen=True):
    """One interface's program, filters or queue, or the programs of a control group or of all lookups.

    Or a table of nftables of a family that qmesh does not follow packets through.

    interface: or the control group's directory, or the table's family and name. kinds: of filters or queues,
    by tc's names; or what programs there are, and where, by bpftool's; or chains. Of a queue of packets the
    interface is its number, and the kind the number of the process that waits there.
    """

    interface: str
    place: ProgramPlace
    kinds: tuple[str, ...] = ()


def list_program_suspects(programs: Iterable[PacketProgram]) -> tuple[Obstacle, ...]:
    """Each as what may drop the mesh's packets, with the commands that show and remove it."""
    return tuple(_suspect(each) for each in programs)


def build_mark_suspect(interface: str, mark: int) -> Obstacle:
    """The mark of the packets that WireGuard sends, which a person may have set so that they pass a VPN."""
    return Obstacle(
        place=f"mark of {interface}",
        seen=f"WireGuard marks its packets with {mark:#x}; while packets are missing, it may be why",
        wanted="WireGuard's packets take the way of all others",
        cure=f"look for that mark in `ip rule`; if nothing needs it: `wg set {interface} fwmark 0`",
        is_certain=False,
    )


def build_loopback_obstacle() -> Obstacle:
    """A loopback interface that is down: a machine reaches none of its own addresses."""
    return Obstacle(
        place="interface lo",
        seen="it is down, so this machine does not reach its own addresses",
        wanted="this machine's packets reach its own workers and services",
        cure="ip link set lo up",
        is_certain=True,
    )


def _suspect(program: PacketProgram) -> Obstacle:
    interface, kinds = program.interface, ", ".join(program.kinds)
    if program.place == "xdp":
        place, seen = f"XDP program, {interface}", "an eBPF program, which qmesh cannot read"
        show, remove = f"ip -details link show dev {interface}", f"ip link set dev {interface} xdp off"
    elif program.place == "queue":
        place, seen = (
            f"tc qdisc, {interface}",
            f"a queue of the kind {kinds}, which may drop packets",
        )
        show, remove = f"tc -s qdisc show dev {interface}", f"tc qdisc delete dev {interface} root"
    elif program.place == "table":
        family, _, name = interface.partition(" ")
        place = f"table {interface}"
        seen = f"rules that are asked about ARP or a bridge's packets, in chain {kinds}"
        show = f"nft list table {family} {shlex.quote(name)}"
        remove = f"nft flush table {family} {shlex.quote(name)}"
    elif program.place in {"tcx", "control group", "lookup"}:
        return _suspect_bpf(program)
    elif program.place == "packet queue":
        return _suspect_queue(program)
    else:
        place = f"tc filter, {interface} {program.place}"
        seen = f"filters of the kind {kinds}, which qmesh cannot read"
        show = f"tc -s filter show dev {interface} {program.place}"
        remove = f"tc filter delete dev {interface} {program.place}"
    return Obstacle(
        place=place,
        seen=f"{seen}; while packets of the mesh are missing, it may be why",
        wanted=f"the mesh's packets pass {interface}",
        cure=f"look at it with `{show}`; if nothing needs it: `{remove}`",
        is_certain=False,
    )


def _suspect_queue(program: PacketProgram) -> Obstacle:
    return Obstacle(
        place=f"packet queue {program.interface}",
        seen=f"process {program.kinds[0]} decides about the packets that rules give to it; while packets of"
        " the mesh are missing, it may be why",
        wanted="the mesh's packets pass",
        cure=f"look at it with `ps -p {program.kinds[0]}`, and have it let the mesh's packets pass",
        is_certain=False,
    )


def _suspect_bpf(program: PacketProgram) -> Obstacle:
    """What is attached by its own program, which alone should take it away."""
    where = shlex.quote(program.interface)
    place, show = {
        "tcx": (f"tcx, {program.interface}", f"bpftool net show dev {where}"),
        "control group": (f"control group {program.interface}", f"bpftool cgroup show {where} effective"),
    }.get(program.place, ("lookup of sockets", "bpftool link show"))
    return Obstacle(
        place=place,
        seen=f"eBPF programs, which qmesh cannot read: {', '.join(program.kinds)}; while packets of the mesh"
        " are missing, they may be why",
        wanted="the mesh's packets and calls pass",
        cure=f"look at them with `{show}`, and have the program that attached them remove them",
        is_certain=False,
    )
