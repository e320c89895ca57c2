"""Lab machines with a service manager, so that units and `systemctl` are what they are on a server."""

from __future__ import annotations

import shutil
import sys

import pytest

from tests.support.lab.machines import TOOLS, Machine, Running
from tests.support.skips import CANNOT

_PROGRAM = "/run/services/program"


def start_services(machine: Machine) -> Running:
    """Give a machine the stand-in for systemd; from here on qmesh sees that systemd runs there."""
    text = (TOOLS / "service_manager.py").read_text(encoding="utf-8")
    machine.write(_PROGRAM, f"#!{sys.executable} -IS\n{text}", 0o755)
    machine.run(["mkdir", "-p", "/run/systemd/system"])
    for name in ("systemctl", "journalctl"):
        there = shutil.which(name)
        if there is None:
            pytest.skip(f"{CANNOT}it has no {name} in whose place the lab's own could be")
        machine.run(["mount", "--bind", _PROGRAM, there])
    manager = machine.start([_PROGRAM])
    manager.wait_for("ready", timeout=15)
    return manager
