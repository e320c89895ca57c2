"""What `systemd-analyze security` says of each of qmesh's units: as it is, and without what shuts it in."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import msgspec

from qmesh.host.state.directory import State
from qmesh.host.system import programs, systemd
from qmesh.mesh.systemd import sandbox
from qmesh.mesh.systemd.units import render_undo_unit, render_unit_files

SERVICES: Final = (
    "qmesh.service",
    "qmesh-hold.service",
    "qmesh-guard.service",
    "qmesh-undo.service",
    "qmesh-control.service",
    "qmesh-worker@1.service",
)
OF_NODE: Final = SERVICES[-2:]
_SHUTTING: Final = {
    line.partition("=")[0]
    for text in (
        sandbox.render_agent_settings(),
        sandbox.render_holder_settings("/s"),
        sandbox.render_node_settings("alice"),
    )
    for line in text.splitlines()
}


def write_units(directory: Path, *, user: str = sandbox.ROOT) -> None:
    """Every unit of a control node with workers, the template as the first worker.

    user: whose the node's directory is.
    """
    found = systemd.build_unit_paths(
        State(Path("/var/lib/qmesh")), config_directory="/root/node/.config", program="/bin/true"
    )
    where = msgspec.structs.replace(found, user=user)
    texts = {
        **render_unit_files(where, is_control=True, cores=range(1, 4)),
        "qmesh-undo.service": render_undo_unit(where),
    }
    systemd.write_units({name.replace("@.", "@1."): text for name, text in texts.items()}, directory)


def open_units(directory: Path, opened: Path) -> None:
    """The same units without any setting of qmesh's that shuts a process in."""
    for unit in directory.glob("*.service"):
        lines = unit.read_text().splitlines()
        kept = [line for line in lines if line.partition("=")[0] not in _SHUTTING]
        (opened / unit.name).write_text("\n".join(kept) + "\n")


def find_analyzer() -> tuple[str, str] | None:
    """The program, and the version of systemd that it is of; None where this machine has none."""
    program = programs.find_program("systemd-analyze")
    if program is None:
        return None
    told = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    return program, told.split()[1]


def read_score(program: str, unit: Path) -> str:
    """From 0 to 10, as text; less is better."""
    words = [program, "security", "--offline=yes", "--no-pager", str(unit)]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    (score,) = re.findall(rf"Overall exposure level for {re.escape(unit.name)}: ([0-9.]+) ", told)
    return str(score)
