"""What is logged under systemd, read back from the real journal with the commands of the page.

tests/host/test_journal.py has the same with a socket as journald's.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from qmesh.mesh.events.catalogue import EVENTS, PRIORITIES
from tests.support.lab.cluster import qmesh
from tests.support.lab.machines import Lab, Machine
from tests.support.lab.systemd import control_group, start_systemd
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.long]


def entries(machine: Machine, *words: str) -> list[dict[str, Any]]:
    """Entries of the journal, with all fields."""
    shown = machine.run(["journalctl", "--no-pager", "-t", "qmesh", "-o", "json", *words], check=False)
    return [json.loads(line) for line in shown.stdout.splitlines()]


def wait_for_entry(machine: Machine, *words: str) -> dict[str, Any]:
    wait_until(lambda: entries(machine, *words), 30)
    return entries(machine, *words)[-1]


def test_events_are_in_the_journal_with_their_fields():
    with control_group() as group, Lab() as lab:
        machine = lab.machine("fra-1", "203.0.113.5")
        start_systemd(machine, group)
        qmesh(
            machine, "init", "--name", "fra-1", "--endpoint", "203.0.113.5", "--workers", "3", "--node", "1.4"
        )

        started = wait_for_entry(machine, "QMESH_CODE=agent-started")
        assert started["MESSAGE"] == "the agent has started"
        assert (started["PRIORITY"], started["QMESH_MACHINE"]) == ("6", "fra-1")
        assert (started["_SYSTEMD_UNIT"], started["_TRANSPORT"]) == ("qmesh.service", "journal")
        assert started["CODE_FUNC"] == "run"

        wait_for_entry(machine, "QMESH_CODE=agent-well")
        machine.run(["nft", "delete", "table", "inet", "qmesh"])
        restored = wait_for_entry(machine, "QMESH_CODE=guard-restored")
        assert restored["PRIORITY"] == "4"
        assert restored["_SYSTEMD_UNIT"] in {"qmesh-hold.service", "qmesh.service"}
        assert restored["QMESH_MACHINE"] == "fra-1"

        # The holder alone, from its own sandbox.
        machine.run(["systemctl", "stop", "qmesh"])
        machine.run(["nft", "delete", "table", "inet", "qmesh"])
        held = wait_for_entry(machine, "QMESH_CODE=guard-restored", "_SYSTEMD_UNIT=qmesh-hold.service")
        assert (held["PRIORITY"], held["QMESH_MACHINE"], held["_TRANSPORT"]) == ("4", "fra-1", "journal")
        machine.run(["systemctl", "start", "qmesh"])

        qmesh(machine, "invite", "hel-2", "--workers", "2", "--out", "/root/invitation")
        invited = wait_for_entry(machine, "QMESH_CODE=invited", "QMESH_MACHINE=hel-2")
        assert (invited["PRIORITY"], invited["MESSAGE"]) == (
            "5",
            "invited hel-2 (by invite, root), revision 1",
        )
        secret = machine.read("/root/invitation").strip()
        assert secret

        # A unit whose command fails says so with a level that is looked for.
        program = machine.run(["sh", "-c", "command -v qmesh"]).stdout.strip()
        start = f"{program} ready 99 --config /none --timeout 1"
        unit = f"[Service]\nType=oneshot\nExecStart={start}\n"
        machine.write("/etc/systemd/system/ended.service", unit)
        machine.run(["systemctl", "daemon-reload"])
        assert machine.run(["systemctl", "start", "ended"], check=False).returncode == 1
        failed = wait_for_entry(machine, "QMESH_CODE=command-failed")
        assert (failed["PRIORITY"], failed["_SYSTEMD_UNIT"]) == ("3", "ended.service")
        assert failed["MESSAGE"].startswith("error: ")

        every = entries(machine)
        assert [each for each in every if each["QMESH_CODE"] not in EVENTS] == []
        assert all(
            each["PRIORITY"] == str(PRIORITIES[EVENTS[each["QMESH_CODE"]]])
            for each in every
            if each["QMESH_CODE"] != "talk"
        )
        assert all("\n" not in each["MESSAGE"] for each in every)
        assert secret not in json.dumps(every)
        urgent = {each["QMESH_CODE"] for each in entries(machine, "-p", "err")}
        assert urgent == {"command-failed"}
