"""`node-files`: fetch the node's files from the control node, on a member that may."""

from __future__ import annotations

from pathlib import Path

from qmesh.agent.membership import load_latest
from qmesh.agent.node.node_files import FetchedFiles, choose_directory, fetch_node_files
from qmesh.agent.preconditions import check_local, check_state, check_user
from qmesh.host.state.directory import State


def fetch_files(state: State, *, config: Path | None) -> FetchedFiles:
    """What the control node gives this machine, and what would become of the files here. Writes nothing.

    config: the node's directory, as given. Raises as `fetch_node_files`.
    """
    check_user("node-files")
    check_state(state, "node-files")
    here = load_latest(state)
    check_local(here, "node-files")
    return fetch_node_files(state, here, choose_directory(state, here.settings, config))
