"""A machine that can't be brought up is put back as it was."""

from __future__ import annotations

import pytest

from qmesh.agent import bring_up
from qmesh.agent.local import load_local
from qmesh.errors import MachineRefused
from qmesh.host.firewall import nftables
from qmesh.host.state.directory import State
from qmesh.mesh.guard.tables import TABLE
from tests.support.control_node import make_control_node

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]


@pytest.mark.parametrize("revert", [True, False])
def test_what_was_done_before_a_failure_is_put_back_where_that_is_asked_for(tmp_path, monkeypatch, revert):
    def half_way(*_: object, **__: object) -> None:
        nftables.run(f"add table inet {TABLE}")
        raise MachineRefused("no tunnel", hint="none")

    state = State(tmp_path / "state")
    make_control_node(state)
    monkeypatch.setattr(bring_up, "converge", half_way)
    with pytest.raises(MachineRefused, match="no tunnel"):
        bring_up.bring_up(state, load_local(state), revert=revert)
    assert (nftables.read_table(TABLE) is None) == revert
