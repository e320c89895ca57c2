"""What became different between two moments, in words, and what the registry's events say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.events.mesh_events import describe_author, describe_event
from qmesh.mesh.page.picture import LinkState, PageMachine, PagePicture
from qmesh.mesh.values import name_cores
from qmesh.mesh.view.cluster_view import EventView

ChangeTone: TypeAlias = Literal["bad", "good", "note"]

_WORKERS: Final[dict[str, tuple[ChangeTone, str]]] = {
    "a": ("good", "alive again"),
    "s": ("bad", "silent"),
    "r": ("note", "restarting"),
}
"""What it means that a worker came into a state. One that is unknown now has done nothing."""
_LINKS: Final[dict[LinkState, tuple[ChangeTone, str]]] = {
    "up": ("good", "the tunnel is up"),
    "silent": ("bad", "the tunnel is silent"),
    "never": ("note", "no handshake yet"),
}
_BAD_LINKS: Final = frozenset({"silent", "never"})


class Change(msgspec.Struct, frozen=True):
    """Something that became different. at: Unix time in seconds."""

    at: float
    kind: ChangeTone
    text: str


def list_changes(before: PagePicture, after: PagePicture) -> tuple[Change, ...]:
    """What is otherwise in the second of two moments. What joined and left is for `describe_events`."""
    found = [*_list_guard_changes(before, after), *_list_finding_changes(before, after)]
    known = {machine.name: machine for machine in before.machines}
    for machine in after.machines:
        if machine.name in known:
            found += _list_machine_changes(known[machine.name], machine)
    return tuple(Change(after.at, kind, text) for kind, text in found)


def describe_events(events: Iterable[EventView]) -> tuple[Change, ...]:
    """What changed the mesh, in words."""
    return tuple(Change(event.at, "note", _describe_event(event)) for event in events)


def _describe_event(event: EventView) -> str:
    words = describe_event(event.what, event.machine or ""), describe_author(event.command, event.user)
    return ", ".join(filter(None, words))


def _list_guard_changes(before: PagePicture, after: PagePicture) -> Iterator[tuple[ChangeTone, str]]:
    if after.guard is not None and before.guard is not None and after.guard != before.guard:
        if after.guard:
            yield "good", f"the guard of {after.name} is whole again"
        else:
            yield "bad", f"the guard of {after.name} is not whole"


def _list_finding_changes(before: PagePicture, after: PagePicture) -> Iterator[tuple[ChangeTone, str]]:
    if before.findings is None or after.findings is None:
        return
    old = {(each.code, each.subject) for each in before.findings}
    new = {(each.code, each.subject) for each in after.findings}
    for each in after.findings:
        if (each.code, each.subject) not in old:
            yield "note" if each.severity == "info" else "bad", f"found {each.code}: {each.subject}"
    for code, subject in sorted(old - new):
        yield "good", f"no longer found: {code}: {subject}"


def _list_machine_changes(before: PageMachine, after: PageMachine) -> Iterator[tuple[ChangeTone, str]]:
    name = after.name
    if after.link != before.link and after.link in _LINKS:
        kind, words = _LINKS[after.link]
        if after.link != "up" or before.link in _BAD_LINKS:
            yield kind, f"{name}: {words}{' again' * (after.link == 'up')}"
    if (after.agent_silent_s is None) != (before.agent_silent_s is None):
        if after.agent_silent_s is None:
            yield "good", f"{name}: its agent asks again"
        else:
            yield "bad", f"{name}: its agent is silent"
    if after.first != before.first or len(after.states) != len(before.states):
        return  # other cores: there is nothing to compare
    moved: defaultdict[str, list[int]] = defaultdict(list)
    for place, (old, new) in enumerate(zip(before.states, after.states, strict=True)):
        if old not in {new, "u"} and new in _WORKERS:
            moved[new].append(after.first + place)
    for state, cores in moved.items():
        kind, words = _WORKERS[state]
        yield kind, f"{name}: {name_cores(cores)} {words}"
