"""Agents whose parts are broken on purpose, by sabotage.py, and what `check` says of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from qmesh.agent.daemon import supervisor
from qmesh.mesh.audit.surroundings import SERVICE
from tests.support.lab.cluster import qmesh, stop_agent
from tests.support.lab.machines import TOOLS, Machine, Running
from tests.support.waiting import wait_until

NODES_OWN = {"config-stale", "worker-silent", "config-missing"}
NAMES = {
    "look": supervisor.LOOK,
    "service": SERVICE,
    "asking": supervisor.ASKING,
    "following": supervisor.FOLLOWING,
    "monitor": supervisor.MONITOR,
    "answering": supervisor.ANSWERING,
    "guard": supervisor.GUARD,
    "metrics": supervisor.METRICS,
    "serving": supervisor.METRICS_PORT,
    "readers": supervisor.READERS,
    "notifying": supervisor.NOTIFYING,
    "proving": supervisor.PROVING,
}
"""What each part is called by `check`."""
WISHED = (
    ("set", "--metrics", "127.0.0.1:9586"),
    ("set", "--notify-command", "/usr/bin/true"),
)
"""Of the control node: with these it has all parts."""


def findings(machine: Machine) -> dict[str, Any]:
    """What `check` finds wrong, by code, but for the node, which is not there."""
    found = json.loads(machine.run(["qmesh", "check", "--json"], check=False).stdout)["findings"]
    return {each["code"]: each for each in found if each["code"] not in NODES_OWN}


def is_well(machine: Machine) -> bool:
    return findings(machine) == {}


@contextlib.contextmanager
def breakable_agent(machine: Machine) -> Iterator[Running]:
    """An agent in the place of the machine's, whose parts are broken by `spoil`; it is well by then."""
    stop_agent(machine)
    agent = machine.start(["python", TOOLS / "sabotage.py"])
    try:
        wait_until(lambda: is_well(machine), seconds=30)
        yield agent
        assert agent.poll() is None  # whatever was done to it, it never ended
    finally:
        agent.stop(timeout=15)
        qmesh(machine, "apply")


def spoil(machine: Machine, how: str, part: str, *, news: Callable[[], object] = lambda: None) -> None:
    """Break a part, and wait until it has come to where that shows."""
    machine.write(f"/root/{how}-{part}", "")
    news()  # for who waits for that
    if part == "answering":  # only when it is asked
        findings(machine)
    wait_until(
        lambda: machine.run(["test", "-e", f"/root/{how}-{part}"], check=False).returncode == 1, seconds=30
    )


def is_mended(machine: Machine, part: str) -> bool:
    """Whether nothing is wrong any more but that the part was begun anew, which is said."""
    found = findings(machine)
    return set(found) == {"agent-restarted"} and found["agent-restarted"]["subject"] == NAMES[part]
