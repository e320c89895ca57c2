"""The clock that cannot be set: seconds since the machine's start, and which start that was."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from qmesh.errors import KernelRefused
from qmesh.mesh.rollback import BootTimestamp

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def now(boot_id: Path = BOOT_ID) -> BootTimestamp:
    """This moment, in seconds since the machine's start, its sleep counted. Source: clock_gettime(2).

    boot_id: another text after each start. Source: random(4).
    """
    try:
        boot = boot_id.read_text("ascii").strip()
    except (OSError, ValueError):
        raise KernelRefused(f"{boot_id} cannot be read", hint="mount /proc") from None
    return BootTimestamp(boot, time.clock_gettime(time.CLOCK_BOOTTIME))
