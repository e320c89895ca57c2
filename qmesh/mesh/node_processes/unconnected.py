"""Machines of whose workers the control process has too few connections, as the control node sees it.

A worker keeps its connection to a control process that went without a word, as when power fails: on its own
machine all looks well.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from qmesh.mesh.inventory import Inventory
from qmesh.mesh.node_processes.record import CUT_OFF_S


class UnconnectedMachine(msgspec.Struct, frozen=True):
    """Another machine, for more than a minute. cores: of its workers; connected: how many connections."""

    machine: str
    cores: tuple[int, ...]
    connected: int


def update_unconnected(
    before: Mapping[str, float], inventory: Inventory, streams: Mapping[str, int], now_s: float
) -> dict[str, float]:
    """Since when which machine has fewer connections than workers, after a look.

    streams: how many connections each tunnel address has to the control process.
    """
    return {
        name: before.get(name, now_s)
        for name, cores in _list_cores(inventory).items()
        if streams.get(inventory.machine(name).address, 0) < len(cores)
    }


def find_unconnected_machines(
    since_s: Mapping[str, float], inventory: Inventory, streams: Mapping[str, int], now_s: float
) -> tuple[UnconnectedMachine, ...]:
    """Those that are so now, and have been for more than a minute. since_s: of `update_unconnected`."""
    cores = _list_cores(inventory)
    return tuple(
        UnconnectedMachine(name, cores[name], streams.get(inventory.machine(name).address, 0))
        for name, begun_s in update_unconnected(since_s, inventory, streams, now_s).items()
        if now_s - begun_s >= CUT_OFF_S
    )


def _list_cores(inventory: Inventory) -> dict[str, tuple[int, ...]]:
    """Of each machine but the control node, where workers keep a connection to the control process."""
    if inventory.node != "2.1-rust":
        return {}
    return {name: tuple(mine.numbers) for name, mine in inventory.cores.items() if name != inventory.control}
