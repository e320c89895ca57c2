"""What `status` says of workers and agents that are silent: the reason, and what fits it."""

from __future__ import annotations

import msgspec
import pytest

from qmesh.agent.commands.status import CoreRange, MachineStatus, SilentAgent, Status
from qmesh.agent.node.worker_status import SilentCore, TroubledCore, WorkerHealth
from qmesh.cli.status_text.problems import list_problems
from qmesh.mesh.node_processes.silence import SilenceReason

AWAY = "cores 4-5 of hel-2 (nothing of the machine comes through the tunnel); on hel-2: qmesh check"


def machine(name: str, heard_s: float | None, *silent: tuple[int, SilenceReason]) -> MachineStatus:
    cores = tuple(
        SilentCore(core, "10.77.0.2", 40000 + core, "u", f"on {name}: restart core {core}", why)
        for core, why in silent
    )
    return MachineStatus(
        name=name,
        role="worker",
        address="10.77.0.2",
        public_key="k",
        endpoint=None,
        cores=CoreRange(4, 4),
        ports=(40003, 40004, 40005, 40006),
        state="active",
        last_handshake=heard_s,
        rx_bytes=None,
        tx_bytes=None,
        workers=WorkerHealth(
            *(4 - len(cores), cores, None, "restart them"),
            restarts={each.why: f"restart the {each.why}" for each in cores},
        ),
        node_files=False,
    )


def lines_of(*machines: MachineStatus, agents: tuple[SilentAgent, ...] = ()) -> list[str]:
    facts = Status("m", 1, "1.4", "fra-1", machines, (), silent_agents=agents)
    return list(list_problems(facts))


@pytest.mark.parametrize(
    ("heard_s", "why", "line"),
    [
        (0.0, "refused", "cores 4-5 of hel-2 (refused); on hel-2: restart the refused"),
        (5.0, "dropped", "cores 4-5 of hel-2 (dropped by a firewall, or hanging); on hel-2: qmesh check"),
        (None, "dropped", AWAY),
        (900.0, "rejected", AWAY),
        (5.0, "unroutable", "cores 4-5 of hel-2 (no way from here); on hel-2: qmesh check"),
        (5.0, "stopped", "cores 4-5 of hel-2 (stopped by a signal, or frozen); on hel-2: qmesh check"),
        (None, "down", "cores 4-5 of hel-2 (`qmesh down` was run there); on hel-2: qmesh apply"),
        (5.0, "", "cores 4-5 of hel-2 (no answer); on hel-2: restart the "),
    ],
)
def test_a_silent_worker_is_restarted_only_where_that_may_help(heard_s, why, line):
    assert lines_of(machine("hel-2", heard_s, (4, why), (5, why))) == [f"silent: {line}"]


def test_each_reason_has_a_line_and_the_control_node_is_not_away():
    assert lines_of(machine("hel-2", 5.0, (4, "refused"), (5, "dropped"), (6, "refused"))) == [
        "silent: cores 4, 6 of hel-2 (refused); on hel-2: restart the refused",
        "silent: core 5 of hel-2 (dropped by a firewall, or hanging); on hel-2: qmesh check",
    ]
    (line,) = lines_of(machine("fra-1", None, (4, "dropped")))
    assert "dropped by a firewall" in line


def test_one_command_restarts_all_workers_with_one_trouble():
    troubled = tuple(TroubledCore(core, "outdated", 90 + core, "node", f"restart {core}") for core in (4, 5))
    restarts: dict[str, str] = {"outdated": "systemctl restart a b"}
    health = WorkerHealth(2, (), None, troubled=troubled, restarts=restarts)
    here = msgspec.structs.replace(machine("hel-2", 5.0), workers=health)
    (line,) = lines_of(here)
    assert line == "outdated, started before a file was changed: cores 4-5; systemctl restart a b"


def test_agents_that_are_not_there_are_named():
    agents = (SilentAgent("fra-1", None, "on fra-1: qmesh apply"), SilentAgent("hel-2", 300.0, "on hel-2: x"))
    assert lines_of(machine("hel-2", 5.0), agents=agents) == [
        "no agent: nothing fixes fra-1; on fra-1: qmesh apply",
        "no agent: hel-2's has not asked for 5 min; on hel-2: x",
    ]
