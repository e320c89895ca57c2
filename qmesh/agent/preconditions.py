"""What must be so before a command changes anything, and what is in its way."""

from __future__ import annotations

import os

from qmesh.agent.local import Local
from qmesh.errors import BadInput, NeedsRoot, RemovedFromMesh, StateUnreadable
from qmesh.host import files
from qmesh.host.firewall import nftables
from qmesh.host.network import links, ports
from qmesh.host.state.directory import State
from qmesh.mesh.guard import TABLE


def refuse_existing_interface(interface: str, *, instead: str) -> None:
    """Raise BadInput where there is an interface of that name. instead: what else to do, for the hint."""
    if links.read(interface) is not None:
        raise BadInput(
            f"an interface {interface} exists already, and qmesh did not make it",
            hint=f"{instead}; if it is a leftover of an earlier qmesh, run `ip link delete {interface}`",
        )


def refuse_used_listen_port(listen_port: int, *, instead: str) -> None:
    """Raise BadInput where another program has that UDP port. instead: as above."""
    if ports.is_udp_port_used(listen_port):
        raise BadInput(
            f"UDP port {listen_port} is in use on this machine",
            hint=f"see which program has it with `ss -lunp sport = :{listen_port}`; {instead}",
        )


def require_root(what: str) -> None:
    """Raise NeedsRoot unless this process may change the machine."""
    if os.geteuid() != 0:
        raise NeedsRoot(f"`{what}` needs root; nothing was changed", hint=f"run `sudo {what}`")


def require_control(here: Local, what: str) -> None:
    """Raise BadInput unless this machine is the control node."""
    if not here.settings.control:
        raise BadInput(
            f"{here.settings.name} is not the control node",
            hint=f"run `{what}` on {here.inventory.control}",
        )


def refuse_removed(here: Local) -> None:
    """Raise Removed where this machine is no longer in the mesh."""
    if here.settings.removed:
        raise RemovedFromMesh


def refuse_foreign_guard(state: State) -> None:
    """Raise BadInput where a guard is loaded that this state knows nothing of: another one's, or a rest."""
    own = (state.guard_file, state.held_file)  # of one that is being taken away the second is left
    if nftables.read_table(TABLE) is not None and all(files.read_mode(path) is None for path in own):
        raise BadInput(
            f"table inet {TABLE} exists but was not loaded from {state.directory}",
            hint="pass the other state directory with --state; if there is none, remove the table (its ports"
            " are open then): `pkill qmesh-hold; nft delete table inet qmesh`",
        )


def refuse_during_restore(state: State) -> None:
    """Raise StateUnreadable where a restore was cut off: the keys there may be another machine's."""
    restoring = state.restore_progress()
    if restoring is not None and not restoring.done and state.find_settings() is None:
        raise StateUnreadable(
            "a `qmesh restore` was interrupted on this machine",
            hint="run it again, or discard it with `qmesh uninstall --delete-state`",
        )


def refuse_during_offline_join(state: State) -> None:
    """Raise BadInput where a request by a file waits for its answer: what that needs would be lost."""
    if files.read_mode(state.asked_file) is not None:
        raise BadInput(
            "this machine waits for the answer to its request to join a mesh",
            hint="run `qmesh join --answer FILE`, or discard the request with"
            " `qmesh uninstall --delete-state`",
        )
