"""`admit`: redeem a machine's request that came as a file, and answer it with a file.

The service asks for two things: the invitation's tunnel address as the sender, which WireGuard vouches
for by the throwaway keys, and the redemption's proof. Here there is no sender. Nothing is lost by
that: keys and proof are derived from one secret, so whoever has one has the other, and the proof binds
all that is believed of a redemption: the invitation, the machine's key, its workers, its endpoint.
"""

from __future__ import annotations

import logging
import secrets
import time

import msgspec

from qmesh.agent.local import load_local
from qmesh.agent.preconditions import check_user, lock_member
from qmesh.agent.rollback import follow_mesh
from qmesh.errors import BadInput, EnrolmentRefused
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.system import agent_notify
from qmesh.host.system.sudo_user import find_invoking_user
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Cores, Machine
from qmesh.mesh.protocol.aead import NONCE_OCTETS
from qmesh.mesh.protocol.enrolment import Redemption, read_redemption
from qmesh.mesh.protocol.file_exchange import encrypt_answer, parse_request
from qmesh.mesh.protocol.membership import encode_membership, sign_membership

log = logging.getLogger("qmesh")


class AdmitResult(msgspec.Struct, frozen=True):
    """What `admit` answers. answer: one line, which only that machine can read; cores: None while paused."""

    answer: str
    name: str
    address: str
    public_key: str
    cores: Cores | None
    revision: int


def admit(state: State, text: str) -> AdmitResult:
    """Make the machine a member that made this request, or find that it is one.

    Raises BadInput for what is no request, EnrolmentRefused for one that is not to be granted.
    """
    check_user("admit")
    request = parse_request(text)
    message = read_redemption(request.redemption)
    with lock_member(state, "admit") as control:
        if control.inventory.successor is not None:
            raise BadInput(
                f"the control role is being handed over to {control.inventory.successor}",
                hint="wait until `qmesh status` shows the new control node; the request may need a new"
                " invitation then",
            )
        if request.mesh != control.inventory.mesh:
            raise EnrolmentRefused(
                f"this request is for mesh {request.mesh}, but this is mesh {control.inventory.mesh}",
                hint="run `qmesh admit` on the control node that made the invitation",
            )
        with Registry(state.registry_file, user=find_invoking_user()) as registry:
            inventory = registry.redeem(message, sender=None, now=int(time.time()))
        member = _find_member(inventory, message)
        agent_notify.notify_agent(state.directory, wait_s=agent_notify.PASS_ON_S)
        follow_mesh(state)
        here = load_local(state)
        if not here.settings.up:
            log.info(
                "the tunnel is down here: run `qmesh apply`, or the new machine reaches no other machine"
            )
        answer = encrypt_answer(
            encode_membership(sign_membership(here.inventory, state.keys.read_signing_key())),
            identifier=message.identifier,
            preshared=here.preshared[member.public_key],
            nonce=secrets.token_bytes(NONCE_OCTETS),
        )
    return AdmitResult(
        answer=answer.text(),
        name=member.name,
        address=member.address,
        public_key=member.public_key,
        cores=here.inventory.cores.get(member.name),
        revision=here.inventory.revision,
    )


def _find_member(inventory: Inventory, message: Redemption) -> Machine:
    """The machine of a request that is redeemed."""
    return next(each for each in inventory.machines if each.public_key == message.public_key)
