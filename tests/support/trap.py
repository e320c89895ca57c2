"""A directory of somebody who waits for root to start Python, or a program, in it."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Final

MODULES: Final = sorted(
    {*sys.stdlib_module_names, *importlib.metadata.packages_distributions(), "sitecustomize", "usercustomize"}
    - {"__future__", "encodings"}
)
"""Without the latter Python comes to no code at all."""
PROGRAMS: Final = (
    *(
        "gcc",
        "ip",
        "ip6tables-legacy-save",
        "ip6tables-nft-save",
        "iptables-legacy-save",
        "iptables-nft-save",
    ),
    *("ld", "ldconfig", "modprobe", "nft", "objdump", "python3", "resolvconf", "sh", "systemctl", "wg"),
    "wireguard-go",
)
RAN: Final = "ran"
CAUGHT: Final = f"""\
with open(__file__.rpartition("/")[0] + "/{RAN}", "a") as found:
    found.write(__name__ + "\\n")
"""


def set_up(directory: Path) -> None:
    """Fill it with a module for each that there is, qmesh among them, and with programs."""
    home = directory / f".local/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    home.mkdir(parents=True)
    for place in (directory, home):
        for name in MODULES:
            (place / f"{name}.py").write_text(CAUGHT)
        (place / "qmesh").mkdir()
        for name in ("__init__", "__main__"):
            (place / "qmesh" / f"{name}.py").write_text(CAUGHT)
    (home / "trap.pth").write_text("import sitecustomize\n")
    for name in PROGRAMS:
        (directory / name).write_text(f'#!/bin/sh\necho "$0" >> "${{0%/*}}/{RAN}"\n')
        (directory / name).chmod(0o755)


def environment(directory: str | Path, path: str) -> dict[str, str]:
    """What makes it worse: all that Python and a shell would follow into it. path: the system's own PATH."""
    return {
        "HOME": str(directory),
        "PATH": f":.:{path}",
        "PYTHONPATH": str(directory),
        "PYTHONUSERBASE": f"{directory}/.local",
    }


def caught(directory: Path) -> list[str]:
    """What of it has run, until now."""
    return [line for found in sorted(directory.rglob(RAN)) for line in found.read_text().splitlines()]
