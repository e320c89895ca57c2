"""What the agent's part for notifications keeps and sends, whatever its receivers and its state do."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qmesh.agent.commands.set import set_metrics
from qmesh.agent.daemon.supervisor import DELIVERY, NOTIFYING, Troubles
from qmesh.agent.local import Local, load_local
from qmesh.agent.metrics.collector import AgentKnowledge, MetricsCollector
from qmesh.agent.notifications.notifier import AgentFacts, Notifier
from qmesh.agent.notifications.settings import set_notifications
from qmesh.errors import RemovedFromMesh, StateUnreadable
from qmesh.host.log.machine_name import SETTINGS
from qmesh.host.state.directory import State
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.links.activity import LinkReport
from qmesh.mesh.notifications import outbox
from qmesh.mesh.notifications.tracker import Told
from tests.support.control_node import make_control_node
from tests.support.factories import machine
from tests.support.receivers import Receiver, receiving
from tests.support.waiting import wait_until

NOW = int(time.time())

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]


class Agent:
    """An agent's part, turn by turn. here: what its machine remembers; altered: how often the guard was.

    event: the number of the registry's last event.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.here = load_local(state)
        self.altered = 0
        self.event = 1
        self.troubles = Troubles(lambda _: None)
        metrics = MetricsCollector(state, lambda: AgentKnowledge(self.here))
        metrics._checked = float("inf")  # no check of this machine
        self.notifier = Notifier(state, self.know, metrics, self.troubles)

    def know(self) -> AgentFacts:
        return AgentFacts(
            self.here, LinkReport(), frozenset(), self.event, f"start {self.altered} nft (process 7)"
        )

    def turn(self) -> bool:
        """One turn; whether nothing is left to deliver then."""
        self.notifier._look_due = 0.0
        self.notifier._read_settings()
        self.notifier._update()
        record = self.state.notification_record.read()
        return record is not None and not record.outbox.changes

    def list_troubles(self) -> dict[str, str]:
        return {each.part: each.reason for each in self.troubles.list_troubles()}


def make_agent(directory: Path, *urls: str) -> Agent:
    state = State(directory)
    make_control_node(state)
    set_notifications(state, urls=urls, program=None, after_s=None)
    agent = Agent(state)
    agent.here = with_guard(agent.here)
    agent.turn()
    return agent


def with_guard(here: Local) -> Local:
    return msgspec.structs.replace(here, settings=msgspec.structs.replace(here.settings, guarded=True))


def told(receiver: Receiver) -> list[dict[str, Any]]:
    bodies = [each.partition(b"\r\n\r\n")[2] for each in receiver.requests]
    return [change for body in bodies for change in json.loads(body)["changes"]]


def hook(receiver: Receiver) -> str:
    return f"http://127.0.0.1:{receiver.port}/hook"


def test_an_agent_that_restarts_tells_what_it_had_not_told_and_nothing_twice(tmp_path):
    with receiving() as receiver:
        agent = make_agent(tmp_path, hook(receiver))
        agent.altered = 1
        wait_until(agent.turn)
        assert [(each["number"], each["kind"]) for each in told(receiver)] == [(1, "guard-changed")]

        again = Agent(agent.state)
        again.here, again.altered = agent.here, 1
        for _ in range(3):
            assert again.turn()
        assert len(receiver.requests) == 1


def test_what_was_told_is_known_to_an_agent_that_restarts(tmp_path):
    with receiving() as receiver:
        agent = make_agent(tmp_path, hook(receiver))
        kept = agent.state.notification_record
        record, name = kept.read(), agent.here.settings.name
        assert record is not None
        told_before = Told("finding", name, "port-wide 40000", is_on=True, changed_at=NOW, flips=1)
        kept.write(msgspec.structs.replace(record, told=(told_before,)))
        again = Agent(agent.state)
        assert again.turn()
        found = kept.read()
        assert found is not None
        assert found.told == (told_before,)


def test_after_qmesh_is_uninstalled_nothing_is_written_again(tmp_path):
    with receiving() as receiver:
        agent = make_agent(tmp_path, hook(receiver))
        (tmp_path / SETTINGS).unlink()
        agent.state.notification_record.remove()
        agent.altered = 1
        agent.notifier._look_due = 0.0
        agent.notifier._update()
        assert not agent.state.notification_record.exists()


def test_a_receiver_that_takes_nothing_is_named_and_gets_all_as_one_message_later(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "AGAIN_S", (0,))
    state = b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    answers = [state[0]] * 4 + [state[1]]
    with receiving(lambda caller: caller.sendall(answers.pop(0))) as receiver:
        agent = make_agent(tmp_path, hook(receiver))
        agent.altered = 1
        agent.turn()
        agent.here = msgspec.structs.replace(agent.here, inventory=move_control(agent.here.inventory))
        named = []

        def is_done() -> bool:
            named.append(agent.list_troubles().get(DELIVERY, ""))
            return agent.turn()

        wait_until(is_done)
    origin = f"http://127.0.0.1:{receiver.port}"
    assert f"{origin}: it answers 503 Down" in named
    assert "hook" not in "".join(named)
    assert DELIVERY not in agent.list_troubles()
    last = json.loads(receiver.requests[-1].partition(b"\r\n\r\n")[2])
    assert [each["kind"] for each in last["changes"]] == ["guard-changed", "handed-over"]


def move_control(inventory: Inventory) -> Inventory:
    """The same mesh with another control node."""
    other = machine("hel-2", 2, 1)
    return msgspec.structs.replace(inventory, control="hel-2", machines=(*inventory.machines, other))


def test_the_machine_that_had_the_control_role_tells_that_it_moved_and_no_other_does(tmp_path):
    with receiving() as receiver:
        agent = make_agent(tmp_path, hook(receiver))
        before = agent.here
        agent.here = msgspec.structs.replace(before, inventory=move_control(before.inventory))
        wait_until(lambda: agent.turn() and told(receiver))
        agent.here = before  # and back, which the other one tells
        for _ in range(3):
            assert agent.turn()
        assert [(each["kind"], each["machine"]) for each in told(receiver)] == [("handed-over", "hel-2")]


def test_a_machine_that_was_removed_can_end_what_it_tells_and_shows(tmp_path):
    state = make_agent(tmp_path, "https://hooks.example/1").state
    state.save_settings(msgspec.structs.replace(state.settings(), removed=True))
    with pytest.raises(RemovedFromMesh):
        set_notifications(state, urls=["https://hooks.example/2"], program=None, after_s=None)
    with pytest.raises(RemovedFromMesh):
        set_metrics(state, place=None, directory="default")
    assert set_notifications(state, urls=["none"], program=None, after_s=None).is_another
    assert state.notify_settings.read() is None
    assert set_metrics(state, place="none", directory="none").is_another
    assert state.settings().metrics_directory == ""


def test_settings_that_are_damaged_are_said_and_those_before_count(tmp_path):
    with receiving() as receiver:
        agent = make_agent(tmp_path, hook(receiver))
        path = agent.state.notify_settings.path
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"http://", b"gopher://"))
        agent.altered = 1
        wait_until(lambda: agent.turn() and told(receiver))
        assert "is damaged" in agent.list_troubles()[NOTIFYING]
        with pytest.raises(StateUnreadable, match="damaged"):
            set_notifications(agent.state, urls=None, program="none", after_s=None)
        path.write_bytes(whole)
        agent.turn()
        assert agent.list_troubles() == {}


def test_another_command_at_work_is_no_failure_to_keep_what_was_sent(tmp_path, caplog):
    with receiving() as receiver:
        agent = make_agent(tmp_path, hook(receiver))
        agent.notifier._state = State(tmp_path, patience_s=0.01)
        agent.altered = 1
        with agent.state.lock():
            agent.turn()
            assert agent.notifier._record != agent.state.notification_record.read()
        assert "notification-unkept" not in {getattr(each, "qmesh_code", "") for each in caplog.records}
        wait_until(lambda: agent.turn() and told(receiver))
        assert len(told(receiver)) == 1


def test_a_registry_that_cannot_be_read_for_once_is_no_lasting_trouble(tmp_path):
    with receiving() as receiver:
        agent = make_agent(tmp_path, hook(receiver))
        registry, aside = agent.state.registry_file, tmp_path / "aside"
        agent.event, agent.altered = 2, 1
        registry.rename(aside)
        agent.turn()
        aside.rename(registry)
        wait_until(lambda: agent.turn() and told(receiver))
        assert agent.list_troubles() == {}


def test_who_is_told_later_is_told_what_is_so_then(tmp_path):
    with receiving() as receiver:
        agent = make_agent(tmp_path, hook(receiver))
        agent.altered = 1
        wait_until(agent.turn)
        set_notifications(agent.state, urls=["none"], program=None, after_s=None)
        agent.turn()
        assert not agent.state.notification_record.exists()
        agent.altered = 5
        set_notifications(agent.state, urls=[hook(receiver)], program=None, after_s=None)
        assert agent.turn()
        assert len(told(receiver)) == 1


def test_what_a_command_has_removed_is_written_again_only_for_a_receiver(tmp_path):
    """While the agent has not seen yet that there is none, nor that there is one again."""
    with receiving() as receiver:
        agent = make_agent(tmp_path, hook(receiver))
        set_notifications(agent.state, urls=["none"], program=None, after_s=None)
        agent.altered = 1
        agent.notifier._look_due = 0.0
        agent.notifier._update()
        assert not agent.state.notification_record.exists()
        set_notifications(agent.state, urls=[hook(receiver)], program=None, after_s=None)
        agent.turn()
        assert agent.state.notification_record.exists()


def test_an_agent_of_another_mesh_tells_nothing_of_this_one(tmp_path):
    with receiving() as receiver:
        agent = make_agent(tmp_path, hook(receiver))
        agent.here = msgspec.structs.replace(
            agent.here, inventory=msgspec.structs.replace(agent.here.inventory, mesh="0" * 16)
        )
        agent.altered = 3
        assert agent.turn()
        record = agent.state.notification_record.read()
        assert record is not None
        assert (record.mesh, record.told) == ("0" * 16, ())
        assert told(receiver) == []
