"""What a machine may join, which is or was in a mesh."""

from __future__ import annotations

import pytest

from qmesh.agent.commands.join.steps import refuse_another_mesh
from qmesh.errors import BadInput
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings

MESH, OTHER = "0011223344556677", "8899aabbccddeeff"


@pytest.mark.parametrize(
    ("removed", "mesh", "name", "is_refused"),
    [
        (False, MESH, "b", False),
        (False, MESH, "c", True),
        (False, OTHER, "b", True),
        (True, MESH, "b", False),
        (True, MESH, "c", False),
        (True, OTHER, "b", True),
    ],
)
def test_a_machine_that_was_removed_may_have_another_name_and_any_other_is_told_the_way(
    tmp_path, removed, mesh, name, is_refused
):
    state = State(tmp_path)
    refuse_another_mesh(state, mesh, name)  # in none
    settings = Settings(
        mesh=MESH,
        name="b",
        control=False,
        interface="qmesh0",
        listen_port=51820,
        verification_key=bytes(32),
        removed=removed,
    )
    state.save_settings(settings)
    if not is_refused:
        refuse_another_mesh(state, mesh, name)
        return
    with pytest.raises(BadInput, match=f"already b of mesh {MESH}") as refused:
        refuse_another_mesh(state, mesh, name)
    assert "`qmesh uninstall --delete-state`" in refused.value.hint
