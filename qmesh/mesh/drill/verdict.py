"""What a drill comes to: of what was fired, who got through, and whether that is as it should be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.drill.rows import DrillRow, Wanted
from qmesh.mesh.drill.shots import ACK, FIN, PUSH, RST, SYN, URGENT, Fate, Shape, Shot

Tables: TypeAlias = Literal["all", "first", "held", "without", "given"]
"""Under which rules: all of the machine's; with one of qmesh's two tables; with none; a file's."""
MOST_COUNTEREXAMPLES: Final = 20
"""Of a drill: of each row the first, then further ones."""
_UNDER: Final[dict[Tables, str]] = {
    "all": "with all tables",
    "first": "with the first of qmesh's tables alone",
    "held": "with the held table alone",
    "without": "without qmesh's tables",
    "given": "with the rules of the file",
}
_FLAGS: Final = {SYN: "syn", ACK: "ack", RST: "rst", FIN: "fin", PUSH: "psh", URGENT: "urg"}


class Counterexample(msgspec.Struct, frozen=True, kw_only=True):
    """A shot that did not end as it should. interface: None for one that a program of the machine sends.

    flags: of TCP, by nft's words; "none" without any, and "" of UDP.
    """

    tables: Tables
    side: str
    what: str
    wanted: Wanted
    interface: str | None
    family: Literal["ip", "ip6"]
    source: str
    destination: str
    protocol: Literal["tcp", "udp"]
    source_port: int
    port: int
    flags: str
    shape: Shape
    user: int
    seen: str


class DrillLine(msgspec.Struct, frozen=True, kw_only=True):
    """A row and what became of it. fired: shots. through: of these, under each kind of tables.

    wrong: how many did not end as they should, of all that were fired.
    """

    side: str
    what: str
    wanted: Wanted
    fired: int
    through: dict[Tables, int]
    wrong: int


class DrillReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `drill` answers.

    passed: None where nothing is wrong, and something could not be tried or copied, which `unknown` names.
    stand_ins: interfaces for which one of another kind was taken.
    """

    machine: str
    role: Literal["control", "worker"]
    passed: bool | None
    fired: int
    lines: tuple[DrillLine, ...]
    counterexamples: tuple[Counterexample, ...]
    unknown: tuple[str, ...]
    stand_ins: tuple[str, ...]


class FiredRow(msgspec.Struct, frozen=True):
    """A row's shots' fates, in their order, under each kind of tables with which it was fired."""

    row: DrillRow
    fates: dict[Tables, list[Fate]]


def judge_rows(
    machine: str,
    role: Literal["control", "worker"],
    fired: Sequence[FiredRow],
    *,
    closed: Collection[int],
    unknown: Sequence[str],
    counting: Sequence[str],
    stand_ins: Sequence[str],
) -> DrillReport:
    """What it comes to.

    closed: the ports that the guard closes. unknown: what was not copied, or not tried. counting: rules that
    count packets or time, under which two equal shots may end unlike.
    """
    lines, found, doubts = [], [], []
    for each in fired:
        wrong = list(_list_counterexamples(each, closed))
        if counting and each.row.wanted == "as without" and wrong:
            doubts.append(f"{each.row.side}, {each.row.what}: {counting[0]}")
            wrong = []
        lines.append(
            DrillLine(
                side=each.row.side,
                what=each.row.what,
                wanted=each.row.wanted,
                fired=len(each.row.shots),
                through={
                    tables: sum(map(is_through, each.row.shots, fates))
                    for tables, fates in each.fates.items()
                },
                wrong=len(wrong),
            )
        )
        found.append(wrong)
    chosen = [wrong[0] for wrong in found if wrong]
    chosen += [each for wrong in found for each in wrong[1:]]
    not_known = (*unknown, *doubts)
    return DrillReport(
        machine=machine,
        role=role,
        passed=False if chosen else None if not_known else True,
        fired=sum(len(fates) for each in fired for fates in each.fates.values()),
        lines=tuple(lines),
        counterexamples=tuple(chosen[:MOST_COUNTEREXAMPLES]),
        unknown=not_known,
        stand_ins=tuple(stand_ins),
    )


def is_through(shot: Shot, fate: Fate) -> bool:
    """Whether it came to the machine's own programs, or out of it elsewhere than it came in."""
    return bool(fate.ports) or any(name != shot.way for name in fate.left)


def _list_counterexamples(fired: FiredRow, closed: Collection[int]) -> Iterator[Counterexample]:
    row = fired.row
    bare = fired.fates.get("without", [Fate()] * len(row.shots))
    for tables, fates in fired.fates.items():
        for shot, fate, before in zip(row.shots, fates, bare, strict=True):
            wanted = _find_wanted(row.wanted, shot, before, closed)
            if tables != "without" and not _is_right(wanted, shot, fate, before):
                yield _build_counterexample(tables, row, shot, fate)


def _find_wanted(wanted: Wanted, shot: Shot, before: Fate, closed: Collection[int]) -> Wanted:
    """What another program leads from an open port to a closed one is to be blocked as well."""
    reached = {*before.ports, *before.out_ports} - {shot.target_port}
    return "blocked" if wanted == "as without" and reached.intersection(closed) else wanted


def _is_right(wanted: Wanted, shot: Shot, fate: Fate, before: Fate) -> bool:
    if wanted == "as without":
        return _normalize(fate) == _normalize(before)
    if wanted == "answered":
        return fate.is_answered
    return is_through(shot, fate) == (wanted == "through")


def _normalize(fate: Fate) -> tuple[list[int], list[str], list[int], bool]:
    return sorted(fate.ports), sorted(fate.left), sorted(fate.out_ports), fate.is_answered


def _build_counterexample(tables: Tables, row: DrillRow, shot: Shot, fate: Fate) -> Counterexample:
    return Counterexample(
        tables=tables,
        side=row.side,
        what=row.what,
        wanted=row.wanted,
        interface=shot.way,
        family="ip" if shot.version == 4 else "ip6",
        source=shot.source,
        destination=shot.target,
        protocol=shot.protocol,
        source_port=shot.source_port,
        port=shot.target_port,
        flags=describe_flags(shot),
        shape=shot.shape,
        user=shot.user,
        seen=describe_fate(shot, fate),
    )


def describe_counterexample(found: Counterexample) -> str:
    """In a line: what was fired, what became of it, what should have."""
    by = f"user {found.user} of this machine" if found.interface is None else f"{found.interface}"
    kind = " ".join(
        filter(None, (found.protocol, found.flags, "" if found.shape == "whole" else found.shape))
    )
    ends = f"{found.source} port {found.source_port} to {found.destination} port {found.port}"
    wanted = (
        "it is otherwise without qmesh's tables"
        if found.wanted == "as without"
        else f"wanted: {found.wanted}"
    )
    shot = f"by {by}, {kind}, {ends}, {found.seen}"
    return f"{found.side}, {found.what}: {shot}; {wanted} ({_UNDER[found.tables]})"


def describe_flags(shot: Shot) -> str:
    """TCP's flags by nft's words."""
    if shot.protocol == "udp":
        return ""
    return ",".join(word for bit, word in _FLAGS.items() if shot.flags & bit) or "none"


def describe_fate(shot: Shot, fate: Fate) -> str:
    """What became of it, in words."""
    words = [f"arrived at port {port}" for port in fate.ports]
    words += [f"left by {name}" for name in fate.left if name != shot.way]
    words += ["was answered"] if fate.is_answered else []
    return " and ".join(words) or "was dropped"


def list_needed_tables(row: DrillRow) -> tuple[Tables, ...]:
    """With which of the machine's tables a row is fired."""
    return ("without", "all", "first", "held") if row.in_held else ("without", "all", "first")
