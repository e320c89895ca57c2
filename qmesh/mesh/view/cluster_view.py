"""All that readers and the page may see of a cluster. What has no field here is not shown to them.

None stands for what this machine does not know: a worker machine knows only itself and its control node.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from qmesh.mesh.audit.findings import Severity
from qmesh.mesh.machine_facts.facts import MachineFacts
from qmesh.mesh.node_processes.silence import SilenceReason
from qmesh.mesh.values import MachineState, Profile

MachineRole: TypeAlias = Literal["control", "worker"]
WorkerViewState: TypeAlias = Literal["alive", "silent", "restarting", "unknown"]
"""restarting: it answered less than a minute ago, and nothing listens at its port now. unknown: this machine
can't tell."""


class WorkerView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A data worker. answer_s: seconds until it accepted a connection; None where it was not dialled.

    why: of a silent one, as far as this machine can tell.
    """

    core: int
    port: int
    state: WorkerViewState
    answer_s: float | None = None
    why: SilenceReason = ""


class TunnelView(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """This machine's tunnel to another one. handshake_s: seconds since the last handshake; None for never.

    received_bytes, sent_bytes: from and to that machine, as WireGuard counts.
    is_silent: whether nothing came through it for three minutes; None where that is not watched.
    """

    handshake_s: float | None
    received_bytes: int
    sent_bytes: int
    is_silent: bool | None


class MachineView(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of the mesh. address: in the tunnel.

    tunnel: None for this machine itself, and where there is none from here.
    revision: of the membership that it has said it holds. On a worker machine, of its own alone.
    agent_up: whether its agent asks the control node for the membership; agent_silent_s: for how many seconds
        it has not, where that is too long.
    workers: by core; none while it has no cores.
    facts: what it has and runs, by its own word; facts_at: when it said so.
    """

    name: str
    role: MachineRole
    state: MachineState
    address: str
    tunnel: TunnelView | None
    revision: int | None
    agent_up: bool | None
    agent_silent_s: float | None
    workers: tuple[WorkerView, ...]
    facts: MachineFacts | None = None
    facts_at: float | None = None


class FindingView(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it should be. All as of `Finding`."""

    code: str
    severity: Severity
    subject: str
    wanted: str
    seen: str
    cure: str
    link: str = ""


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """Something that changed the mesh. at: Unix time in seconds. user: who typed it, where that was noted.

    address: in the tunnel, of a machine that joined.
    """

    at: int
    what: str
    machine: str | None
    revision: int
    command: str
    user: str | None = None
    address: str | None = None


class GuardView(msgspec.Struct, frozen=True, kw_only=True):
    """The guard of this machine. is_whole: both tables and the file for the next boot are as they should be.

    dropped: packets since its tables were loaded, by chain.
    """

    is_whole: bool | None
    dropped: dict[str, int] | None


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster as one machine sees it. Times are Unix times in seconds.

    at: when this was put together. looked_at: when the agent looked at its machine last.
    version: of qmesh. mesh: its identifier. name: of this machine. control: the control node's name.
    findings: of the last check of this machine; checked_at: when that was.
    events: the newest ones, oldest first; on the control node only.
    """

    at: float
    looked_at: float | None
    version: str
    mesh: str
    name: str
    role: MachineRole
    control: str
    node: Profile
    revision: int
    machines: tuple[MachineView, ...]
    guard: GuardView
    findings: tuple[FindingView, ...] | None
    checked_at: float | None
    events: tuple[EventView, ...] | None
