"""The control node's agent logs what changes the mesh, with the codes that `qmesh log` has."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import cast

import pytest

from qmesh.agent.daemon.event_log import RegistryEventLog
from qmesh.agent.local import Local
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from tests.support.factories import key
from tests.support.registries import NOW, invite, path, redeem, registry  # noqa: F401 - fixtures


def here(*, control: bool) -> Local:
    """All that is asked of it: whose registry counts."""
    return cast("Local", SimpleNamespace(settings=SimpleNamespace(control=control)))


@pytest.fixture
def events(registry, path, caplog, monkeypatch):  # noqa: F811 - the fixtures
    caplog.set_level(logging.INFO, logger="qmesh")
    monkeypatch.setattr(logging.getLogger("qmesh"), "propagate", True)
    return RegistryEventLog(State(path.parent))


def test_what_is_new_is_logged_once_with_its_code_and_machine(events, registry, caplog):  # noqa: F811
    invite(registry, "hel-2")
    registry.withdraw_invitation("hel-2", now=NOW)
    events.look(here(control=True), None)
    events.look(here(control=True), None)
    said = [(each.qmesh_code, each.qmesh_machine, each.levelname) for each in caplog.records]
    assert said == [("invited", "hel-2", "NOTICE"), ("invitation-withdrawn", "hel-2", "NOTICE")]
    assert caplog.records[0].getMessage() == "invited hel-2 (by invite), revision 1"


def test_who_made_an_invitation_is_not_said_to_have_joined(events, registry, path, caplog):  # noqa: F811
    with Registry(path, user="alice") as inviting:
        issued = invite(inviting, "hel-2")
    redeem(registry, issued, key(1))
    events.look(here(control=True), None)
    assert [each.getMessage() for each in caplog.records if each.qmesh_code == "joined"] == [
        "joined hel-2 (by join, invited by alice), revision 2"
    ]


def test_the_registry_is_read_where_the_loop_knows_of_more(events, registry, path, caplog):  # noqa: F811
    events.look(here(control=True), None)
    invite(registry, "hel-2")
    newest = registry.last_event_number()
    path.rename(path.with_name("elsewhere"))
    events.look(here(control=True), newest - 1)  # which it has logged
    path.with_name("elsewhere").rename(path)
    assert caplog.records == []
    for _ in range(2):
        events.look(here(control=True), newest)
    assert [each.qmesh_code for each in caplog.records] == ["invited"]


def test_what_was_before_the_agent_is_for_qmesh_log(registry, path, events, caplog):  # noqa: F811
    invite(registry, "hel-2")
    RegistryEventLog(State(path.parent)).look(here(control=True), None)
    assert caplog.records == []


def test_a_machine_without_a_registry_logs_nothing(tmp_path):
    RegistryEventLog(State(tmp_path)).look(here(control=False), None)


def test_a_machine_that_becomes_the_control_node_does_not_log_all_that_ever_was(events, registry, caplog):  # noqa: F811
    events.look(here(control=False), None)
    invite(registry, "hel-2")
    events.look(here(control=True), None)
    assert caplog.records == []
