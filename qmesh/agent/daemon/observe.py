"""The agent's look at its machine: at what changed when the kernel says so, at all of it at intervals.

What the agent found as desired, it holds. A machine that joins is then one peer to set, among ten as
among ten thousand, and a look costs the same in a mesh of any size. Only the control node's audits
read every peer, the less often the more there are.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import msgspec

from qmesh.agent.converge import converge
from qmesh.agent.daemon.membership.retirements import RetirementWatch
from qmesh.agent.daemon.refused_handshakes import RefusedHandshakes
from qmesh.agent.facts import resolve_names
from qmesh.agent.local import Local, linux_for, load_local
from qmesh.agent.rollback import find_active_rollback, maintain_rollback
from qmesh.errors import Busy
from qmesh.host.linux import Linux, Outline
from qmesh.host.network.netlink_events import Notice, Notices
from qmesh.host.registry_access import open_registry
from qmesh.host.state.directory import State
from qmesh.host.system import processes
from qmesh.mesh.desired import build_peer
from qmesh.mesh.endpoints import choose_peer_endpoint
from qmesh.mesh.links.activity import LinkWatch
from qmesh.mesh.plan.compare import peer_steps
from qmesh.mesh.plan.steps import Step
from qmesh.mesh.rollback import RollbackRecord
from qmesh.mesh.state import Counters, Peer

if TYPE_CHECKING:  # a worker machine has no registry
    from qmesh.host.registry import KeyedMachine, Registry

AUDIT_S: Final = 7.5
AUDIT_S_A_MACHINE: Final = 0.015
"""Seconds between two audits, at least and for each machine of the mesh: 15 s where there are 500."""
KEY_S: Final = 60.0
"""Seconds for which a machine that offered a key is looked for often."""
SOON_S: Final = 0.05
"""Seconds that a look waits for another program that writes to the registry; then it writes later."""
OUTLINE_S: Final = 4.0
"""Seconds between two looks at a machine whose kernel says nothing: of files and sysctls it tells nobody."""
RETURN_S: Final = 60.0
"""Seconds between two times that free memory is given back, at least: that takes some milliseconds."""


class _ConvergedState(msgspec.Struct, kw_only=True):
    """A machine that was found as desired, and what that came from.

    stamp: of the files of which the desired state is made.
    origin: what of the registry the rest came from; None on a worker machine.
    audited: None where every look is at everything: on a worker machine, and while the tunnel is down.
    """

    here: Local
    stamp: Hashable
    origin: _RegistryOrigin | None
    audited: _AuditedPeers | None


class _RegistryOrigin(NamedTuple):
    """At which event it was, and a stamp of its file: who writes there without an event changes that."""

    event: int
    stamp: Hashable


class _AuditedPeers(msgspec.Struct, kw_only=True):
    """A control node that was found as desired, peer by peer.

    outline: the machine without its peers.
    outlined: on the monotonic clock, when that was seen last.
    event: the registry's last event that is in `keys`.
    keys: the public key of each machine's peer, by the machine's name.
    until: on the monotonic clock, when the next audit is due.
    """

    linux: Linux
    outline: Outline
    outlined: float
    event: int
    keys: dict[str, str]
    until: float


def audit_interval_s(machines: int) -> float:
    """Seconds between two audits of a control node."""
    return AUDIT_S + AUDIT_S_A_MACHINE * machines


class MachineWatch:
    """Over one machine, by the one agent that it has. Use as a context manager.

    notices: to be waited for, so that the next look comes at once.
    noticed: what the last look was told.
    event: the registry's last event that it has followed; None on a worker machine.
    links: what has come by each tunnel, as of the last look at everything.
    counters: of the tunnel's peers, by public key, as of the same; None before, and while a change is undone.
    audit_s: seconds between two audits of a control node of so many machines.
    list_unanswered: the addresses whose peers are in use still, and get their new keys at a later look.
    """

    def __init__(
        self,
        state: State,
        *,
        audit_s: Callable[[int], float] = audit_interval_s,
        list_unanswered: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.notices = Notices()
        self.noticed: Notice | None = None
        self.event: int | None = None
        self.links = LinkWatch()
        self.counters: Mapping[str, Counters] | None = None
        self._retirements = RetirementWatch(state)
        self._refused = RefusedHandshakes()
        self._state = state
        self._audit_s = audit_s
        self._list_unanswered = list_unanswered
        self._held: _ConvergedState | None = None
        self._changing: tuple[frozenset[str], float] = frozenset(), 0.0
        self._return_at = 0.0

    @property
    def is_key_changing(self) -> bool:
        """Whether a machine is about to change its key: it then looks at handshakes, often."""
        return bool(self._changing[0]) and time.monotonic() < self._changing[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.notices.close()
        self._refused.close()

    def reopen_notices(self) -> None:
        """Listen for notices by other sockets, where something is wrong with these. Raises MachineRefused."""
        self.notices.close()
        self.notices = Notices(self.notices.count_changes())

    def converge_machine(self) -> tuple[Local, tuple[Step, ...]]:
        """See that the machine is as desired; what it remembers, and the steps that were taken.

        What a control node remembers may lack machines that came after the last audit.
        Raises what `load_local` and `converge` raise; then the next look is at everything.
        """
        held, self._held = self._held, None
        # Taken first: what is written or changed from here on, the next look sees.
        stamp = self._state.read_stamp()
        self.noticed = self.notices.take_notice()
        if held is not None and held.stamp != stamp:
            held = None
        undoing = find_active_rollback(self._state)
        if undoing is not None:
            return self._maintain_rollback(undoing)
        if held is not None and self._activate_pending_key(held.here):
            held = None
        # Where the machine is not what it was, who holds the guard has put that back already.
        if held is not None and held.audited is not None and not self._is_changed(held.audited):
            steps = self._apply_registry_events(held.audited, held.here)
            if steps is not None:
                self._held = held
                return held.here, steps
        origin = self._read_registry_origin()
        known = held.here if held is not None and held.origin == origin else None
        del held  # two meshes of thousands in memory at once would be felt
        return self._audit(stamp, origin, known)

    def _maintain_rollback(self, undoing: RollbackRecord) -> tuple[Local, tuple[Step, ...]]:
        """See that the machine is as it was put back; a control node goes on letting others in and out."""
        self.links.clear()
        self.counters = None
        here = load_local(self._state)
        if here.settings.control:
            self.event = self._read_last_event()
            if self._activate_pending_key(here):
                here = load_local(self._state)
        steps = maintain_rollback(self._state, undoing)
        self._watch_pending_keys(here)
        return here, steps

    def _watch_pending_keys(self, here: Local) -> None:
        """Look often for a while where a machine has offered a key."""
        offered = frozenset(each.public_key for each in here.inventory.stand_ins if each.address is None)
        if offered != self._changing[0]:
            self._changing = offered, time.monotonic() + KEY_S

    def _activate_pending_key(self, here: Local) -> bool:
        """Whether a machine came with the key that it had offered; then that is its only one."""
        offered, _ = self._changing
        if not offered:
            return False
        counters = linux_for(self._state, here.settings).backend.read(here.settings.interface).counters
        came = [key for key in offered if key in counters and counters[key].last_handshake_s]
        if not came:
            return False
        with contextlib.suppress(Busy), self._open_registry() as registry:
            for key in came:
                registry.activate_pending_key(key, now=int(time.time()))
            return True
        return False

    def _is_changed(self, audited: _AuditedPeers) -> bool:
        """Whether the machine is not what it was, but for its peers."""
        now = time.monotonic()
        if self.noticed is None and now < audited.outlined + OUTLINE_S:
            return False
        audited.outlined = now
        return audited.linux.observe_outline() != audited.outline

    def _read_registry_origin(self) -> _RegistryOrigin | None:
        """What the control node's registry is at, before it is read."""
        if not self._state.settings().control:
            return None
        stamp = self._state.read_registry_stamp()
        return _RegistryOrigin(self._read_last_event(), stamp)

    def _audit(
        self, stamp: Hashable, origin: _RegistryOrigin | None, known: Local | None
    ) -> tuple[Local, tuple[Step, ...]]:
        """Look at everything. known: what the files of that stamp, and the registry as it is, say."""
        self.event = event = None if origin is None else origin.event
        here = known or load_local(self._state)
        linux = linux_for(self._state, here.settings)
        # Before all is looked at: this is how a machine looks that is then found as desired.
        outlined, outline = time.monotonic(), linux.observe_outline()
        steps = converge(here, linux, follow_roaming=True, outline=outline)
        self.counters = linux.counters
        self.links.note_counters(linux.counters, list_expected_keys(here), at_s=time.monotonic())
        self._retirements.send_notices(here, linux)
        self._refused.renew_refused_peers(here, linux, self.links.report)
        audited = None
        if event is not None and here.settings.up and not steps:
            machines = here.inventory.machines
            audited = _AuditedPeers(
                linux=linux,
                outline=outline,
                outlined=outlined,
                event=event,
                keys={machine.name: machine.public_key for machine in machines},
                until=time.monotonic() + self._audit_s(len(machines)),
            )
        self._return_free_memory()
        self._held = _ConvergedState(here=here, stamp=stamp, origin=origin, audited=audited)
        self._watch_pending_keys(here)
        return here, steps

    def _return_free_memory(self) -> None:
        """Of this look, in which each peer was there twice, and of the agent's other parts."""
        now = time.monotonic()
        if now >= self._return_at:
            self._return_at = now + RETURN_S
            processes.return_free_memory()

    def _read_last_event(self) -> int:
        with self._open_registry() as registry:
            _expire_invitations(registry)
            return registry.last_event_number()

    def _open_registry(self) -> Registry:
        return open_registry(self._state.registry_file, busy_s=SOON_S)

    def _apply_registry_events(self, audited: _AuditedPeers, here: Local) -> tuple[Step, ...] | None:
        """Do what the registry's events ask for since the last look; None where an audit has to."""
        if time.monotonic() > audited.until:
            return None
        with self._open_registry() as registry:
            _expire_invitations(registry)
            news = registry.read_news(since=audited.event)
        if news is None:
            return None
        # One with the key that it had is as it was, but for its endpoint: that WireGuard may know better.
        changed = {
            name: known
            for name, known in news.machines.items()
            if known is None or known.machine.public_key != audited.keys.get(name)
        }
        unanswered = self._list_unanswered()
        waiting = {
            name
            for name, known in changed.items()
            if known is not None and known.machine.address in unanswered and name in audited.keys
        }
        for name in waiting:
            del changed[name]
        gone = [
            Peer(public_key=audited.keys[name], allowed_ips=()) for name in changed if name in audited.keys
        ]
        come = [_build_peer(known) for known in changed.values() if known is not None]
        steps = tuple(peer_steps(here.settings.interface, come, gone))
        audited.linux.apply(*steps)
        for name, known in changed.items():
            if known is None:
                audited.keys.pop(name, None)
            else:
                audited.keys[name] = known.machine.public_key
        self.event = news.event
        if not waiting:  # else the next look sees these events again, and does what is left to do
            audited.event = news.event
        return steps


def list_expected_keys(here: Local) -> list[str]:
    """The public keys of the machines that this one should hear from all the time.

    The control node hears from all that are active, another machine from the control node.
    """
    if not here.settings.up or here.has_handed_over:
        return []
    if here.settings.control:
        machines = here.inventory.machines
        return [each.public_key for each in machines if each.state == "active" and each != here.machine]
    return [] if here.inventory.control == here.settings.name else [here.inventory.control_node.public_key]


def _expire_invitations(registry: Registry) -> None:
    with contextlib.suppress(Busy):  # then the next time
        registry.expire_invitations(now=int(time.time()))


def _build_peer(known: KeyedMachine) -> Peer:
    endpoints = known.machine.endpoints
    return build_peer(
        known.machine,
        endpoint=choose_peer_endpoint(endpoints, None, resolve_names([(endpoints, False)])),
        preshared_key=known.preshared_key,
        calls=bool(known.machine.endpoints),
    )
