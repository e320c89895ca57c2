"""How a worker machine comes by the newest membership."""

from __future__ import annotations

import logging

from qmesh.agent.here import Here, held_membership, load
from qmesh.errors import EnrolmentRefused
from qmesh.host import files
from qmesh.host.state import State
from qmesh.mesh.enrolment import newer, read_membership

log = logging.getLogger("qmesh")

_ANSWER_S = 5.0


def refresh(state: State, here: Here, *, connect_s: float) -> bool:
    """Ask the control node for a newer membership and keep it; whether there was one.

    connect_s: seconds to wait for a connection.
    Raises Silent when the control node does not answer, EnrolmentRefused when it says no, or when
    its answer is not to be believed (E6).
    """
    from qmesh.host.channel import Client  # noqa: PLC0415 - 15 MB that a control node has no use for

    client = Client(address=here.inventory.control_node.address, port=here.inventory.service_port)
    try:
        answer = client.membership(newer_than=here.inventory.revision, connect_s=connect_s, read_s=_ANSWER_S)
    finally:
        client.close()
    if answer is None:
        return False
    settings = here.settings
    offered = read_membership(answer, settings.verification_key, mesh=settings.mesh)
    if all(machine.name != settings.name for machine in offered.machines):
        raise EnrolmentRefused("this machine is no member any more", hint="ask whoever runs the control node")
    with state.lock():
        if not newer(held_membership(state, settings), offered):
            return False
        files.write(state.membership_file, answer)
    return True


def latest(state: State) -> Here:
    """What this machine remembers, after a short try to learn what is new."""
    here = load(state)
    if here.settings.control or not here.settings.up:
        return here
    from qmesh.host.channel import Silent  # noqa: PLC0415 - as above

    try:
        return load(state) if refresh(state, here, connect_s=1.0) else here
    except (Silent, EnrolmentRefused) as error:
        log.warning("this is revision %d, as it was last known here: %s", here.inventory.revision, error)
        return here
