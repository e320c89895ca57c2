"""The guard of this machine as nftables commands. Source: nft(8)."""

from __future__ import annotations

import msgspec

from qmesh.mesh.exports.text import render_header
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.guard.tables import HELD, TABLE
from qmesh.mesh.state import Guard
from qmesh.mesh.values import normalize_ip_address, validate_interface_name


class GuardFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the guard lets in, and the commands that load it, in one transaction."""

    machine: str
    revision: int
    table: str
    guard: Guard
    commands: str


def guard_file(guard: Guard, name: str, revision: int) -> GuardFile:
    """The guard of the machine `name`. Raises BadInput for a value that nftables would read as words."""
    validate_interface_name(guard.interface)
    normalize_ip_address(guard.control_address)
    return GuardFile(
        machine=name,
        revision=revision,
        table=f"inet {TABLE}",
        guard=guard,
        commands=render_load_script(guard),
    )


def render_guard_file(file: GuardFile) -> str:
    """The commands, below a comment about them."""
    top = render_header(
        "nft",
        file.machine,
        file.revision,
        "Load it with `nft -f`. A flush of the ruleset removes it again.",
        f"The second table, inet {HELD}, is not here: a running process has to hold it (`qmesh hold`).",
    )
    return top + file.commands
