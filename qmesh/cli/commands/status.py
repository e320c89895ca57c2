"""`qmesh status`."""

from __future__ import annotations

from qmesh.agent.reporting import CoreRange, MachineStatus, Status, status
from qmesh.cli.answers import STATE, JsonOption, StateOption, answer
from qmesh.host.state import State
from qmesh.mesh.model import ranges_text

EXAMPLES = ("qmesh status", "qmesh status --json")

_TITLES = ("machine", "state", "tunnel address", "endpoint", "cores", "ports", "handshake", "in", "out")


def command(state: StateOption = STATE, as_json: JsonOption = False) -> None:
    """Show every machine of the mesh.

    The control node knows all handshakes and counters, a worker machine those with the control node.
    `in` and `out` are what this machine received from that one, and sent to it, through the tunnel.
    """
    answer(status(State(state)), as_json=as_json, text=_in_words)


def _in_words(facts: Status) -> str:
    rows = [_TITLES, *(_row(machine) for machine in facts.machines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    head = f"mesh {facts.mesh}, revision {facts.revision}, node {facts.node}, control node {facts.control}"
    return "\n".join((head, *lines))


def _row(machine: MachineStatus) -> tuple[str, ...]:
    return (
        machine.name,
        machine.state,
        machine.address,
        machine.endpoint or "-",
        _cores(machine.cores),
        ranges_text(machine.ports) or "-",
        "-" if machine.last_handshake is None else f"{_ago(machine.last_handshake)} ago",
        "-" if machine.rx_bytes is None else _octets(machine.rx_bytes),
        "-" if machine.tx_bytes is None else _octets(machine.tx_bytes),
    )


def _cores(cores: CoreRange) -> str:
    if cores.first is None or cores.count is None:
        return "-" if cores.count is None else f"{cores.count} to come"
    return f"{cores.first}-{cores.first + cores.count - 1}"


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _octets(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
