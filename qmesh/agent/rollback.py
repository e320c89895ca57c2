"""Changes that are undone unless they are confirmed: `apply --confirm`, `confirm`, `undo`.

What to return to is on the disk before the first step is taken. A process of its own waits for the
deadline (`run_rollback`); where it is killed, the agent does its work, or whatever command comes next.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Final

import msgspec

from qmesh.agent.converge import apply_steps, converge
from qmesh.agent.facts import gather_peer_facts
from qmesh.agent.local import Local, linux_for, load_local, with_tunnel_and_guard
from qmesh.errors import BadInput, KernelRefused, MachineRefused, QmeshError
from qmesh.host.firewall import guard_snapshot
from qmesh.host.lean import service_notice
from qmesh.host.linux import Linux
from qmesh.host.log.events import report_event
from qmesh.host.network import ports
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.host.system import background, boot_clock, process_end, processes
from qmesh.mesh.desired import Facts
from qmesh.mesh.plan.compare import plan_steps
from qmesh.mesh.plan.steps import Step
from qmesh.mesh.rollback import ChangeProcess, MachineSnapshot, RollbackRecord, build_rollback_state
from qmesh.mesh.state import NodeState, Tunnel

POLL_S: Final = 0.5
"""Seconds between two looks at what is to be undone: it ends soon after a `confirm`."""
PATIENCE_S: Final = 5.0
"""Seconds that an undoing waits for the lock before it kills the change that has it."""
RETRY_S: Final = 5.0


def arm_rollback(state: State, here: Local, linux: Linux, *, seconds: int) -> RollbackRecord:
    """Remember what this machine is, and have it put back so unless confirmed. Holds the lock.

    A change that waits already keeps the state to return to. Raises BadInput where that could not be
    put back; MachineRefused with nothing armed.
    """
    now, earlier = boot_clock.now(), state.rollback_record.read()
    before = (
        earlier.before
        if earlier is not None and earlier.can_confirm(now)
        else _snapshot_machine(state, here, linux)
    )
    undoing = RollbackRecord(
        before=before, boot=now.boot, deadline_s=now.at_s + seconds, by=_build_change_process(), undone=False
    )
    state.rollback_record.write(undoing)
    try:
        background.start_undo(state)
    except MachineRefused:
        state.rollback_record.write(earlier)
        raise
    return undoing


def rearm_rollback(state: State, *, seconds: int) -> None:
    """Let the time to confirm begin now that the steps are taken. Holds the lock."""
    undoing, now = state.rollback_record.read(), boot_clock.now()
    if undoing is not None and not undoing.undone and undoing.boot == now.boot:
        state.rollback_record.write(msgspec.structs.replace(undoing, deadline_s=now.at_s + seconds))


def _build_change_process() -> ChangeProcess:
    found = processes.read_stat(os.getpid())
    return ChangeProcess(os.getpid(), 0 if found is None else found.started)


def _snapshot_machine(state: State, here: Local, linux: Linux) -> MachineSnapshot:
    observed = linux.observe()
    if observed.tunnel is not None and not linux.has_key(observed.tunnel.public_key):
        raise BadInput(
            f"{observed.tunnel.interface} has a key that is in no file here, so it could not be rolled back",
            hint="run `qmesh apply` without --confirm: it sets the right key",
        )
    return MachineSnapshot(
        guard=guard_snapshot.snapshot_guard(state, observed),
        tunnel=observed.tunnel,
        reserved_ports=observed.reserved_ports,
        up=here.settings.up,
        guarded=here.settings.guarded,
    )


def roll_back_if_due(state: State) -> bool:
    """Put this machine back where nobody confirmed in time; whether that was so. Holds the lock."""
    undoing = state.rollback_record.read()
    if undoing is None or not undoing.is_due(boot_clock.now()):
        return False
    roll_back(state, undoing, at_boot=undoing.boot != boot_clock.now().boot)
    return True


def roll_back(state: State, undoing: RollbackRecord, *, at_boot: bool) -> None:
    """Put this machine back, the guard first, and remember that it was. Safe to be cut off and repeated.

    at_boot: the machine has been started anew: what runs begins after this by itself. The tunnel is
        then the agent's to make, which keeps the machine as it was put back.
    """
    before = undoing.before
    if before.guard.script is not None:
        guard_snapshot.roll_back_guard(state, before.guard, at_boot=at_boot)
    settings = state.find_settings()
    if settings is not None:
        settings = msgspec.structs.replace(settings, up=before.up, guarded=before.guarded)
        state.save_settings(settings)
    try:
        ports.reserve_ports(state, before.reserved_ports)
    except KernelRefused as error:  # which is no reason to leave the rest as the change made it
        report_event("ports-not-reserved", "%s (hint: %s)", error.message, error.hint)
    if settings is not None and not at_boot:
        linux = linux_for(state, settings)
        observed = linux.observe()
        tunnel = _with_current_peers(state, settings, before.tunnel, observed)
        exactly = msgspec.structs.replace(observed, tunnel=tunnel)
        apply_steps(linux, plan_steps(exactly, observed))
    if before.guard.script is None:
        guard_snapshot.roll_back_guard(state, before.guard, at_boot=at_boot)
    state.rollback_record.write(msgspec.structs.replace(undoing, undone=True))
    report_event(
        "rolled-back",
        "this machine was rolled back to its state before `qmesh apply --confirm`: no `qmesh confirm` came;"
        " it stays so until you run `qmesh apply`",
    )
    if before.guard.script is None:
        report_event(
            "guard-open",
            "it had no guard then: its worker ports and all others that the guard closes are OPEN to any"
            " machine that reaches it",
        )


def _with_current_peers(
    state: State, settings: Settings, tunnel: Tunnel | None, observed: NodeState
) -> Tunnel | None:
    """A control node's tunnel as it was, but with the peers that it has by now: none comes back by this."""
    if tunnel is None or not settings.control:
        return tunnel
    try:
        here = with_tunnel_and_guard(load_local(state))
        facts = gather_peer_facts(here, Facts(kind=tunnel.kind, observed=observed))
        wanted = here.build_desired_state(facts).tunnel
    except QmeshError as error:
        report_event("peers-kept", "%s (hint: %s): the peers stay as they are", error.message, error.hint)
        wanted = observed.tunnel
    return msgspec.structs.replace(tunnel, peers=wanted.peers if wanted is not None else ())


def follow_mesh(state: State) -> None:
    """Have this machine be as its mesh is now; of one that was put back, only the peers. Holds the lock."""
    undoing = find_active_rollback(state)
    if undoing is not None:
        report_event(
            "rollback-kept",
            "this machine was rolled back: until `qmesh apply`, only its peers follow the mesh",
        )
        maintain_rollback(state, undoing)
        return
    here = load_local(state)
    if here.settings.up:
        converge(here, linux_for(state, here.settings), follow_roaming=True)


def maintain_rollback(state: State, undoing: RollbackRecord) -> tuple[Step, ...]:
    """See that this machine is as it was put back: what others take from it, not more. Holds the lock."""
    if guard_snapshot.is_table_missing(undoing.before.guard):
        report_event("guard-restored", "the guard was removed: loading it again")
        guard_snapshot.roll_back_guard(state, undoing.before.guard, at_boot=False)
    linux = linux_for(state, state.settings())
    observed = linux.observe()
    tunnel = _with_current_peers(state, state.settings(), undoing.before.tunnel, observed)
    before = msgspec.structs.replace(undoing.before, tunnel=tunnel)
    return apply_steps(linux, plan_steps(build_rollback_state(before, observed), observed))


def run_rollback(state: State) -> None:
    """Be the process that puts this machine back at its time; ends when nothing waits any more.

    Raises MachineRefused when there is one already.
    """
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with _hold_rollback_lock(state):
        undoing = state.rollback_record.read()
        if undoing is not None and undoing.boot == boot_clock.now().boot:
            service_notice.notify("READY=1")
        while undoing is not None and not undoing.undone:
            if undoing.is_due(boot_clock.now()):
                _roll_back_or_retry(state)
            else:
                time.sleep(min(POLL_S, undoing.remaining_s(boot_clock.now())))
            undoing = state.rollback_record.read()
        service_notice.notify("READY=1")


@contextlib.contextmanager
def _hold_rollback_lock(state: State) -> Iterator[None]:
    end = time.monotonic() + 4 * POLL_S  # one that has nothing to do any more is about to end
    while True:
        with processes.acquire_process_lock(state.undo_lock_file) as alone:
            if alone:
                yield
                return
        if time.monotonic() > end:
            raise MachineRefused(
                "a process that rolls back at its time is running already",
                hint="wait for it, or run `qmesh undo --now` to roll back now",
            )


def _roll_back_or_retry(state: State) -> None:
    """Put back; what goes wrong is said, and tried again."""
    try:
        with _lock_killing_hung_change(state):
            roll_back_if_due(state)
    except (QmeshError, OSError) as error:
        report_event("rollback-failed", "the rollback of this machine failed, and is tried again: %s", error)
        time.sleep(RETRY_S)


def _is_hung_change(undoing: RollbackRecord, number: int) -> bool:
    """Whether a process is the one that makes the change; that is said."""
    found = processes.read_stat(number)
    if found is None or found.started != undoing.by.started:
        return False
    report_event("command-killed", "`qmesh apply --confirm` (process %d) hangs, and is killed", number)
    return True


@contextlib.contextmanager
def _lock_killing_hung_change(state: State) -> Iterator[None]:
    """The lock; who hangs with it is killed where it is the change, and else not waited for for ever."""
    with state.try_lock(PATIENCE_S) as locked:
        if locked:
            yield
            return
    undoing = state.rollback_record.read()
    if undoing is not None:
        processes.send_signal(undoing.by.process, signal.SIGKILL, is_meant=partial(_is_hung_change, undoing))
        # What it was starting is killed before it counts as ended, but after it has lost the lock.
        process_end.wait_for_exit(undoing.by.process, PATIENCE_S)
    with state.try_lock(2 * PATIENCE_S) as locked:
        if not locked:
            report_event("command-hangs", "another qmesh command hangs: the rollback no longer waits for it")
        yield


def find_active_rollback(state: State) -> RollbackRecord | None:
    """What this machine was put back to and is left at, if it was."""
    undoing = state.rollback_record.read()
    return undoing if undoing is not None and undoing.undone else None
