"""pytest on a lab machine that systemd runs, for tests that change the machine they run on:

    python -m tests.support.lab.throwaway [--junitxml=FILE] PYTEST-ARGUMENTS...

It has this machine's kernel, and is up in a second, for which an emulated machine takes half a minute.
"""

# ruff: noqa: T201  # it prints what pytest said

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.lab.machines import Lab
from tests.support.lab.systemd import control_group, start_systemd
from tests.support.systemd import THROWAWAY

_REPORT = "/root/report.xml"
_OPTION = "--junitxml="
LONGEST_S = 600


def main() -> int:
    """Run the tests, and put their report where it is wanted; pytest's exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    reports = [word.removeprefix(_OPTION) for word in sys.argv[1:] if word.startswith(_OPTION)]
    rest = [word for word in sys.argv[1:] if not word.startswith(_OPTION)]
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"{_OPTION}{_REPORT}", *rest]
    environment = {name: value for name, value in os.environ.items() if name.startswith("QMESH_")}
    try:
        with control_group() as group, Lab() as lab:
            machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
            start_systemd(machine, group)
            machine.write(THROWAWAY, "")
            script = f"cd {shlex.quote(str(CHECKOUT))} && exec {shlex.join(words)}"
            done = machine.run(["sh", "-c", script], check=False, env=environment, timeout=LONGEST_S)
            for report in reports:
                Path(report).write_text(machine.read(_REPORT), encoding="utf-8")
    except pytest.skip.Exception as skipped:
        print(skipped)  # as each of the tests says, where they are run with all others
        return 0
    print(done.stdout, done.stderr, sep="", end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
