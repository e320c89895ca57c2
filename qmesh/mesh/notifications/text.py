"""Changes as text for people: one line for each kind of change, and a title.

What others wrote is cut, and moves no cursor. Receivers that give a meaning to some characters are given it
in a form that has none: see `formats`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from qmesh.mesh.events.mesh_events import describe_event
from qmesh.mesh.notifications.change import ToldChange, cut_text
from qmesh.mesh.printable import escape_line
from qmesh.mesh.values import name_cores

MOST_LINES: Final = 20
MOST_NAMES: Final = 12
"""Machines that are named in a line; of more it says how many they are."""


class Sender(msgspec.Struct, frozen=True):
    """Which machine tells. machine: its name; mesh: of which mesh."""

    machine: str
    mesh: str


def render_title(sender: Sender, changes: Sequence[ToldChange]) -> str:
    """What it is about, in some words."""
    lines = _list_lines(changes)
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return f"qmesh on {sender.machine}: {cut_text(lines[0])}{more}"


def render_text(sender: Sender, changes: Sequence[ToldChange], *, dropped: int = 0) -> str:
    """All of it, a line for each kind of change. dropped: changes before these that are lost."""
    lines = _list_lines(changes)
    shown = [f"qmesh on {sender.machine}, mesh {sender.mesh}:", *(f"- {each}" for each in lines[:MOST_LINES])]
    if len(lines) > MOST_LINES:
        shown.append(f"- and {len(lines) - MOST_LINES} more; `qmesh status` and `qmesh check` show all")
    if dropped:
        shown.append(f"- {dropped} earlier changes could not be delivered, and are lost")
    return "\n".join(shown)


def _list_lines(changes: Iterable[ToldChange]) -> list[str]:
    """The lines: machines that are silent, or back, together, as long as nothing else comes between."""
    groups: list[list[ToldChange]] = []
    for change in changes:
        last = groups[-1][-1] if groups else None
        if last is not None and change.kind == "peer-silent" and _is_alike(last, change):
            groups[-1].append(change)
        else:
            groups.append([change])
    return [escape_line(_render_group(each)) for each in groups]


def _is_alike(one: ToldChange, other: ToldChange) -> bool:
    return (one.kind, one.phase, one.hold_s) == (other.kind, other.phase, other.hold_s)


def _render_group(group: Sequence[ToldChange]) -> str:
    change = group[0]
    names = _join_names([each.machine for each in group])
    text = _describe(change, names)
    if change.kind == "guard-changed" or not change.hold_s:
        return text
    return (
        f"{text} (this comes and goes: the next change is told once it has lasted {_say_time(change.hold_s)})"
    )


def _join_names(names: Sequence[str]) -> str:
    if len(names) <= MOST_NAMES:
        return ", ".join(names)
    return f"{len(names)} machines ({', '.join(names[:MOST_NAMES])} ...)"


def _describe(change: ToldChange, names: str) -> str:
    is_over = change.phase == "ended"
    match change.kind:
        case "peer-silent":
            return f"{names}: {'reachable again' if is_over else 'silent, nothing comes through the tunnel'}"
        case "worker-silent":
            return _describe_workers(change, names, is_over=is_over)
        case "guard-not-whole" if is_over:
            return f"{names}: the guard is whole again"
        case "guard-not-whole":
            return f"{names}: the guard is not whole, worker ports may be open; run `qmesh check` there"
        case "guard-changed":
            return _describe_alteration(change, names)
        case "finding":
            return _describe_finding(change, names, is_over=is_over)
        case "handed-over" as kind:
            moved = describe_event(kind, names)
            return f"{moved}; it tells of the cluster now, where `qmesh set --notify` was run there"
        case "test":
            return f"{names}: this is a test, nothing has happened"
        case kind:
            detail = f" ({cut_text(change.detail)})" if change.detail else ""
            return f"{describe_event(kind, names)}{detail}"


def _describe_workers(change: ToldChange, names: str, *, is_over: bool) -> str:
    cores = [core for first, last in change.cores for core in range(first, last + 1)]
    is_one = len(cores) == 1
    what = f"answer{'s' * is_one} again" if is_over else f"{'does' if is_one else 'do'} not answer"
    why = f" ({change.detail})" if change.detail else ""
    return f"{names}: {name_cores(cores)} {what}{why}"


def _describe_alteration(change: ToldChange, names: str) -> str:
    by = cut_text(change.detail) or "another program"
    often = "" if change.times == 1 else f" {change.times} times"
    again = f"; the next time is told after {_say_time(change.hold_s)}" if change.times > 1 else ""
    return f"{names}: {by} changed the guard's table{often}, and it was restored{again}"


def _describe_finding(change: ToldChange, names: str, *, is_over: bool) -> str:
    about = f"{change.code}, {cut_text(change.subject)}"
    if is_over:
        return f"{names}: no longer found: {about}"
    fix = f" (fix: {cut_text(change.fix)})" if change.fix else ""
    return f"{names}: {change.severity}: {about}: {cut_text(change.detail)}{fix}"


def _say_time(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
