"""What tests on a machine with systemd ask it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.lab.cluster import CONFIG
from tests.support.skips import CANNOT
from tests.support.waiting import wait_until

QMESH = str(Path(".venv/bin/qmesh").absolute())
THROWAWAY = Path("/run/throwaway")
"""Says that the machine was made to be thrown away, where it has no kernel of its own that was told so."""
GUARD_TABLE = ("nft", "list", "table", "inet", "qmesh")


def skip_unless_throwaway() -> None:
    """Go on only on a machine that was started to be thrown away, with systemd as its init."""
    if not (THROWAWAY.exists() or "qmesh.throwaway" in Path("/proc/cmdline").read_text().split()):
        pytest.skip(f"{CANNOT}it is not to be thrown away; ./scripts/test-kernel has one")
    if Path("/proc/1/comm").read_text() != "systemd\n":
        pytest.skip(f"{CANNOT}systemd is not its init")


def run(*words: str, code: int = 0) -> str:
    """What a command says; it must end with that exit code."""
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == code, f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    # Asking is what keeps an emulated machine busy.
    wait_until(true, seconds, every_s=0.2)


def shown(unit: str, *names: str) -> tuple[str, ...]:
    """Properties of a unit, in the order asked for."""
    answer = run("systemctl", "show", unit, f"--property={','.join(names)}")
    values = dict(line.split("=", 1) for line in answer.splitlines())
    return tuple(values[name] for name in names)


def is_loaded() -> bool:
    return subprocess.run(GUARD_TABLE, check=False, capture_output=True).returncode == 0


def agent() -> int:
    """The agent's process, 0 when there is none."""
    return int(shown("qmesh.service", "MainPID")[0])


def said(script: str) -> str:
    """What a script prints, however it ends."""
    return subprocess.run(["sh", "-c", script], check=False, capture_output=True, text=True).stdout


def init() -> None:
    run(QMESH, "init", "--endpoint", "192.0.2.1", "--workers", "3", "--node", "1.4", "--config", CONFIG)
