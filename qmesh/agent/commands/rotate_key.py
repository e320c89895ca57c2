"""`rotate-key`: a machine's new WireGuard key, known on both sides before it is used.

The control node knows the new key beside the old one. The machine takes it up with one rename, which is
durable; its first handshake with it has the control node move the tunnel address to it. Cut off at any
instant, the machine has one of two keys that the control node knows.
"""

from __future__ import annotations

import logging
import secrets
import time

import msgspec

from qmesh.agent.control_client import build_client
from qmesh.agent.converge import converge
from qmesh.agent.local import Local, linux_for, load_local
from qmesh.agent.membership import update_membership
from qmesh.agent.preconditions import check_user, lock_member
from qmesh.agent.rollback import find_active_rollback
from qmesh.errors import BadInput, EnrolmentRefused, RemovedFromMesh
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.state.directory import State
from qmesh.host.state.documents import KeyRotation
from qmesh.mesh.protocol.aead import NONCE_OCTETS, encrypt_message
from qmesh.mesh.protocol.enrolment import KEY_OFFER, KeyOffer, derive_public_key

log = logging.getLogger("qmesh")

_CONNECT_S = 5.0
_ANSWER_S = 15.0
_KNOWN_S = 30.0


class RotationResult(msgspec.Struct, frozen=True, rename={"was": "from", "now": "to"}):
    """What `rotate-key` answers: the machine's public keys. confirmed: whether the mesh has the new one."""

    machine: str
    was: str
    now: str
    confirmed: bool


def rotate_key(state: State) -> RotationResult:
    """Give this machine a new key. Raises EnrolmentRefused, with the old one in use, where it can't."""
    check_user("rotate-key")
    with lock_member(state, "rotate-key") as before:
        _refuse_rotation(state, before)
        old = before.machine.public_key
        new = derive_public_key(state.keys.ensure_next_key())
        _offer_key(before, new)
        state.key_rotation.write(KeyRotation(old, new))
        state.keys.activate_next_key()
        here = load_local(state)
        converge(here, linux_for(state, here.settings), follow_roaming=True)
    confirmed = _wait_for_key(state)
    if not confirmed:
        log.warning("the control node has not confirmed the new key yet; the agent keeps trying")
    return RotationResult(here.settings.name, old, new, confirmed)


def _refuse_rotation(state: State, here: Local) -> None:
    if find_active_rollback(state) is not None:
        raise BadInput(
            "this machine was rolled back to its state before `qmesh apply --confirm`, with the key that it"
            " had then",
            hint="run `qmesh apply` first",
        )
    if here.settings.control:
        raise BadInput(
            "the control node's key cannot change: every member knows it",
            hint="hand the role over with `qmesh handover NAME`, run `qmesh rotate-key` here, then hand it"
            " back",
        )
    if not here.settings.up:
        raise BadInput(
            "the tunnel is down, so the control node cannot be told the new key",
            hint="run `qmesh apply` first",
        )


def _offer_key(here: Local, public_key: str) -> None:
    shared = here.preshared[here.inventory.control_node.public_key]
    offer = msgspec.json.encode(KeyOffer(public_key))
    body = encrypt_message(offer, shared, about=KEY_OFFER, nonce=secrets.token_bytes(NONCE_OCTETS))
    try:
        build_client(here).offer_key(body, connect_s=_CONNECT_S, read_s=_ANSWER_S)
    except ControlNodeUnavailable as silent:
        raise EnrolmentRefused(
            f"the key stays as it is: {silent}",
            hint="check on the control node that its agent runs: `qmesh check`; then run"
            " `qmesh rotate-key` again",
        ) from None


def _wait_for_key(state: State) -> bool:
    """Wait until the membership has the key, as the control node sees the first handshake with it."""
    until = time.monotonic() + _KNOWN_S
    while time.monotonic() < until:
        try:
            update_membership(state, load_local(state), connect_s=1.0, wait_s=2)
        except RemovedFromMesh:
            raise
        except (ControlNodeUnavailable, EnrolmentRefused):  # the new key is in use, whatever is answered
            pass
        if state.key_rotation.read() is None:
            return True
        time.sleep(0.1)
    return False
