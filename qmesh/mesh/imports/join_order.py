"""The order in which machines join, and the port of core 1: what changes the least."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from qmesh.errors import BadInput
from qmesh.mesh.imports.machine import ListedMachine, has_gap
from qmesh.mesh.machine import Cores
from qmesh.mesh.values import DEFAULT_LISTEN_PORT


def order_machines(
    machines: Iterable[tuple[str, ListedMachine]], first: int | None
) -> Iterator[tuple[str, ListedMachine]]:
    """The machines, each with its name, so that many keep their cores.

    The machine that has the next core keeps it, else the first in the list moves there. Where there is
    nothing to move, the list's order comes out; now and then another order would keep one machine more.
    Where workers are not known before their machine has joined, it is the list's order too.

    first: the first core to be given; None where that is not known.
    """
    waiting = list(machines)
    if first is None or any(machine.workers is None for _, machine in waiting):
        yield from waiting
        return
    while waiting:
        keepers = (at for at, (_, machine) in enumerate(waiting) if _starts_at(machine, first))
        name, machine = waiting.pop(next(keepers, 0))
        yield name, machine
        first += machine.workers or 0


def _starts_at(machine: ListedMachine, core: int) -> bool:
    return machine.was[:1] == (core,) and not has_gap(machine.was)


def choose_base_port(
    machines: Sequence[tuple[ListedMachine, Cores | None]], default: int, total: int, on_control: int
) -> int:
    """The port of core 1 with which the most workers keep their port; `default` where that is as good.

    total: workers of the whole mesh as far as known. on_control: those of the control machine, where
    none may have WireGuard's own port. Raises BadInput when no port will do.
    """
    votes = Counter(
        port - (core - 1)
        for machine, cores in machines
        if cores is not None
        for port, core in zip(machine.ports, cores.numbers, strict=False)
    )
    fitting = [base for base in {default, *votes} if _is_usable_base_port(base, total, on_control)]
    if not fitting:
        raise BadInput(
            f"{total} workers do not fit into the ports from {default} to 65535",
            hint="a mesh has one port for each worker: remove some workers from the list",
        )
    return max(fitting, key=lambda base: (votes[base], base == default, -base))


def _is_usable_base_port(base: int, total: int, on_control: int) -> bool:
    return 1 <= base <= 65536 - total and DEFAULT_LISTEN_PORT not in range(base, base + on_control)
