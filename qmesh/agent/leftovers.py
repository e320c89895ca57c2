"""What an earlier qmesh left on this machine when its state went: said in one message, taken over when told.

Its ports stay closed throughout: the loaded guard becomes this state's own before anything of it ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from qmesh.errors import BadInput, QmeshError
from qmesh.host import files, wireguard
from qmesh.host.firewall import holder_client, nftables
from qmesh.host.log.events import report_event
from qmesh.host.network import ports as reserved
from qmesh.host.state.directory import State
from qmesh.host.state.documents import PortReservations
from qmesh.host.system import installed_files, leftover_processes
from qmesh.host.system.leftover_processes import Leftovers
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.guard.tables import TABLE
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.state import Guard

_NAMES = {"agent": "its agent", "hold": "the process that holds its guard", "undo": "a process that undoes"}


@contextlib.contextmanager
def make_state_directory(state: State) -> Iterator[None]:
    """Make the state directory where there is none; a block that fails then leaves none either.

    What stays: a machine that is a member or has asked to be one by then, and the key where the block left
    it, as the control node may know it. Raises MachineRefused.
    """
    was_there = files.read_mode(state.directory) is not None
    state.create_directory()
    try:
        yield
    except BaseException:
        if not was_there and not (state.has_settings() or state.sent_request.exists()):
            with contextlib.suppress(QmeshError):  # the first error is the one to be told
                installed_files.delete_state(state, with_config=False, keep_private_key=True)
        raise


def handle_leftovers(state: State, *, take_over: bool) -> None:
    """See that nothing is left over here of a qmesh whose state is gone; nothing, where this one knows all.

    take_over: end what runs of it, and have its guard be this state's own. Holds the lock.
    Raises BadInput where there is something and it is not to be taken over, and where a qmesh runs whose
    state is another directory; MachineRefused where something does not end.
    """
    if state.has_settings() or state.has_own_guard():
        return
    _refuse_other_state_directory(state)
    found = leftover_processes.find_leftovers()
    if found.guard is None:  # one that is loaded, and not understood, is refused with another word
        return
    if not take_over:
        raise BadInput(
            "this machine has leftovers of an earlier qmesh, whose state is gone:"
            f" {_describe_leftovers(found)}",
            hint="use --take-over: it ends them, and keeps the worker ports closed; or restore the state"
            " directory",
        )
    report_event(
        "leftovers-taken", "taking over the leftovers of an earlier qmesh: %s", _describe_leftovers(found)
    )
    _adopt_guard(state, found.guard)
    for each in found.processes:
        if each.kind != "hold":  # that one goes at the last moment, when another takes its place
            leftover_processes.terminate_process(each)
    holder_client.hold_guard(state, found.guard)
    if found.interface is not None:
        wireguard.find_backend(found.interface).delete(found.interface)


def _refuse_other_state_directory(state: State) -> None:
    """Raise BadInput where a qmesh runs here whose state is another directory."""
    for each in leftover_processes.list_processes():
        if each.is_there and each.state != state.directory:
            raise BadInput(
                f"qmesh already runs on this machine with another state directory, {each.state}"
                f" (process {each.number})",
                hint=f"a machine can be in one mesh only: pass `--state {each.state}`,"
                f" or run `qmesh --state {each.state} uninstall` first",
            )


def _describe_leftovers(found: Leftovers) -> str:
    parts = [f"{_NAMES[each.kind]} (process {each.number})" for each in found.processes]
    if found.guard is not None:
        parts.append(f"its guard, which closes ports {format_port_ranges(found.guard.ports) or 'none'}")
    if found.interface is not None and found.guard is not None:
        parts.append(f"its tunnel {found.interface} (UDP port {found.guard.listen_port})")
    return ", ".join(parts)


def _adopt_guard(state: State, guard: Guard) -> None:
    """Have the guard be this state's own: closed at boot, and its ports known to whoever comes next."""
    files.write(state.guard_file, render_load_script(guard).encode())
    if nftables.read_table(TABLE) is None:  # the other one goes with its process
        nftables.run(render_load_script(guard))
    there = reserved.read_reserved_ports().intersection(guard.ports)
    state.save_port_reservations(PortReservations(ours=tuple(sorted(there))))
