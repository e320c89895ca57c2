"""Nftables commands that load, change and remove the guard's tables."""

from __future__ import annotations

import re
from typing import Final

from qmesh.mesh.guard.render import (
    MOST_IN_BITMAP,
    list_port_sets,
    render_held_table,
    render_port_set,
    render_table,
)
from qmesh.mesh.guard.script_text import render_release_script, render_unload_script
from qmesh.mesh.guard.tables import HELD, TABLE
from qmesh.mesh.state import AlteredGuard, Guard

_ELEMENTS: Final = re.compile(r"\n\t\telements = [^}]*\}")


def render_load_script(guard: Guard) -> str:
    """Nftables commands that put the guard in place of whatever has its name, in one transaction."""
    return f"{render_unload_script()}{render_table(guard)}"


def render_held_script(guard: Guard) -> str:
    """Nftables commands by which a process puts the held table in place of the one it has."""
    return f"{render_release_script()}{render_held_table(guard)}"


def render_held_header(comment: str) -> str:
    """The beginning of the second table's listing, where no more of it is known."""
    return f'table inet {HELD} {{\n\tflags owner\n\tcomment "{comment}"\n}}\n'


def render_change_script(old: Guard | AlteredGuard | None, new: Guard) -> str:
    """Nftables commands that take the table from `old` to `new`, in one transaction.

    Where ports are only added to sets, they name just those; else the table is replaced.
    """
    if not isinstance(old, Guard) or _without_elements(old) != _without_elements(new):
        return render_load_script(new)
    before, after = list_port_sets(old), list_port_sets(new)
    if any(
        len(ports) > MOST_IN_BITMAP or set(before[name]).difference(ports) for name, ports in after.items()
    ):
        return render_load_script(new)
    added = {name: tuple(sorted(set(ports).difference(before[name]))) for name, ports in after.items()}
    # Within the table: for `add element` libnftables 1.0.6 reads every set of every table first.
    sets = "\n".join(render_port_set(name, ports) for name, ports in added.items() if ports)
    return f"table inet {TABLE} {{\n{sets}}}\n" if sets else ""


def _without_elements(guard: Guard) -> str:
    return _ELEMENTS.sub("", render_table(guard))
