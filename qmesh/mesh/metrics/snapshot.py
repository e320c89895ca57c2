"""What the agent of one machine knows at one moment. None where that is not known: then it is no metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.links.activity import LinkReport
from qmesh.mesh.machine_facts.facts import ToldFacts
from qmesh.mesh.node_processes.silence import SilenceReason
from qmesh.mesh.standing_proof.record import StandingProof
from qmesh.mesh.state import Counters, Guard, NodeState


class WorkerSample(NamedTuple):
    """One data worker. seconds: until it answered; None where it does not answer.

    machine: whose it is, by name. why: of one that does not answer, as far as this machine can tell.
    answered_s: seconds since it answered last; None where it was never seen to.
    """

    machine: str
    core: int
    seconds: float | None
    why: SilenceReason = ""
    answered_s: float | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One machine, and what it knows of others.

    name: of this machine, in the inventory; interface: of its tunnel; version: of qmesh.
    looked_at: Unix time in seconds of the agent's last whole look.
    guard_ok: whether both tables of the guard and its file are as the mesh wants them.
    dropped: packets that the guard has dropped since its table was loaded, by chain.
    counters: of the tunnel's peers, by public key.
    links: what is heard of the peers.
    unasked: by tunnel address of members whose agents ask for no membership, for how many seconds they have
        not; revisions: which revision each member has said that it holds, by tunnel address. On the control
        node only.
    workers: those that this machine can tell of. is_dialled: whether `seconds` are those of a connection.
    facts: what is known of machines by their own word, by tunnel address.
    proof: of the claims, the last one of this machine.
    findings: of the last check of this machine; checked_at: when that was, in Unix time in seconds.
    """

    name: str
    version: str
    inventory: Inventory
    interface: str
    looked_at: float | None = None
    guard_ok: bool | None = None
    dropped: Mapping[str, int] | None = None
    counters: Mapping[str, Counters] | None = None
    links: LinkReport | None = None
    unasked: Mapping[str, float] | None = None
    revisions: Mapping[str, int] | None = None
    workers: tuple[WorkerSample, ...] | None = None
    is_dialled: bool = False
    facts: Mapping[str, ToldFacts] = {}
    proof: StandingProof | None = None
    findings: tuple[Finding, ...] | None = None
    checked_at: float | None = None


def is_guard_whole(desired: NodeState, observed: NodeState) -> bool:
    """Whether there is a guard, and it is as it should be: both tables, and the file for the next boot."""
    return isinstance(observed.guard, Guard) and observed.guard == desired.guard
