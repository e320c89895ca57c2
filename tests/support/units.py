"""Units of systemd as tests have them made, and read."""

from __future__ import annotations

import re
from typing import Any

from qmesh.mesh.systemd.units import (
    Paths,
)


def paths(**named: Any) -> Paths:
    values: dict[str, Any] = {
        "python": "/opt/qmesh/bin/python",
        "holder": "/opt/qmesh/lib/python3.11/site-packages/qmesh/host/lean/hold.py",
        "state": "/var/lib/qmesh",
        "guard_file": "/var/lib/qmesh/guard.nft",
        "held_file": "/var/lib/qmesh/held.nft",
        "nft": "/usr/sbin/nft",
        "program": "/usr/local/bin/node",
        "config_directory": "/root/ceremonyclient/node/.config",
        "user": "root",
    }
    return Paths(**{**values, **named})


def words(command: str) -> list[str]:
    """A command line as systemd reads it: quotes, backslashes, specifiers; variables behind the program."""
    found = [
        re.sub(r"\\(.)", r"\1", match[1] if match[1] is not None else match[2])
        for match in re.finditer(r'"((?:[^"\\]|\\.)*)"(?= |$)|([^ "\'\\;]+)(?= |$)', command)
    ]
    assert "%" not in "".join(found).replace("%%", "").replace("%i", "")
    program, *arguments = [word.replace("%%", "%") for word in found]
    assert "$" not in "".join(arguments).replace("$$", "")
    return [program, *(word.replace("$$", "$") for word in arguments)]
