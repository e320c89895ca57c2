"""What is known of a worker by the answer that it gives, or does not."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from qmesh.mesh.inventory import Inventory, Worker
from qmesh.mesh.links.activity import LinkReport
from qmesh.mesh.node_processes.places import Place, find_other_places, list_accepting_places
from qmesh.mesh.node_processes.silence import SilenceReason, explain_error
from qmesh.mesh.ports.port_ranges import list_port_ranges
from qmesh.mesh.protocol.member_note import MemberNote

MOST_AWAITED: Final = 8
"""Machines that were never heard, and not awaited for long yet, whose workers are dialled all the same."""


class WorkerAnswer(NamedTuple):
    """A worker's. seconds: None where there is none; then why, as far as this machine can tell.

    elsewhere: the addresses at which its port is listened on instead.
    """

    seconds: float | None
    why: SilenceReason = ""
    elsewhere: tuple[str, ...] = ()


def find_listener(place: Place, listening: Collection[Place]) -> WorkerAnswer:
    """Of this machine's own worker: whether it listens where it should, or on every address."""
    if any(each in listening for each in list_accepting_places(place)):
        return WorkerAnswer(0.0)
    others = find_other_places(place, sorted(listening))
    return WorkerAnswer(None, "elsewhere" if others else "absent", others)


def explain_connection(seconds: float, error: int, own: WorkerAnswer | None) -> WorkerAnswer:
    """What a connection's result says. own: what is known besides, of a worker of this machine."""
    if not error:
        return WorkerAnswer(seconds)
    return own if own is not None and own.seconds is None else WorkerAnswer(None, explain_error(error))


def apply_note(core: int, answer: WorkerAnswer, note: MemberNote) -> WorkerAnswer:
    """The same with what the worker's machine has noted of itself."""
    if note.is_down and answer.why in {"dropped", "unroutable"}:
        return answer._replace(why="down")
    if any(first <= core <= last for first, last in note.stopped) and answer.why in {"", "dropped"}:
        return answer._replace(seconds=None, why="stopped")
    elsewhere = dict(note.elsewhere).get(core)
    if elsewhere is not None and answer.why == "refused":
        return answer._replace(why="elsewhere", elsewhere=(elsewhere,))
    return answer


def note_listeners(
    own: Iterable[Worker], listening: Collection[Place], stopped: Collection[Place] = ()
) -> MemberNote:
    """What a machine notes for the control node: its workers that listen at another address, or stand still.

    stopped: the places at which processes listen that are stopped or frozen.
    """
    places = {worker.core: (worker.address, worker.port) for worker in own}
    found = ((core, find_listener(place, listening)) for core, place in places.items())
    cores = sorted(
        core
        for core, place in places.items()
        if any(each in stopped for each in list_accepting_places(place))
    )
    return MemberNote(
        elsewhere=tuple((core, each.elsewhere[0]) for core, each in found if each.elsewhere),
        stopped=tuple(list_port_ranges(cores)),
    )


def list_undialled_machines(inventory: Inventory, links: LinkReport) -> frozenset[str]:
    """Those of which nothing comes, as the agent says; but for a few that may be about to be heard."""
    awaited = links.waiting if len(links.waiting) <= MOST_AWAITED else ()
    keys = links.unheard_keys - set(awaited)
    return frozenset(each.name for each in inventory.machines if each.public_key in keys)
