"""What readers and the page are shown of a snapshot, and what has no place in it."""

from __future__ import annotations

import msgspec
import pytest

from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.links.activity import LinkReport, SilentLink
from qmesh.mesh.metrics.snapshot import Snapshot, WorkerSample
from qmesh.mesh.state import Counters
from qmesh.mesh.values import Endpoint
from qmesh.mesh.view.builder import MOST_EVENTS, RESTART_S, build_cluster_view
from qmesh.mesh.view.cluster_view import (
    ClusterView,
    EventView,
    FindingView,
    GuardView,
    MachineView,
    TunnelView,
    WorkerView,
)
from tests.support.factories import key, machine, mesh

AT = 1_700_000_100.0
AWAY = Endpoint("198.51.100.77", 51820)
MESH = mesh(
    machine("a", 1, 2),
    machine("b", 2, 1, endpoints=(AWAY,)),
    machine("c", 3, 1, state="paused"),
    machine("d", 4, state="invited"),
)
FINDING = Finding("guard-missing", "error", "inet qmesh", "a guard", "none", "qmesh apply")


def snapshot(name: str = "a", **named) -> Snapshot:
    return Snapshot(**{"name": name, "version": "0.1.0", "inventory": MESH, "interface": "qmesh0", **named})


def event(number: int) -> EventView:
    return EventView(at=number, what="joined", machine="b", revision=1, command="join", user="root")


FULL = snapshot(
    looked_at=1_700_000_099.0,
    guard_ok=True,
    dropped={"closed_port": 3},
    counters={key(2): Counters(1_700_000_001, 2**60, 20, AWAY), key(3): Counters(None, 0, 148, None)},
    links=LinkReport(silent=(SilentLink(key(2), 200.0, was_heard=True),)),
    unasked={"10.77.0.3": 75.0},
    revisions={"10.77.0.2": 6},
    workers=(
        WorkerSample("a", 1, 0.0002104999, answered_s=0.0),
        WorkerSample("a", 2, None, "refused", answered_s=20.0),
        WorkerSample("b", 3, None, "dropped", answered_s=20.0),
        WorkerSample("gone", 9, 0.1),
    ),
    is_dialled=True,
    findings=(FINDING,),
    checked_at=1_700_000_002.0,
)


def test_what_a_control_node_knows_is_shown():
    view = build_cluster_view(FULL, [event(1)], at=AT)
    assert view == ClusterView(
        at=AT,
        looked_at=1_700_000_099.0,
        version="0.1.0",
        mesh=MESH.mesh,
        name="a",
        role="control",
        control="a",
        node=MESH.node,
        revision=MESH.revision,
        machines=(
            MachineView(
                name="a",
                role="control",
                state="active",
                address="10.77.0.1",
                tunnel=None,
                revision=MESH.revision,
                agent_up=True,
                agent_silent_s=None,
                workers=(
                    WorkerView(core=1, port=40000, state="alive", answer_s=0.00021),
                    WorkerView(core=2, port=40001, state="restarting", why="refused"),
                ),
            ),
            MachineView(
                name="b",
                role="worker",
                state="active",
                address="10.77.0.2",
                tunnel=TunnelView(handshake_s=99.0, received_bytes=2**60, sent_bytes=20, is_silent=True),
                revision=6,
                agent_up=True,
                agent_silent_s=None,
                workers=(WorkerView(core=3, port=40002, state="silent", why="dropped"),),
            ),
            MachineView(
                name="c",
                role="worker",
                state="paused",
                address="10.77.0.3",
                tunnel=TunnelView(handshake_s=None, received_bytes=0, sent_bytes=148, is_silent=None),
                revision=None,
                agent_up=False,
                agent_silent_s=75.0,
                workers=(),
            ),
            MachineView(
                name="d",
                role="worker",
                state="invited",
                address="10.77.0.4",
                tunnel=None,
                revision=None,
                agent_up=None,
                agent_silent_s=None,
                workers=(),
            ),
        ),
        guard=GuardView(is_whole=True, dropped={"closed_port": 3}),
        findings=(
            FindingView(
                code="guard-missing",
                severity="error",
                subject="inet qmesh",
                wanted="a guard",
                seen="none",
                cure="qmesh apply",
                link="docs/checks.md#guard-missing",
            ),
        ),
        checked_at=1_700_000_002.0,
        events=(event(1),),
    )


def test_what_a_machine_does_not_know_is_said_to_be_unknown():
    view = build_cluster_view(snapshot("b"), None, at=AT)
    here = view.machines[1]
    assert (view.role, view.guard, view.findings, view.events) == (
        "worker",
        GuardView(is_whole=None, dropped=None),
        None,
        None,
    )
    assert (here.name, here.revision, here.agent_up) == ("b", MESH.revision, None)
    assert {each.tunnel for each in view.machines} == {None}
    assert {each.agent_up for each in view.machines} == {None}
    states = [worker.state for each in view.machines for worker in each.workers]
    assert states == ["unknown", "unknown", "unknown"]


def test_a_member_that_looks_at_its_own_worker_tells_no_time_of_an_answer():
    view = build_cluster_view(
        snapshot("b", workers=(WorkerSample("b", 3, 0.0),), links=LinkReport()), None, at=AT
    )
    assert view.machines[1].workers == (WorkerView(core=3, port=40002, state="alive"),)


@pytest.mark.parametrize(
    ("why", "answered_s", "state"),
    [
        ("refused", 1.0, "restarting"),
        ("absent", RESTART_S - 0.1, "restarting"),
        ("", 1.0, "restarting"),
        ("refused", RESTART_S, "silent"),
        ("refused", None, "silent"),
        ("dropped", 1.0, "silent"),
        ("stopped", 1.0, "silent"),
    ],
)
def test_a_worker_is_being_restarted_where_its_process_has_just_ended(why, answered_s, state):
    view = build_cluster_view(snapshot(workers=(WorkerSample("a", 1, None, why, answered_s),)), None, at=AT)
    assert view.machines[0].workers[0].state == state


def test_a_handshake_of_the_future_was_now():
    ahead = snapshot(counters={key(2): Counters(1_700_000_200, 1, 1, None)}, links=LinkReport())
    assert build_cluster_view(ahead, None, at=AT).machines[1].tunnel == TunnelView(
        handshake_s=0.0, received_bytes=1, sent_bytes=1, is_silent=False
    )


def test_the_newest_events_are_shown():
    events = [event(number) for number in range(MOST_EVENTS + 5)]
    shown = build_cluster_view(FULL, events, at=AT).events
    assert shown == tuple(events[5:])


def test_no_key_and_no_endpoint_is_in_a_view():
    text = msgspec.json.encode(build_cluster_view(FULL, [event(1)], at=AT)).decode()
    assert "10.77.0.2" in text  # the positive control
    assert not any(each.public_key in text for each in MESH.machines)
    assert AWAY.host not in text
    assert "51820" not in text


def test_a_view_is_read_as_it_was_written():
    view = build_cluster_view(FULL, [event(1)], at=AT)
    assert msgspec.json.decode(msgspec.json.encode(view), type=ClusterView) == view
