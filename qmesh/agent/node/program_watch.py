"""The agent's watch of which version of the node runs on its machine: it says when that is not the mesh's."""

from __future__ import annotations

import time
from typing import Final

from qmesh.agent.local import Local
from qmesh.agent.node.node_program import find_node_programs
from qmesh.host.log.events import report_event
from qmesh.mesh.nodeconfig.program_version import NodeProgram
from qmesh.mesh.values import Profile

LOOK_S: Final = 300.0
"""Seconds between two looks, at least: each starts a program."""
REST: Final = 20
"""Times of the seconds that a look took, until the next: a program may be slow to answer."""


class ProgramWatch:
    """For the agent's loop: what the node's programs said of themselves, from one look to the next."""

    def __init__(self) -> None:
        self.programs: tuple[NodeProgram, ...] = ()
        """Those of the last look, as of `find_node_programs`."""
        self._look_at = 0.0
        self._node: Profile | None = None
        self._told = ""

    def look(self, here: Local) -> None:
        """Look, where it is time for that or the mesh is for another version now."""
        begun, node = time.monotonic(), here.inventory.node
        directory = here.settings.node_directory
        if directory is None:
            self.programs = ()
            return
        if begun < self._look_at and node == self._node:
            return
        programs = self.programs = find_node_programs(directory)
        ended = time.monotonic()
        self._look_at, self._node = ended + max(LOOK_S, REST * (ended - begun)), node
        wrong = "; ".join(str(each) for each in programs if node not in each.version.profiles)
        if wrong and wrong != self._told:
            report_event(
                "node-program",
                "the mesh is for node %s, but here %s (hint: `qmesh check` says what to do)",
                node,
                wrong,
            )
        elif self._told and not wrong:
            report_event("node-program-agrees", "the node's program here is of the mesh's version, %s", node)
        self._told = wrong
