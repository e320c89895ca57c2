"""The guard's second table as the kernel has it, whoever holds it (`qmesh.host.lean.owned_table`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from qmesh.host.firewall import guard_keeper, nftables
from qmesh.host.lean import nftables_messages
from qmesh.host.lean.owned_table import (
    CHECKSUM,
    COMMENT,
    OWNER,
    SCRIPT,
    TABLE_FLAGS,
    compute_checksum,
    parse_userdata,
)
from qmesh.mesh.guard.script_text import render_release_script
from qmesh.mesh.guard.scripts import render_held_header
from qmesh.mesh.guard.tables import HELD, HELD_IN_KERNEL

_HEADER_ONLY: Final = re.compile(r"\n\tset .*\}", re.DOTALL)


def is_held() -> bool:
    """Whether a process holds the table. Raises MachineRefused where it could not look."""
    table = nftables_messages.read_table_attributes("inet", HELD_IN_KERNEL)
    return table is not None and _is_owned(table)


def read_header() -> str | None:
    """The beginning of the table as nft would list it, with what it says of itself; None without one.

    Also of a table named `HELD`, an older qmesh's or a saved rule set's. Raises as `read_held_table` does.
    """
    table = nftables_messages.read_table_attributes("inet", HELD_IN_KERNEL)
    return nftables.read_table(HELD) if table is None else _render_header(table)


def read_held_table(directory: Path) -> str | None:
    """The table as nft would list it, had it a name to type; None without one.

    directory: the state directory. Only the beginning where the commands there did not make the table, an
    older qmesh holds it, or a saved rule set left one beside it. Rules that differ from the commands cannot
    be: none but the process that holds the table can change it.
    Raises MachineRefused: could not look is never nothing there.
    """
    table = nftables_messages.read_table_attributes("inet", HELD_IN_KERNEL)
    if table is None:
        plain = nftables.read_table(HELD)
        return None if plain is None else _HEADER_ONLY.sub("}", plain)
    script = guard_keeper.read_script(directory / SCRIPT)
    stray = nftables_messages.read_table_attributes("inet", HELD)
    is_left = stray is not None and not _is_owned(stray)  # one with an owner ends with it
    if is_left or script is None or parse_userdata(table).get(CHECKSUM) != compute_checksum(script):
        return _render_header(table)
    return script.removeprefix(render_release_script())


def _is_owned(table: dict[int, bytes]) -> bool:
    return bool(int.from_bytes(table.get(TABLE_FLAGS, b""), "big") & OWNER)


def _render_header(table: dict[int, bytes]) -> str:
    comment = parse_userdata(table).get(COMMENT, b"").rstrip(b"\0")
    return render_held_header(comment.decode("utf-8", "replace"))
