"""Lab machines that systemd itself runs, where this kernel has control groups for it.

    with control_group() as group, Lab() as lab:
        machine = lab.machine("fra-1", "203.0.113.5")
        start_systemd(machine, group)
        machine.run(["systemctl", "is-system-running"])

It is up in a fraction of a second, and has what a container's has: units, sandboxes, the journal, control
groups. It boots no kernel and no network: that has the emulated machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab.machines import TOOLS, Machine
from tests.support.processes import read_of_each
from tests.support.skips import CANNOT
from tests.support.waiting import wait_until

_INIT = "/run/boot_systemd.sh"
_GO = "/run/boot_systemd.go"


@contextlib.contextmanager
def control_group() -> Iterator[Path]:
    """A control group for the machines of a lab; it goes when they have gone. Skips where it cannot be."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    found = next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)
    if found is None or not shutil.which("/lib/systemd/systemd"):
        pytest.skip(f"{CANNOT}it has no control groups (cgroup2), or no systemd to run in one")
    try:
        group = Path(tempfile.mkdtemp(prefix="lab-", dir=found))
    except OSError as error:
        pytest.skip(f"{CANNOT}its control groups are not ours to make: {error.strerror}")
    try:
        yield group
    finally:
        wait_until(lambda: _remove(group), 30)


def _remove(group: Path) -> bool:
    """Remove a control group and those within; whether it is gone. One with processes can't be removed."""
    for inner, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(inner).rmdir()
    return not group.exists()


def start_systemd(machine: Machine, group: Path) -> None:
    """Have systemd run a machine. What is run there afterwards has its view: its processes and files."""
    own = group / machine.name
    own.mkdir()
    machine.write(_INIT, (TOOLS / "boot_systemd.sh").read_text(encoding="utf-8"), 0o755)
    # Its control group is the root of a namespace, so it has to be in it before.
    words = f"until [ -e {_GO} ]; do sleep 0.02; done; exec unshare --pid --fork --mount --cgroup sh {_INIT}"
    outer = machine.start(["sh", "-c", words])
    (own / "cgroup.procs").write_text(str(outer.pid), encoding="ascii")
    machine.write(_GO, "")

    def find_systemd() -> int | None:
        assert outer.poll() is None, outer.output() + outer.error_output()
        text = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text(encoding="ascii")
        children = set(map(int, text.split()))
        return next(
            (number for number, name in read_of_each("comm") if number in children and name == "systemd\n"),
            None,
        )

    wait_until(lambda: find_systemd() is not None, 15)
    first = find_systemd()
    assert first is not None
    # A group with groups in it has no processes of its own.
    (group.parent / "cgroup.procs").write_text(str(outer.pid), encoding="ascii")
    machine.enter(first)
    wait_until(lambda: _is_up(machine), 30)


def _is_up(machine: Machine) -> bool:
    return machine.run(["systemctl", "is-active", "lab.target"], check=False).stdout == "active\n"
