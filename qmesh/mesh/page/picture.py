"""A view of the cluster as the browser is sent it: workers as columns, the links as a picture needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.machine_facts.differences import FRESH_S
from qmesh.mesh.machine_facts.facts import MachineFacts, WorkerFacts
from qmesh.mesh.node_processes.silence import SILENCE_WORDS
from qmesh.mesh.values import MachineState, Profile, name_cores
from qmesh.mesh.view.cluster_view import (
    ClusterView,
    FindingView,
    MachineRole,
    MachineView,
    TunnelView,
    WorkerViewState,
)

LinkState: TypeAlias = Literal["up", "silent", "never", "unknown", "none", "here"]
"""Of the tunnel between a machine and the control node.

never: no handshake since it is there. none: this machine has no tunnel to it, so it can't tell. here: the
control node itself.
"""
HANDSHAKE_S: Final = 180.0
"""Seconds after which a handshake says nothing any more: WireGuard's own limit."""
_LETTERS: Final[dict[WorkerViewState, str]] = {
    "alive": "a",
    "silent": "s",
    "restarting": "r",
    "unknown": "u",
}


class PageMachine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A machine of the mesh.

    handshake_s, received_bytes, sent_bytes: of its tunnel; None where that is unknown, or never.
    first: its first core; states: a letter for each of its cores, `a` alive, `s` silent, `r` restarting,
        `u` unknown. answers: microseconds until each accepted a connection, None where it did not, or was not
        dialled. whys: by core, why a silent one does not answer.
    agent_silent_s: seconds since its agent asked for the membership, where that is too long.
    facts: what it has and runs, by its own word: pairs of a title and a text.
    """

    name: str
    role: MachineRole
    state: MachineState
    address: str
    link: LinkState
    first: int
    states: str
    answers: tuple[int | None, ...]
    whys: dict[str, str] = {}
    handshake_s: float | None = None
    received_bytes: int | None = None
    sent_bytes: int | None = None
    revision: int | None = None
    agent_silent_s: float | None = None
    facts: tuple[tuple[str, str], ...] = ()


class PagePicture(msgspec.Struct, frozen=True, kw_only=True):
    """What the page shows of a cluster at one moment. All else as of `ClusterView`.

    name: of the machine that serves the page. guard: whether its guard is whole; None where that is unknown.
    """

    at: float
    version: str
    mesh: str
    name: str
    control: str
    node: Profile
    revision: int
    guard: bool | None
    findings: tuple[FindingView, ...] | None
    checked_at: float | None
    machines: tuple[PageMachine, ...]


def build_page_picture(view: ClusterView) -> PagePicture:
    """What is sent of a view."""
    control = next((each.tunnel for each in view.machines if each.role == "control"), None)
    return PagePicture(
        at=view.at,
        version=view.version,
        mesh=view.mesh,
        name=view.name,
        control=view.control,
        node=view.node,
        revision=view.revision,
        guard=view.guard.is_whole,
        findings=view.findings,
        checked_at=view.checked_at,
        # Seen from a worker machine, the one tunnel is its own: that to the control node.
        machines=tuple(
            _build_machine(each, control if each.name == view.name else each.tunnel, view.at)
            for each in view.machines
        ),
    )


def _build_machine(machine: MachineView, tunnel: TunnelView | None, at: float) -> PageMachine:
    workers = machine.workers
    is_old = machine.facts_at is not None and at - machine.facts_at > FRESH_S
    return PageMachine(
        name=machine.name,
        role=machine.role,
        state=machine.state,
        address=machine.address,
        link=_judge_link(machine, tunnel),
        first=workers[0].core if workers else 0,
        states="".join(_LETTERS[each.state] for each in workers),
        answers=tuple(
            None if each.answer_s is None else max(1, round(each.answer_s * 1_000_000)) for each in workers
        ),
        whys={
            str(each.core): SILENCE_WORDS[each.why]
            for each in workers
            if each.why and each.state in {"silent", "restarting"}
        },
        handshake_s=None if tunnel is None else tunnel.handshake_s,
        received_bytes=None if tunnel is None else tunnel.received_bytes,
        sent_bytes=None if tunnel is None else tunnel.sent_bytes,
        revision=machine.revision,
        agent_silent_s=machine.agent_silent_s,
        facts=() if machine.facts is None else tuple(_describe_facts(machine.facts, is_old=is_old)),
    )


def _describe_facts(facts: MachineFacts, *, is_old: bool) -> Iterator[tuple[str, str]]:
    """Those that are known, in the order in which they are read."""
    for title, text in (
        ("told", f"more than {FRESH_S / 60:.0f} minutes ago" if is_old else ""),
        ("processor", facts.cpu),
        ("logical cores", "" if facts.cores is None else str(facts.cores)),
        ("load", "" if facts.load is None else f"{facts.load:.2f}"),
        ("memory available", _describe_part(facts.memory_available_bytes, facts.memory_bytes)),
        ("disk free", _describe_part(facts.disk_free_bytes, facts.disk_bytes)),
        ("memory of workers", _describe_worker_memory(facts.workers)),
        ("restarts of workers", _describe_restarts(facts.workers)),
        ("node", facts.node),
        ("qmesh", facts.qmesh),
        ("kernel", facts.kernel),
        ("nft", facts.nft),
    ):
        if text:
            yield title, text


def _describe_part(part: int | None, whole: int | None) -> str:
    if part is None or whole is None:
        return ""
    return f"{part / 2**30:.1f} of {_format_memory(whole)}"


def _format_memory(number: int) -> str:
    return f"{number / 2**30:.1f} GiB"


def _describe_worker_memory(workers: Sequence[WorkerFacts]) -> str:
    known = [(each.memory_bytes, each.core) for each in workers if each.memory_bytes is not None]
    if not known:
        return ""
    largest, core = max(known)
    total = sum(number for number, _ in known)
    return f"{_format_memory(total)}, of which core {core} has {_format_memory(largest)}"


def _describe_restarts(workers: Sequence[WorkerFacts]) -> str:
    """None is said too: it is news where one was expected."""
    if not workers:
        return ""
    total = sum(each.restarts for each in workers)
    cores = [each.core for each in workers if each.restarts]
    return f"{total} ({name_cores(cores)})" if total else "none"


def _judge_link(machine: MachineView, tunnel: TunnelView | None) -> LinkState:
    if machine.role == "control":
        return "here"
    if tunnel is None or machine.state == "invited":
        return "none"
    if tunnel.is_silent:
        return "silent"
    if tunnel.handshake_s is None:
        return "never" if machine.state == "active" else "unknown"
    if tunnel.is_silent is None and tunnel.handshake_s > HANDSHAKE_S:
        return "unknown"
    return "up"
