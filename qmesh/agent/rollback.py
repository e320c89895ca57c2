"""Changes that are undone unless they are confirmed: `apply --confirm`, `confirm`, `undo`.

What to return to is on the disk before the first step is taken. A process of its own waits for the
deadline (`run`); where it is killed, the agent does its work, or whatever command comes next.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from qmesh.agent.converge import converge, take
from qmesh.agent.local import (
    Here,
    desired_here,
    endpoints_wanted,
    linux_for,
    load,
    require_root,
    risen,
)
from qmesh.errors import BadInput, MachineRefused, QmeshError
from qmesh.host.firewall import guard_snapshot
from qmesh.host.linux import Linux
from qmesh.host.network import ports
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.host.system import boot_clock, processes, systemd
from qmesh.mesh.model import NodeState, Tunnel
from qmesh.mesh.plan import Step, plan
from qmesh.mesh.rollback import Author, Before, Undoing, kept

log = logging.getLogger("qmesh")

POLL_S: Final = 0.5
"""Seconds between two looks at what is to be undone: it ends soon after a `confirm`."""
PATIENCE_S: Final = 5.0
"""Seconds that an undoing waits for the lock before it kills the change that has it."""
RETRY_S: Final = 5.0


def arm(state: State, here: Here, linux: Linux, *, seconds: int) -> Undoing:
    """Remember what this machine is, and have it put back so unless confirmed. Holds the lock.

    A change that waits already keeps the state to return to. Raises BadInput where that could not be
    put back; MachineRefused with nothing armed.
    """
    now, earlier = boot_clock.now(), state.undoing()
    before = earlier.before if earlier is not None and earlier.waits(now) else _before(state, here, linux)
    undoing = Undoing(before=before, boot=now.boot, deadline_s=now.at_s + seconds, by=_author(), undone=False)
    state.save_undoing(undoing)
    try:
        systemd.start_undo(state)
    except MachineRefused:
        state.save_undoing(earlier)
        raise
    return undoing


def rearm(state: State, *, seconds: int) -> None:
    """Let the time to confirm begin now that the steps are taken. Holds the lock."""
    undoing, now = state.undoing(), boot_clock.now()
    if undoing is not None and not undoing.undone and undoing.boot == now.boot:
        state.save_undoing(msgspec.structs.replace(undoing, deadline_s=now.at_s + seconds))


def _author() -> Author:
    found = processes.seen(os.getpid())
    return Author(os.getpid(), 0 if found is None else found.started)


def _before(state: State, here: Here, linux: Linux) -> Before:
    observed = linux.observe()
    if observed.tunnel is not None and not linux.has_key(observed.tunnel.public_key):
        raise BadInput(
            f"{observed.tunnel.interface} has a key that is in no file here: it could not be put back",
            hint="`qmesh apply` without --confirm gives it the right one",
        )
    return Before(
        guard=guard_snapshot.guard_now(state, observed),
        tunnel=observed.tunnel,
        reserved_ports=observed.reserved_ports,
        up=here.settings.up,
        guarded=here.settings.guarded,
    )


def refuse_while_waiting(state: State) -> None:
    """Put back what is due; raise BadInput while a change waits to be confirmed. Holds the lock."""
    put_back_when_due(state)
    undoing, now = state.undoing(), boot_clock.now()
    if undoing is not None and undoing.waits(now):
        raise BadInput(
            f"a change waits to be confirmed, and is undone in {undoing.left_s(now):.0f} s",
            hint="`qmesh confirm` keeps it, `qmesh undo --now` puts back what was before",
        )


def put_back_when_due(state: State) -> bool:
    """Put this machine back where nobody confirmed in time; whether that was so. Holds the lock."""
    undoing = state.undoing()
    if undoing is None or not undoing.is_due(boot_clock.now()):
        return False
    put_back(state, undoing, at_boot=undoing.boot != boot_clock.now().boot)
    return True


def put_back(state: State, undoing: Undoing, *, at_boot: bool) -> None:
    """Put this machine back, the guard first, and remember that it was. Safe to be cut off and repeated.

    at_boot: the machine has been started anew: what runs begins after this by itself. The tunnel is
        then the agent's to make, which keeps the machine as it was put back.
    """
    before = undoing.before
    if before.guard.script is not None:
        guard_snapshot.put_guard_back(state, before.guard, at_boot=at_boot)
    settings = state.settings_or_none()
    if settings is not None:
        settings = msgspec.structs.replace(settings, up=before.up, guarded=before.guarded)
        state.save_settings(settings)
    ports.hold(state, before.reserved_ports)
    if settings is not None and not at_boot:
        linux = _linux(state, settings)
        observed = linux.observe()
        tunnel = _with_peers_of_now(state, settings, before.tunnel, observed)
        exactly = msgspec.structs.replace(observed, tunnel=tunnel)
        take(linux, plan(exactly, observed))
    if before.guard.script is None:
        guard_snapshot.put_guard_back(state, before.guard, at_boot=at_boot)
    state.save_undoing(msgspec.structs.replace(undoing, undone=True))
    log.warning("nobody confirmed: this machine was put back as it was before `qmesh apply --confirm`")
    if before.guard.script is None:
        log.warning("it had no guard then: its worker ports are OPEN to whoever reaches it")
    log.warning("it is left so until `qmesh apply`")


def _linux(state: State, settings: Settings) -> Linux:
    """This machine, whatever becomes of its membership: what is put back does not come from that."""
    key = state.private_key()
    return Linux(state, settings.interface, [] if key is None else [key])


def _with_peers_of_now(
    state: State, settings: Settings, tunnel: Tunnel | None, observed: NodeState
) -> Tunnel | None:
    """A control node's tunnel as it was, but with the peers that it has by now: none comes back by this."""
    if tunnel is None or not settings.control:
        return tunnel
    try:
        here = risen(load(state))
        endpoints = endpoints_wanted(here, observed)
        wanted = desired_here(here, tunnel.kind, endpoints, mtu=tunnel.mtu).tunnel
    except QmeshError as error:
        log.warning("%s (hint: %s): the peers stay as they are", error.message, error.hint)
        wanted = observed.tunnel
    return msgspec.structs.replace(tunnel, peers=wanted.peers if wanted is not None else ())


def follow(state: State) -> None:
    """Have this machine be as its mesh is now; of one that was put back, only the peers. Holds the lock."""
    undoing = undone_here(state)
    if undoing is not None:
        log.warning("this machine was put back, and is left so until `qmesh apply`: only its peers follow")
        keep_put_back(state, undoing)
        return
    here = load(state)
    if here.settings.up:
        converge(here, linux_for(state, here), follow_roaming=True)


def keep_put_back(state: State, undoing: Undoing) -> tuple[Step, ...]:
    """See that this machine is as it was put back: what others take from it, not more. Holds the lock."""
    if guard_snapshot.is_gone(undoing.before.guard):
        log.info("the guard was taken away: putting it back")
        guard_snapshot.put_guard_back(state, undoing.before.guard, at_boot=False)
    linux = _linux(state, state.settings())
    observed = linux.observe()
    tunnel = _with_peers_of_now(state, state.settings(), undoing.before.tunnel, observed)
    before = msgspec.structs.replace(undoing.before, tunnel=tunnel)
    return take(linux, plan(kept(before, observed), observed))


class Outcome(msgspec.Struct, frozen=True):
    """What `confirm` found. kept: whether the change is kept; found: in words."""

    kept: bool
    found: str


def confirm(state: State) -> Outcome:
    """Keep the change that waits. Nothing there to keep is fine; one that was undone is not."""
    require_root("qmesh confirm")
    with state.lock():
        put_back_when_due(state)
        undoing = state.undoing()
        if undoing is None:
            return Outcome(kept=True, found="nothing waits to be confirmed")
        if undoing.undone:
            return Outcome(
                kept=False, found="too late: this machine was put back; `qmesh apply --confirm` tries again"
            )
        state.save_undoing(None)
    return Outcome(kept=True, found="confirmed: the change stays")


def undo_now(state: State) -> bool:
    """Put this machine back without waiting any longer; whether there was something to put back."""
    require_root("qmesh undo")
    with state.lock():
        undoing = state.undoing()
        if undoing is None or undoing.undone:
            return False
        put_back(state, undoing, at_boot=undoing.boot != boot_clock.now().boot)
    return True


def run(state: State) -> None:
    """Be the process that puts this machine back at its time; ends when nothing waits any more.

    Raises MachineRefused when there is one already.
    """
    require_root("qmesh undo")
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with _alone(state):
        undoing = state.undoing()
        if undoing is not None and undoing.boot == boot_clock.now().boot:
            processes.notify("READY=1")
        while undoing is not None and not undoing.undone:
            if undoing.is_due(boot_clock.now()):
                _at_its_time(state)
            else:
                time.sleep(min(POLL_S, undoing.left_s(boot_clock.now())))
            undoing = state.undoing()
        processes.notify("READY=1")


@contextlib.contextmanager
def _alone(state: State) -> Iterator[None]:
    end = time.monotonic() + 4 * POLL_S  # one that has nothing to do any more is about to end
    while True:
        with processes.only(state.undo_lock_file) as alone:
            if alone:
                yield
                return
        if time.monotonic() > end:
            raise MachineRefused("a process that undoes runs already", hint="leave it to its work")


def _at_its_time(state: State) -> None:
    """Put back; what goes wrong is said, and tried again."""
    try:
        with _lock_of_a_change_that_hangs(state):
            put_back_when_due(state)
    except (QmeshError, OSError) as error:
        log.error("putting this machine back failed, and is tried again: %s", error)  # noqa: TRY400
        time.sleep(RETRY_S)


@contextlib.contextmanager
def _lock_of_a_change_that_hangs(state: State) -> Iterator[None]:
    """The lock; who hangs with it is killed where it is the change, and else not waited for for ever."""
    with state.lock_within(PATIENCE_S) as locked:
        if locked:
            yield
            return
    undoing = state.undoing()
    found = None if undoing is None else processes.seen(undoing.by.process)
    if undoing is not None and found is not None and found.started == undoing.by.started:
        log.warning("`qmesh apply --confirm` (process %d) hangs: it is killed", undoing.by.process)
        with contextlib.suppress(ProcessLookupError):
            os.kill(undoing.by.process, signal.SIGKILL)
    with state.lock_within(2 * PATIENCE_S) as locked:
        if not locked:
            log.warning("another qmesh command hangs: not waiting for it any longer")
        yield


def undone_here(state: State) -> Undoing | None:
    """What this machine was put back to and is left at, if it was."""
    undoing = state.undoing()
    return undoing if undoing is not None and undoing.undone else None
