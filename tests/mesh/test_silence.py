"""Why a worker does not answer: each reason has words of its own, and an advice that fits."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.audit.maintenance import agent_findings
from qmesh.mesh.audit.network.listeners import silent_worker_findings
from qmesh.mesh.audit.node.silence import name_dropping_rules
from qmesh.mesh.audit.surroundings import AuditContext, ConfigFile, SilentWorkers
from qmesh.mesh.foreign.obstacles import Obstacle
from qmesh.mesh.node_processes.places import find_other_places, list_accepting_places
from qmesh.mesh.node_processes.silence import SilenceReason, explain_error
from tests.support.factories import audit_context

EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing binds to it
OTHER = "on hel-2: restart the worker of core 4 (with systemd: qmesh-worker@4.service)"


def around(**fields: Any) -> AuditContext:
    config = ConfigFile("/c/config.yml", "engine:\n  dataWorkerMultiaddrs: []\n", 0o600)
    return audit_context(config=config, **fields)


def finding_of(why: SilenceReason, machine: str = "hel-2", **fields: Any) -> Finding:
    silent = SilentWorkers(machine, "10.77.0.2", (4,), are_all=False, why=why, elsewhere=("127.0.0.1", "::1"))
    (finding,) = silent_worker_findings(around(silent=(silent,), **fields))
    assert (finding.code, finding.severity) == ("worker-silent", "warning")
    assert finding.subject == f"{machine} core 4"
    return finding


@pytest.mark.parametrize(
    ("why", "seen", "cure"),
    [
        ("", "no answer", OTHER),
        ("refused", "the connection is refused", "`qmesh check` there says where it listens"),
        ("dropped", "dropped by a firewall", "`qmesh check`, where `foreign-drop` names the rule"),
        ("rejected", "a firewall rejects the connection", "`foreign-drop` names the rule"),
        ("unroutable", "nothing leaves this machine", "restart no worker"),
        ("stopped", "accepts calls and answers none", "restart no worker"),
        ("down", "`qmesh down` was run there", "on hel-2: `qmesh apply`"),
        ("elsewhere", "it listens on 127.0.0.1, ::1", "`qmesh render-config --write`"),
    ],
)
def test_a_worker_of_another_machine(why, seen, cure):
    found = finding_of(why)
    assert seen in found.seen
    assert cure in found.cure


@pytest.mark.parametrize("why", ["", "absent", "refused", "dropped", "rejected"])
def test_one_of_this_machine_is_restarted(why):
    found = finding_of(why, "fra-1")
    assert found.cure == "on fra-1: restart the worker of core 4"
    assert ("nothing listens at its port" in found.seen) == (why == "absent")


@pytest.mark.parametrize(("why", "is_own"), [("dropped", True), ("rejected", True), ("refused", False)])
def test_a_rule_of_this_machine_comes_first(why, is_own):
    obstacle = Obstacle(place="x", wanted="x", seen="x", cure="x", is_certain=True)
    found = finding_of(why, obstacles=(obstacle,))
    assert ("a rule of this machine may be why" in found.cure) == is_own


def test_the_rule_that_drops_is_the_one_that_the_workers_machine_names():
    dropped, refused = finding_of("dropped"), finding_of("refused")
    rule = Finding("foreign-drop", "warning", "table ip x", "packets", "tcp dport 1 drop", "nft delete x")
    worse = Finding("foreign-drop", "error", "table ip y", "packets", "counter drop", "nft delete y")
    other = Finding("key-mode", "error", "x", "x", "x", "x")
    told = list(name_dropping_rules([dropped, refused], {"hel-2": [other, rule, worse], "fra-1": [rule]}))
    assert told[1] == refused
    assert told[0].seen == f"{dropped.seen}; hel-2 names table ip y: counter drop"
    assert told[0].cure == "on hel-2: nft delete y"
    assert list(name_dropping_rules([dropped], {"hel-2": [other]})) == [dropped]
    assert list(name_dropping_rules([dropped], {})) == [dropped]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (errno.ECONNREFUSED, "refused"),
        (errno.ETIMEDOUT, "dropped"),
        (errno.EHOSTUNREACH, "rejected"),
        (errno.ENETUNREACH, "unroutable"),
        (errno.EPERM, "unroutable"),
        (errno.EMFILE, ""),
    ],
)
def test_an_error_is_a_reason_where_it_says_one(error, why):
    assert explain_error(error) == why


def test_where_a_worker_takes_what_comes_to_its_address():
    assert list_accepting_places(("10.77.0.2", 40003)) == (
        ("10.77.0.2", 40003),
        (EVERYWHERE, 40003),
        ("::", 40003),
    )
    assert list_accepting_places(("fd00::2", 40003)) == (("fd00::2", 40003), ("::", 40003))
    there = [("127.0.0.1", 40003), (EVERYWHERE, 40003), ("10.77.0.2", 40003), ("::1", 40004), ("::1", 40003)]
    assert find_other_places(("10.77.0.2", 40003), there) == ("127.0.0.1", "::1")


def test_a_removed_machine_is_not_told_to_start_an_agent():
    assert [each.code for each in agent_findings(around(agent=None))] == ["agent-missing"]
    assert list(agent_findings(around(agent=None, removed=True))) == []
