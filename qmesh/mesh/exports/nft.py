"""The guard of this machine as nftables commands. Source: nft(8)."""

from __future__ import annotations

import msgspec

from qmesh.mesh.exports.text import head
from qmesh.mesh.guard import HELD, TABLE, load_script
from qmesh.mesh.model import Guard, interface_name, ip_address


class GuardFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the guard lets in, and the commands that load it, in one transaction."""

    machine: str
    revision: int
    table: str
    guard: Guard
    commands: str


def guard_file(guard: Guard, name: str, revision: int) -> GuardFile:
    """The guard of the machine `name`. Raises BadInput for a value that nftables would read as words."""
    interface_name(guard.interface)
    ip_address(guard.control_address)
    return GuardFile(
        machine=name, revision=revision, table=f"inet {TABLE}", guard=guard, commands=load_script(guard)
    )


def render(file: GuardFile) -> str:
    """The commands, below what has to be known about them."""
    top = head(
        "nft",
        file.machine,
        file.revision,
        "Load with `nft -f`; a flush of the ruleset takes it away again.",
        f"The second table, inet {HELD}, is not here: only a process that stays can hold it (`qmesh hold`).",
    )
    return top + file.commands
