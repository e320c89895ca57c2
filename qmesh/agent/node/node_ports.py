"""The ports at which the node's own file opens the node to everyone: remembered, for the guard to close.

The guard waits for no user's disk: it closes what was found last. What cannot be read changes nothing.
"""

from __future__ import annotations

from qmesh.agent.local import Local
from qmesh.agent.node import node_config
from qmesh.errors import QmeshError
from qmesh.host.log.events import report_event
from qmesh.host.state.directory import State
from qmesh.host.state.documents import NodePorts
from qmesh.mesh.nodeconfig import list_wide_ports
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.values import NODE_PORTS


def update_node_ports(state: State, here: Local) -> bool:
    """Remember what config.yml opens now; whether that is another than before. Raises MachineRefused.

    No lock is held while the file, which is a user's, is read.
    """
    directory = here.settings.node_directory
    if directory is None or directory.owner is None:
        return False
    found = NodePorts(owner=directory.owner, ports=())
    if NODE_PORTS[here.inventory.node]:
        try:
            text = node_config.read(directory).text
            found = NodePorts(owner=directory.owner, ports=list_wide_ports(text or ""))
        except QmeshError:  # what is wrong with it is said by who writes it
            return False
    with state.lock():
        if state.node_ports.read_valid() == found:
            return False
        state.node_ports.write(found)
    if found.ports:
        report_event(
            "node-ports-open", "config.yml opens ports %s on every address", format_port_ranges(found.ports)
        )
    return True
