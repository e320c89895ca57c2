"""Deciding what thousands of machines should be, and writing it down."""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import sample
from benchmarks.measuring import Figure, paired, seconds

from qmesh.host.registry import Registry
from qmesh.mesh.desired import Facts, LocalEnd, build_desired_state
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.inventory import list_workers
from qmesh.mesh.plan.compare import plan_steps
from qmesh.mesh.state import Guard, NodeState
from tests.support.config_files import edit_worker_list

PLACE = LocalEnd(interface=sample.INTERFACE, listen_port=51820)
FACTS = Facts(kind="wireguard")


def figures(members: int, machines: int, meshed: int, runs: int) -> list[Figure]:
    """The control node's own state, and a cluster's configuration.

    meshed: machines for which wg-meshconf still answers within seconds: it writes every pair.
    """
    return [empty_plan(members, runs), *configuration(machines, meshed, runs)]


def empty_plan(members: int, runs: int) -> Figure:
    """From the registry's file to "nothing to do"."""
    state = sample.control_node(members)
    observed = wanted(state.registry_file)

    def decide() -> None:
        assert plan_steps(wanted(state.registry_file), observed) == ()

    wall, _ = paired(runs, lambda _: seconds(decide), lambda _: 0.0)
    return Figure(
        "desired state from the registry, and an empty plan",
        f"{members:,}",
        wall * 1e3,
        None,
        "ms",
        "< 150 ms",
        wall < 0.150,
        "desired state from the registry, and an empty plan",
    )


def wanted(registry_file: Path) -> NodeState:
    """The control node's desired state."""
    with Registry(registry_file) as registry:
        return build_desired_state(registry.inventory(), "control", PLACE, registry.preshared_keys(), FACTS)


def configuration(machines: int, others: int, runs: int) -> list[Figure]:
    """Every machine's tunnel and guard, and the node's config.yml with every worker; then only that file."""
    inventory = sample.inventory(machines - 1)
    workers = [worker.multiaddr for worker in list_workers(inventory)]
    before = edit_worker_list("engine:\n  statsMultiaddr: ''\n", workers[:-1], inventory.node)

    def file() -> None:
        assert workers[-1] in edit_worker_list(before, workers, inventory.node)

    def everything() -> None:
        for machine in inventory.machines:
            state = build_desired_state(inventory, machine.name, PLACE, {}, FACTS)
            assert isinstance(state.guard, Guard)
            assert render_load_script(state.guard)
        file()

    with tempfile.TemporaryDirectory(dir="/run") as directory:
        database = meshed(Path(directory) / "mesh.csv", others)
        wall, mesh = paired(
            runs, lambda _: seconds(everything), lambda run: seconds(lambda: genconfig(database, run))
        )
    alone, _ = paired(runs, lambda _: seconds(file), lambda _: 0.0)
    beside = f"wg-meshconf: {others} machines"
    size = f"{machines:,} machines"
    return [
        Figure(
            f"configuration of every machine ({beside})",
            size,
            wall * 1e3,
            mesh * 1e3,
            "ms",
            "< 1 s" if machines == 1000 else "",
            wall < 1 if machines == 1000 else None,
        ),
        Figure("config.yml alone, one worker more", size, alone * 1e3, None, "ms", "", None),
    ]


def meshed(database: Path, machines: int) -> Path:
    """The database of wg-meshconf for its machines."""
    run_meshconf(database, "init")
    run_meshconf(database, "addpeer", "m", "--address", "10.64.0.1/16", "--endpoint", "192.0.2.1")
    with database.open(newline="") as file:
        (row,) = csv.DictReader(file)
    with database.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        for number in range(1, machines + 1):
            each = sample.machine(number)
            writer.writerow(row | {"Name": each.name, "Address": f"{each.address}/16"})
    return database


def genconfig(database: Path, run: int) -> None:
    """Have wg-meshconf write every machine's file."""
    run_meshconf(database, "genconfig", "--output", f"{database}.{run}")


def run_meshconf(database: Path, *words: str) -> None:
    """Run wg-meshconf."""
    command = [sys.executable, "-m", "wg_meshconf", "--database", str(database), *words]
    subprocess.run(command, check=True, capture_output=True)
