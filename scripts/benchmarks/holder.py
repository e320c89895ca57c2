"""How the process that holds the guard starts, beside an interpreter that has loaded nothing.

Its start is over when the guard is held; the interpreter's is taken from its start to its end.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.measuring import Figure, seconds

from qmesh.host.state.directory import State
from qmesh.host.system import background
from qmesh.mesh.guard.scripts import render_held_script, render_load_script
from tests.support import factories

BARE: Final = [sys.executable, "-I", "-S", "-c", "pass"]
START_S: Final = 60.0


def figures(runs: int) -> list[Figure]:
    """By the clock and in processor time, in turn with an interpreter that does nothing."""
    guard = factories.guard(*range(40000, 40016), kind="tun", service_port=51820)
    with tempfile.TemporaryDirectory() as directory:
        state = State(Path(directory, "state"))
        state.create_directory()
        state.guard_file.write_text(render_load_script(guard))
        state.held_file.write_text(render_held_script(guard))
        pairs = [(*start_holder(state), *start_bare()) for _ in range(runs)]
    ours, our_work, theirs, their_work = (statistics.median(each) for each in zip(*pairs, strict=True))
    size = f"{runs} times"
    return [
        Figure("holder's start, until the guard is held", size, 1e3 * ours, 1e3 * theirs, "ms", "", None),
        Figure("the same, processor time", size, 1e3 * our_work, 1e3 * their_work, "ms", "", None),
    ]


def start_holder(state: State) -> tuple[float, float]:
    """Seconds by the clock, and of a processor."""
    began = time.perf_counter()
    number = background.start_background_process(state, "hold", wait_s=START_S)
    took = time.perf_counter() - began
    assert number is not None
    used = used_s(Path(f"/proc/{number}"))
    os.kill(number, 9)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(number, 0)
    return took, used


def start_bare() -> tuple[float, float]:
    """The same of an interpreter that does nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = seconds(lambda: subprocess.run(BARE, check=True))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def used_s(process: Path) -> float:
    """Seconds of processor time."""
    return int((process / "schedstat").read_text().split()[0]) / 1e9
