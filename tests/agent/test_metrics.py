"""Metrics of an agent whose machine changes: another role, another mesh, no tunnel."""

from __future__ import annotations

import fcntl
import logging
import math
import socket
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from qmesh.agent.commands.set import set_metrics
from qmesh.agent.daemon import supervisor
from qmesh.agent.daemon.supervisor import METRICS_PORT, Troubles
from qmesh.agent.local import Local, load_local
from qmesh.agent.metrics.collector import AgentKnowledge, MetricsCollector
from qmesh.agent.metrics.outlets import MetricsOutlets
from qmesh.errors import BadInput
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.mesh.metrics.outlets import FILE
from qmesh.mesh.values import Endpoint
from qmesh.mesh.view.cluster_view import ClusterView
from tests.support.control_node import make_control_node
from tests.support.factories import key
from tests.support.registries import invite, redeem
from tests.support.waiting import patience, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

NOW = int(time.time())
PLACE = Endpoint("10.77.0.1", 9586)


def made(directory: Path) -> State:
    state = State(directory)
    make_control_node(state)
    return state


def with_settings(here: Local, **named: object) -> Local:
    return msgspec.structs.replace(here, settings=msgspec.structs.replace(here.settings, **named))


def collector(state: State, known: list[Local]) -> MetricsCollector:
    """Of an agent that knows the last of these. It does not check its machine."""
    found = MetricsCollector(state, lambda: AgentKnowledge(known[-1]))
    found._checked = math.inf
    return found


def test_a_machine_that_has_given_the_role_away_tells_of_no_other_machines_workers(tmp_path):
    """Those that it dialled before are looked at by the new control node now."""
    state = made(tmp_path)
    control = load_local(state)
    known = [control]
    metrics = collector(state, known)
    metrics.refresh()
    assert metrics.render().count(b"qmesh_worker_up{") == 3
    known.append(with_settings(control, control=False))
    metrics._text = None
    assert b"qmesh_worker_up{" not in metrics.render()
    # What it can tell of itself comes at once, and not when the next look would have been due.
    metrics.refresh()
    metrics._text = None
    assert metrics.render().count(b"qmesh_worker_up{") == 3


def test_a_view_has_what_changed_and_which_worker_is_gone(tmp_path):
    state = made(tmp_path)
    metrics = collector(state, [load_local(state)])
    subprocess.run(["ip", "address", "add", "10.77.0.1/32", "dev", "lo"], check=True)
    with socket.create_server(("10.77.0.1", 40001)):
        view = metrics.build_view()
    assert view is not None
    assert [event.what for event in view.events or ()] == ["mesh-made"]
    assert view.findings is None  # nobody has waited for a check
    assert list_states(view) == ["silent", "alive", "silent"]
    metrics._looked = -math.inf, 0.0  # who looks often waits for no answer: a later view has what is found
    wait_until(lambda: list_states(metrics.build_view()) == ["silent", "restarting", "silent"])


def test_a_machine_that_is_new_is_looked_at_at_once(tmp_path):
    """The agent's own look may have been at the mesh before it, while somebody asked already."""
    state = made(tmp_path)
    before = load_local(state)
    known = [before]
    metrics = collector(state, known)
    with Registry(state.registry_file) as registry:
        redeem(registry, invite(registry, "machine-b", now=NOW), key(1), now=NOW)
    metrics.refresh()  # with what the agent knows
    assert b'qmesh_worker_up{machine="machine-b"' not in metrics.render()
    text = metrics.render_all()
    assert text.count(b'qmesh_worker_up{machine="machine-b"') == 2
    metrics.refresh()  # which is older, and no reason to look again
    assert metrics.render_all() == text


def list_states(view: ClusterView | None) -> list[str]:
    assert view is not None
    return [worker.state for machine in view.machines for worker in machine.workers]


def answers() -> bool:
    """Whether somebody listens there."""
    with socket.socket() as asking:
        asking.settimeout(patience(5))
        return asking.connect_ex((PLACE.host, PLACE.port)) == 0


def test_what_is_served_in_the_tunnel_ends_with_it_and_where_the_port_is_a_workers(tmp_path):
    state = made(tmp_path)
    words = (
        "ip link add qmesh0 type veth peer name far0",
        "ip address add 10.77.0.1/20 dev qmesh0",
        "ip link set qmesh0 up",
    )
    subprocess.run(["sh", "-ec", "\n".join(words)], check=True)
    here = with_settings(load_local(state), up=True, guarded=True, metrics=PLACE, metrics_directory="")
    troubles = Troubles(lambda _: None)
    outlets = MetricsOutlets(collector(state, [here]), lambda: here, troubles)

    outlets._update(here)
    assert answers()
    outlets._update(with_settings(here, up=False))  # `qmesh down`
    assert not answers()
    outlets._update(here)
    assert answers()
    mesh = msgspec.structs.replace(here.inventory, base_port=PLACE.port - 1)
    outlets._update(msgspec.structs.replace(here, inventory=mesh))
    assert not answers()
    (trouble,) = troubles.list_troubles()
    assert (trouble.part, trouble.reason) == (
        METRICS_PORT,
        "port 9586 cannot serve metrics: it is a worker's",
    )
    outlets._update(here)
    assert answers()
    assert not troubles.list_troubles()
    outlets._stop_server()


def test_a_user_who_takes_the_port_meanwhile_is_named_and_it_is_taken_back(tmp_path):
    """While no agent runs, any user may listen at a port from 1024 on, and tell Prometheus what he likes."""
    place = Endpoint("127.0.0.1", 9586)
    here = with_settings(load_local(made(tmp_path)), metrics=place, metrics_directory="")
    troubles = Troubles(lambda _: None)
    outlets = MetricsOutlets(collector(State(tmp_path), [here]), lambda: here, troubles)
    with socket.create_server((place.host, place.port)):
        outlets._keep_server(here)
        (trouble,) = troubles.list_troubles()
        assert trouble.part == METRICS_PORT
        assert "127.0.0.1:9586: Address already in use" in trouble.reason
        assert "ss -ltnp" in trouble.hint
    outlets._keep_server(here)
    assert troubles.list_troubles() == ()
    assert outlets._server is not None
    outlets._stop_server()


def test_a1_what_serves_the_address_and_ends_by_itself_is_named_and_begun_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "AGAIN_S", (0.01,))
    place = Endpoint("127.0.0.1", 9586)
    here = with_settings(load_local(made(tmp_path)), metrics=place, metrics_directory="")
    troubles = Troubles(lambda _: None)
    outlets = MetricsOutlets(collector(State(tmp_path), [here]), lambda: here, troubles)
    outlets._keep_server(here)
    assert outlets._server is not None
    first = outlets._server[1]
    wait_until(lambda: first.pulse.silent_s)  # the monitor has it among the others' pulses
    assert outlets.pulse is first.pulse

    with monkeypatch.context() as broken:
        broken.setattr(first, "tick", lambda: 1 / 0)
        wait_until(lambda: not first.is_alive)
        outlets._keep_server(here)
    (restart,) = troubles.recent_restarts()
    assert (restart.part, restart.reason) == (METRICS_PORT, "ZeroDivisionError: division by zero")

    def is_served() -> bool:
        outlets._keep_server(here)
        return not troubles.list_troubles()

    wait_until(is_served)
    with socket.create_connection((place.host, place.port), patience(5)):
        pass
    outlets._stop_server()
    assert len(troubles.recent_restarts()) == 1  # one that is stopped has not ended by itself


def test_another_directory_is_another_one_at_once_whether_or_not_an_agent_runs(tmp_path):
    state, old, new = made(tmp_path / "state"), Path("/run/old"), Path("/run/new")
    for each in (old, new):
        each.mkdir()
    assert set_metrics(state, place=None, directory=str(old)).is_another
    (old / FILE).write_text("of an agent that has ended")
    set_metrics(state, place=None, directory=str(new))
    assert list(old.iterdir()) == []

    here = load_local(state)
    outlets = MetricsOutlets(collector(state, [here]), lambda: here, Troubles(lambda _: None))
    outlets._update(here)
    assert b"qmesh_revision" in (new / FILE).read_bytes()
    outlets._update(with_settings(here, metrics_directory=str(old)))
    assert (list(new.iterdir()), [each.name for each in old.iterdir()]) == ([], [FILE])


def test_it_is_said_why_metrics_will_not_be_there_in_seconds(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("qmesh"), "propagate", True)
    state, place = made(tmp_path / "state"), Path("/run/not-yet")
    set_metrics(state, place=None, directory=str(place))
    assert caplog.messages == [
        "nothing is written yet: there is no directory '/run/not-yet' (hint: make it)",
        "no agent runs on this machine to serve or write metrics (hint: `qmesh apply` starts one)",
    ]
    caplog.clear()
    place.mkdir()
    with state.agent_lock_file.open("w") as agent:
        fcntl.flock(agent, fcntl.LOCK_EX)
        set_metrics(state, place=None, directory=str(place))
    set_metrics(state, place=None, directory="none")
    assert caplog.messages == []


def test_a_change_of_directory_that_is_cut_off_leaves_no_file_in_the_old_one(tmp_path, monkeypatch):
    """No agent runs, and the same command again has no old directory any more. Each point: scripts/faults."""
    state, old, new = made(tmp_path / "state"), Path("/run/old"), Path("/run/new")
    for each in (old, new):
        each.mkdir()
    set_metrics(state, place=None, directory=str(old))
    (old / FILE).write_text("of an agent that has ended")

    def save_and_end(settings: Settings) -> None:
        State.save_settings(state, settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(state, "save_settings", save_and_end)
    with pytest.raises(KeyboardInterrupt):
        set_metrics(state, place=None, directory=str(new))
    assert list(old.iterdir()) == []


@pytest.mark.parametrize("path", ["/tmp/metrics", "/etc/node_exporter", "/usr/../var/tmp", "//usr/local/x"])
def test_a_directory_that_the_agents_unit_shuts_it_out_of_is_refused(tmp_path, path):
    """By its unit it has another /tmp, and /etc to read: so that nothing would arrive there."""
    state = made(tmp_path)
    with pytest.raises(BadInput, match="its unit shuts it out") as refused:
        set_metrics(state, place=None, directory=path)
    assert "/var/lib" in refused.value.hint
    assert set_metrics(state, place=None, directory="/usrlocal").metrics_directory == "/usrlocal"
