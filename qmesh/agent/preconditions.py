"""What each command asks for before it changes anything, and the one place where that is seen to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from qmesh.agent.local import Local, load_local
from qmesh.agent.rollback import roll_back_if_due
from qmesh.errors import JOIN_ANEW, RESTORE, BadInput, NeedsRoot, RemovedFromMesh, StateUnreadable
from qmesh.host import files
from qmesh.host.firewall import nftables
from qmesh.host.network import links, ports
from qmesh.host.registry_access import open_registry
from qmesh.host.state.directory import State
from qmesh.host.system import boot_clock
from qmesh.mesh.guard.tables import TABLE


def _require_control(here: Local, command: str) -> None:
    """Raise BadInput unless this machine is the control node."""
    if not here.settings.control:
        raise BadInput(
            f"{here.settings.name} is not the control node",
            hint=f"run `qmesh {command}` on {here.inventory.control}",
        )


def _refuse_removed(here: Local, _: str) -> None:
    """Raise RemovedFromMesh where the mesh has this machine no more."""
    if here.settings.removed:
        raise RemovedFromMesh


def _refuse_while_unconfirmed(state: State) -> None:
    """Put back what is due; raise BadInput while a change waits to be confirmed."""
    roll_back_if_due(state)
    undoing, now = state.rollback_record.read(), boot_clock.now()
    if undoing is not None and undoing.can_confirm(now):
        raise BadInput(
            f"a change waits to be confirmed, and is rolled back in {undoing.remaining_s(now):.0f} s",
            hint="run `qmesh confirm` to keep it, or `qmesh undo --now` to roll it back",
        )


def _refuse_during_restore(state: State) -> None:
    """Raise StateUnreadable where a restore was cut off: the keys there may be another machine's."""
    restoring = state.restore_progress.read()
    if restoring is not None and not restoring.done and state.find_settings() is None:
        raise StateUnreadable(
            "a `qmesh restore` was interrupted on this machine",
            hint="run it again, or discard it with `qmesh uninstall --delete-state`",
        )


def _refuse_during_offline_join(state: State) -> None:
    """Raise BadInput where a request by a file waits for its answer: what that needs would be lost."""
    if state.sent_request.exists():
        raise BadInput(
            "this machine waits for the answer to its request to join a mesh",
            hint="run `qmesh join --answer FILE`, or discard the request with"
            " `qmesh uninstall --delete-state`",
        )


def _refuse_lost_settings(state: State) -> None:
    """Raise StateUnreadable where a mesh is held whose settings were lost: it is not to be overwritten.

    What an init left behind that was cut off is no mesh yet: nobody was invited to it.
    """
    if files.read_mode(state.membership_file) is None:
        if files.read_mode(state.registry_file) is None:
            return
        with open_registry(state.registry_file) as registry:
            if len(registry.events()) == 1:
                return
    raise StateUnreadable(
        f"{state.directory} has a mesh, but its machine.json is missing",
        hint=f"on a member: {JOIN_ANEW}; on a control node: {RESTORE};"
        " to discard it, run only `qmesh uninstall --delete-state`",
    )


def _refuse_leftover_state(state: State) -> None:
    """Raise StateUnreadable where there is state that no restore which was cut off has written."""
    restoring = state.restore_progress.read()
    if restoring is not None and not restoring.done and not _has_later_events(state):
        return
    keys = (state.keys.private_file, state.keys.signing_file)
    if state.has_leftover_state() or any(files.read_mode(path) is not None for path in keys):
        raise StateUnreadable(
            f"{state.directory} already has keys or a mesh, but no settings",
            hint="a restore never replaces them: if they can go, run `qmesh uninstall --delete-state` first",
        )


def _has_later_events(state: State) -> bool:
    """Whether a mesh whose restore was cut off was used all the same, and lost its settings later."""
    if files.read_mode(state.registry_file) is None:
        return False
    with open_registry(state.registry_file) as registry:
        events = registry.events()
    return not events or events[-1].what != "restored"


def _refuse_foreign_guard(state: State) -> None:
    """Raise BadInput where a guard is loaded that this state knows nothing of: another one's, or a rest."""
    if nftables.read_table(TABLE) is not None and not state.has_own_guard():
        raise BadInput(
            f"table inet {TABLE} exists but was not loaded from {state.directory}",
            hint="pass the other state directory with --state; if there is none, remove the table (its ports"
            " are open then): `pkill qmesh-hold; nft delete table inet qmesh`",
        )


def refuse_occupied(
    state: State,
    interface: str,
    listen_port: int,
    *,
    rename: str = "choose another --interface",
    move: str = "or choose another --listen-port",
) -> None:
    """Raise BadInput where something on this machine has that interface, UDP port, or the guard's table.

    rename, move: what else to do about the interface and the port, for the hint.
    """
    if links.read(interface) is not None:
        raise BadInput(
            f"an interface {interface} exists already, and qmesh did not make it",
            hint=f"{rename}; if it is a leftover of an earlier qmesh, run `ip link delete {interface}`",
        )
    if ports.is_udp_port_used(listen_port):
        raise BadInput(
            f"UDP port {listen_port} is in use on this machine",
            hint=f"see which program has it with `ss -lunp sport = :{listen_port}`; {move}",
        )
    _refuse_foreign_guard(state)


def find_differences(*said_and_is: tuple[str, object, object]) -> str:
    """The options that were said and are not so, in words; empty where there are none.

    said_and_is: each option's name, what was said, None for nothing, and what is so.
    """
    return " and ".join(option for option, said, now in said_and_is if said is not None and said != now)


class Preconditions(msgspec.Struct, frozen=True, kw_only=True):
    """What a command asks for, in the order in which it is refused.

    root: that root runs it, before it reads anything.
    state: of every machine, with the lock held, before it is read what the machine remembers.
    newcomer, member: after that, of a machine that is in no mesh, or in one.
    local: last, of what a member remembers.
    """

    root: bool = True
    state: tuple[Callable[[State], object], ...] = ()
    newcomer: tuple[Callable[[State], None], ...] = ()
    member: tuple[Callable[[State], None], ...] = ()
    local: tuple[Callable[[Local, str], None], ...] = ()


_NONE: Final = Preconditions()
_CONTROL: Final = Preconditions(local=(_require_control,))
_CHANGE: Final = Preconditions(state=(_refuse_while_unconfirmed,), local=(_require_control,))
_JOIN: Final = Preconditions(state=(_refuse_while_unconfirmed, _refuse_during_restore))

PRECONDITIONS: Final[dict[str, Preconditions]] = {
    "init": Preconditions(
        state=(_refuse_during_restore,),
        newcomer=(_refuse_during_offline_join, _refuse_lost_settings),
        member=(_refuse_while_unconfirmed,),
    ),
    "invite": _CONTROL,
    "invite --list": _CONTROL,
    "invite --withdraw": _CONTROL,
    "join": _JOIN,
    "join --answer": Preconditions(state=(_refuse_while_unconfirmed,)),
    "admit": _CHANGE,
    "set": _CHANGE,
    "set --metrics": Preconditions(state=(_refuse_while_unconfirmed,), local=(_refuse_removed,)),
    "set --readers": Preconditions(state=(_refuse_while_unconfirmed,), local=(_refuse_removed,)),
    "set --notify": Preconditions(local=(_refuse_removed,)),
    # What a machine shows can be ended also once the mesh has removed it.
    "set --metrics none": Preconditions(state=(_refuse_while_unconfirmed,)),
    "set --prove": Preconditions(state=(_refuse_while_unconfirmed,)),
    "set --readers none": Preconditions(state=(_refuse_while_unconfirmed,)),
    "set --notify none": _NONE,
    "pause": _CHANGE,
    "resume": _CHANGE,
    "remove": _CHANGE,
    "rotate-key": Preconditions(state=(_refuse_while_unconfirmed,), local=(_refuse_removed,)),
    "handover": Preconditions(state=(_refuse_while_unconfirmed,), local=(_refuse_removed, _require_control)),
    "handover --cancel": _CONTROL,
    "import": Preconditions(root=False),
    "prove": Preconditions(local=(_refuse_removed,)),
    "plan": Preconditions(local=(_refuse_removed,)),
    "apply": Preconditions(state=(_refuse_while_unconfirmed,), local=(_refuse_removed,)),
    "apply --confirm": Preconditions(state=(roll_back_if_due,), local=(_refuse_removed,)),
    "confirm": Preconditions(state=(roll_back_if_due,)),
    "undo": _NONE,
    "down": Preconditions(state=(_refuse_while_unconfirmed,)),
    "agent": _NONE,
    "render-config": _NONE,
    "render-config --for": _CONTROL,
    "node-files": Preconditions(state=(_refuse_while_unconfirmed,), local=(_refuse_removed,)),
    "check": _NONE,
    "check --all": _CONTROL,
    "drill": Preconditions(local=(_refuse_removed,)),
    "status": _NONE,
    "metrics": _NONE,
    "page": Preconditions(root=False),
    "log": _CONTROL,
    "backup": _CONTROL,
    "restore": Preconditions(
        state=(_refuse_while_unconfirmed,), newcomer=(_refuse_during_offline_join, _refuse_leftover_state)
    ),
    "units": _NONE,
    "ready": Preconditions(root=False),
    "export wg-quick": _NONE,
    "export nft": _NONE,
    "export hosts": _NONE,
    "export ansible": _CONTROL,
    "restart": _NONE,
    "uninstall": Preconditions(state=(_refuse_foreign_guard,)),
}
"""By command, and by option where that makes a difference."""


def check_user(command: str, *, option: str = "") -> None:
    """Raise NeedsRoot unless this process may do that command.

    option: what is root's alone, where readers may use the command without it.
    """
    if PRECONDITIONS[command].root and os.geteuid() != 0:
        raise NeedsRoot(
            f"`{' '.join(filter(None, ('qmesh', command, option)))}` needs root; nothing was changed",
            hint="run the same command again, with `sudo` before it",
        )


@contextlib.contextmanager
def lock_checked(state: State, command: str, wait_s: float | None = None) -> Iterator[None]:
    """Hold the lock, once nothing is in that command's way but what a member remembers.

    wait_s: as of `State.lock`. Raises what its preconditions raise.
    """
    with state.lock(wait_s):
        check_state(state, command)
        yield


def check_state(state: State, command: str) -> None:
    """Raise what is in that command's way, whatever a member remembers."""
    wanted = PRECONDITIONS[command]
    for check in wanted.state:
        check(state)
    if wanted.newcomer or wanted.member:
        for refuse in wanted.newcomer if state.find_settings() is None else wanted.member:
            refuse(state)


@contextlib.contextmanager
def lock_member(state: State, command: str) -> Iterator[Local]:
    """The same, with what this machine remembers. Raises BadInput also where it is in no mesh."""
    with lock_checked(state, command):
        yield load_checked(state, command)


def load_checked(state: State, command: str) -> Local:
    """What this machine remembers, for a command that takes no lock. Raises BadInput, RemovedFromMesh."""
    here = load_local(state)
    check_local(here, command)
    return here


def check_local(here: Local, command: str) -> None:
    """Raise BadInput or RemovedFromMesh where what this machine remembers is in that command's way."""
    for check in PRECONDITIONS[command].local:
        check(here, command)
