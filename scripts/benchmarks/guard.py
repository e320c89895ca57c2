"""The guard for thousands of worker ports, loaded."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks import sample
from benchmarks.measuring import Figure, paired, seconds

from qmesh.host.firewall import nftables
from qmesh.mesh.desired import Facts, LocalEnd, build_desired_state
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.state import Guard

SCRIPT = Path("/run/guard.nft")


def figures(members: int, runs: int) -> list[Figure]:
    """Rows for so many worker ports of one machine, and for so many members of its mesh."""
    return [
        loaded(guard_with(tuple(range(20000, 20000 + members))), f"{members:,} worker ports", runs),
        loaded(guard_of(members), f"{members:,} members", runs),
    ]


def guard_of(members: int) -> Guard:
    """The control node's, in a mesh of so many."""
    place = LocalEnd(interface=sample.INTERFACE, listen_port=51820)
    guard = build_desired_state(
        sample.inventory(members), "control", place, {}, Facts(kind="wireguard")
    ).guard
    assert isinstance(guard, Guard)
    return guard


def guard_with(ports: tuple[int, ...]) -> Guard:
    """A worker machine's, with these ports."""
    return Guard(
        role="worker",
        interface=sample.INTERFACE,
        kind="wireguard",
        listen_port=51820,
        control_address="10.64.0.1",
        service_port=51820,
        ports=ports,
    )


def loaded(guard: Guard, size: str, runs: int) -> Figure:
    """Rendered and loaded in one transaction, against nft(8) with the text already written."""
    SCRIPT.write_text(render_load_script(guard))

    def theirs(_: int) -> float:
        return seconds(lambda: subprocess.run(["nft", "-f", str(SCRIPT)], check=True))

    wall, nft = paired(runs, lambda _: seconds(lambda: nftables.run(render_load_script(guard))), theirs)
    nftables.run("delete table inet qmesh")
    return Figure(
        "the guard, loaded",
        size,
        wall * 1e3,
        nft * 1e3,
        "ms",
        "<= 1.5 x `nft -f`",
        wall <= 1.5 * nft,
        f"the guard, loaded; {size.partition(' ')[2]}",
    )
