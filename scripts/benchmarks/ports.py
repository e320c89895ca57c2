"""The guard by its worker ports, in one run and scattered, beside a set with an element for each of them.

Scattered are every other port, and of 50,000, for which there is no room, four of five. The time is the
processor's, for qmesh, libnftables and the kernel.
"""

from __future__ import annotations

import time

from benchmarks.guard import guard_with
from benchmarks.measuring import Figure, Work, paired

from qmesh.host.firewall import nftables
from qmesh.mesh.guard.render import render_port_set
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.guard.tables import TABLE

FIRST, LAST = 1025, 65535
OTHER = "each"
"""The table beside it."""


def figures(ports: int, runs: int) -> list[Figure]:
    """Rows for so many ports."""
    room = range(FIRST, LAST + 1)
    scattered = [port for port in room if port % (2 if 2 * ports <= len(room) else 5)]
    return [
        *compared(tuple(room[:ports]), f"{ports:,} ports in a run", runs),
        *compared(tuple(scattered[:ports]), f"{ports:,} ports, scattered", runs),
    ]


def compared(ports: tuple[int, ...], size: str, runs: int) -> list[Figure]:
    """The guard, rendered and loaded, and read back."""
    guard = guard_with(ports)
    loaded = paired(
        runs,
        lambda _: busy_seconds(lambda: nftables.run(render_load_script(guard))),
        lambda _: busy_seconds(lambda: nftables.run(elements_of(ports))),
    )
    read = paired(
        runs,
        lambda _: busy_seconds(lambda: nftables.read_table(TABLE)),
        lambda _: busy_seconds(lambda: nftables.read_table(OTHER)),
    )
    nftables.run(f"delete table inet {TABLE}\ndelete table inet {OTHER}")
    return [
        Figure(f"the guard, {what}", size, ours * 1e3, theirs * 1e3, "ms", "", None)
        for what, (ours, theirs) in (("loaded", loaded), ("read back", read))
    ]


def busy_seconds(work: Work) -> float:
    """What a piece of work takes of a processor."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def elements_of(ports: tuple[int, ...]) -> str:
    """Commands that replace a table with such a set, which the kernel keeps as a bitmap, and a rule."""
    of_set = render_port_set("ports", ports).replace("\n\t\tflags timeout\n\t\tgc-interval 1d", "")
    chain = "\tchain c {\n\t\ttype filter hook input priority mangle;\n\t\tth dport @ports drop\n\t}\n"
    return f"add table inet {OTHER}\ndelete table inet {OTHER}\ntable inet {OTHER} {{\n{of_set}{chain}}}\n"
