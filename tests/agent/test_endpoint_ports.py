"""An endpoint that is told without a port."""

from __future__ import annotations

import time

import pytest

from qmesh.agent.commands.invite import InviteOptions, invite
from qmesh.agent.commands.join.steps import JoinOptions, check_join_options
from qmesh.agent.commands.set import set_machine
from qmesh.agent.local import load_local
from qmesh.errors import BadInput
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.mesh.values import Endpoint
from tests.support.control_node import make_control_node

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]


def endpoints_of(state: State, name: str) -> list[str]:
    return [str(each) for each in load_local(state).inventory.machine(name).endpoints]


def test_it_keeps_the_port_that_there_was_or_takes_the_usual_one(tmp_path):
    state = State(tmp_path / "state")
    make_control_node(state)
    own = state.settings()
    set_machine(state, own.name, workers=None, endpoints=("203.0.113.5", "fd00::5", "203.0.113.6:7"))
    assert endpoints_of(state, own.name) == [
        f"203.0.113.5:{own.listen_port}",
        f"[fd00::5]:{own.listen_port}",
        "203.0.113.6:7",
    ]
    now = int(time.time())
    with Registry(state.registry_file) as registry:
        endpoint = Endpoint("203.0.113.7", 41000)
        registry.invite("hel-2", workers=1, endpoint=endpoint, expires_at=now + 60, now=now)
    set_machine(state, "hel-2", workers=None, endpoints=("203.0.113.8",))
    assert endpoints_of(state, "hel-2") == ["203.0.113.8:41000"]
    set_machine(state, "hel-2", workers=None, endpoints=())
    set_machine(state, "hel-2", workers=None, endpoints=("hel-2.example.org",))
    assert endpoints_of(state, "hel-2") == ["hel-2.example.org:51820"]
    with pytest.raises(BadInput, match="no machine"):
        set_machine(state, "ash-4", workers=None, endpoints=("203.0.113.8",))

    set_machine(state, own.name, workers=None, endpoints=("203.0.113.5",))
    invite(state, InviteOptions(name="ash-4", workers=1, endpoint="203.0.113.9", expires="1h"))
    assert endpoints_of(state, "ash-4") == ["203.0.113.9:51820"]


@pytest.mark.parametrize(("listen_port", "port"), [(None, 51820), (41000, 41000)])
def test_that_of_a_machine_which_joins_is_where_it_listens(listen_port, port):
    wish = JoinOptions(endpoint="203.0.113.9", config=None, listen_port=listen_port, interface=None)
    options = check_join_options(wish)
    assert (options.endpoint, options.listen_port) == (Endpoint("203.0.113.9", port), port)
