"""What the node's own file opens to everyone is remembered, and closed without a look at a user's disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qmesh.agent.facts import gather_guard_facts
from qmesh.agent.local import load_local, with_tunnel_and_guard
from qmesh.agent.node.node_ports import update_node_ports
from qmesh.errors import StateUnreadable
from qmesh.host.linux import Linux
from qmesh.host.state.directory import State
from qmesh.host.state.documents import NodePorts, PortReservations
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.state import Guard, NodeState
from qmesh.mesh.values import Profile
from tests.support.control_node import make_control_node
from tests.support.factories import guard
from tests.support.older_guard import as_of_format_2

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

USER = 1001
NODES = (6600, 8337, 8338)
HOME = Path("/run/alice")
FILE = HOME / ".config/config.yml"
TEXT = "engine: {dataWorkerStreamMultiaddrs: []}\np2p: {}\ndb: {}\nkey: {}\n"
OPEN = "listenGrpcMultiaddr: /ip6/::1/tcp/8447\nlistenRESTMultiaddr: /ip4/0.0.0.0/tcp/443\n"


def made(node: Profile = "2.1-rust", text: str = TEXT) -> State:
    """A control node whose node's directory is a user's."""
    Path("/run").chmod(0o755)
    FILE.parent.mkdir(parents=True)
    FILE.write_text(text, encoding="utf-8")
    for path in (HOME, FILE.parent, FILE):
        os.chown(path, USER, USER)
    state = State(Path("/run/state"), patience_s=1.0)
    make_control_node(state, config=FILE.parent, node=node)
    return state


def own_ports(state: State) -> tuple[int, ...]:
    """The ports that the guard should close for all but this machine."""
    here = with_tunnel_and_guard(load_local(state))
    facts = gather_guard_facts(
        here, Linux(state, "qmesh0", []), NodeState(guard=None, tunnel=None), kind="tun"
    )
    wanted = here.build_desired_state(facts).guard
    assert isinstance(wanted, Guard)
    return wanted.own_ports


def test_g1_what_a_file_opens_on_every_address_is_closed_from_the_next_look_on():
    state = made()
    assert own_ports(state) == NODES
    stamp = state.read_stamp()
    assert update_node_ports(state, load_local(state))  # nothing of it is open, and whose it is known
    FILE.write_text(TEXT + OPEN, encoding="utf-8")
    assert update_node_ports(state, load_local(state))
    assert state.read_stamp() != stamp  # so the agent looks at everything
    assert state.node_ports.read() == NodePorts(owner=USER, ports=(443, 8447))
    assert own_ports(state) == (*NODES, 8447)  # 443 is no user's to speak of
    assert not update_node_ports(state, load_local(state))
    FILE.write_text(TEXT, encoding="utf-8")
    assert update_node_ports(state, load_local(state))
    assert own_ports(state) == NODES


@pytest.mark.parametrize("text", ["engine: [", "\tx", None])
def test_a_file_that_cannot_be_read_changes_nothing(text: str | None):
    state = made()
    FILE.write_text(TEXT + OPEN, encoding="utf-8")
    update_node_ports(state, load_local(state))
    if text is None:
        os.chown(FILE.parent, 0, 0)  # another's than it was
    else:
        FILE.write_text(text, encoding="utf-8")
    assert not update_node_ports(state, load_local(state))
    assert own_ports(state) == (*NODES, 8447)


def test_a_node_before_2_1_has_its_file_for_itself():
    state = made("1.4", "engine: {dataWorkerMultiaddrs: []}\n" + OPEN)
    update_node_ports(state, load_local(state))
    assert own_ports(state) == ()


def test_g3_where_what_is_remembered_is_damaged_what_is_closed_stays_so():
    state = made()
    state.node_ports.path.write_text("{")
    assert own_ports(state) == NODES
    state.guard_file.write_text(render_load_script(guard(own_ports=(8337, 8447))))
    assert own_ports(state) == (*NODES, 8447)
    with pytest.raises(StateUnreadable):
        state.node_ports.read()
    assert update_node_ports(state, load_local(state))  # the file says what is so
    assert own_ports(state) == NODES


def test_g3_the_worker_ports_that_an_older_guard_closes_are_known():
    state = made()
    state.save_port_reservations(PortReservations(ours=(25000,)))
    closed = guard(own_ports=(8337,))
    for script in (render_load_script(closed), as_of_format_2(render_load_script(closed))):
        state.guard_file.write_text(script)
        assert set(state.list_closed_ports()) - {8337} == set(closed.ports)
    state.guard_file.write_text(render_load_script(closed)[:-3])  # cut off
    assert state.list_closed_ports() == (25000,)
