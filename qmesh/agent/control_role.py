"""How the control role passes from one machine to another, seen from each of them.

All follow one signed membership after the other. In the first the successor is named: members make it a
second peer, it fetches the registry and the signing key and shakes hands with each of them. In the next it
is the control node: members have no other peer any more, it serves them, and the one before it is a member
once it was answered there. Every step is found again from files, so that each may be cut off.
"""

from __future__ import annotations

import secrets
import time

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmesh.agent.control_client import build_client
from qmesh.agent.local import Local, load_local, read_held_membership
from qmesh.errors import JOIN_ANEW, EnrolmentRefused, QmeshError, StateUnreadable
from qmesh.host import files, wireguard
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.log.events import report_event
from qmesh.host.registry_access import open_registry, open_registry_image, write_registry
from qmesh.host.state.directory import State
from qmesh.host.state.documents import SuccessorKey
from qmesh.mesh.endpoints import find_stale_keys
from qmesh.mesh.inventory import Inventory, list_members
from qmesh.mesh.links.retirement import RetiredKeys, sign_retirement
from qmesh.mesh.protocol.aead import NONCE_OCTETS, decrypt_message, encrypt_message
from qmesh.mesh.protocol.handover import (
    ESTATE,
    MOST_SILENT,
    PROGRESS,
    HandoverData,
    HandoverProgress,
    decode_handover_data,
    derive_successor_preshared_key,
)
from qmesh.mesh.protocol.membership import (
    SignedMembership,
    apply_update,
    decode_membership,
    encode_membership,
    read_update,
    sign_membership,
    verify_membership,
)
from qmesh.mesh.values import Secret, SecretStruct

_ANSWER_S = 10.0
_CONNECT_S = 2.0
_SAME_QMESH = (
    "install the same version of qmesh on both machines;"
    " to cancel, run `qmesh handover --cancel` on the control node"
)


def prepare_membership_change(state: State, held: Inventory, coming: Inventory) -> None:
    """Have ready what a worker machine needs for a newer membership, before it holds it. Holds the lock."""
    settings = state.settings()
    _promote_successor_key(state, held)
    is_another = coming.control != held.control
    if is_another:
        state.save_settings(msgspec.structs.replace(settings, control_endpoints=()))
    hub = coming.control if is_another else coming.successor
    shared = state.keys.read_preshared_key()
    if hub is None or hub == settings.name or shared is None:
        state.successor_key.remove()
    else:
        key = coming.machine(hub).public_key
        state.successor_key.write(SuccessorKey(key, derive_successor_preshared_key(key, shared)))


def apply_control_role(state: State, held: Inventory) -> None:
    """Be what the membership that is held makes of this machine; from any point on. Holds the lock."""
    settings = state.settings()
    if settings.control:
        _remove_worker_files(state)
    elif held.control == settings.name:
        _become_control_node(state, held)
    else:
        _promote_successor_key(state, held)
        if held.successor != settings.name:
            state.save_handover_payload(None)
        state.remove_control_files()


def is_role_unchanged(state: State, here: Local) -> bool:
    """Whether this machine is the control node, or is not, as it was then; also where it cannot be told.

    Where that has changed meanwhile, files that are missing are no trouble of the machine's.
    """
    try:
        return state.settings().control == here.settings.control
    except QmeshError:
        return True


def resume_handover(state: State) -> None:
    """End what was cut off, if anything was. Holds the lock."""
    settings = state.settings()
    rests = [state.estate_file]
    if not settings.control:
        rests += [state.keys.signing_file, state.registry_file]
    if all(files.read_mode(path) is None for path in rests):
        return
    if settings.control:
        _remove_worker_files(state)
    else:
        apply_control_role(state, read_held_membership(state, settings))


def _promote_successor_key(state: State, held: Inventory) -> None:
    """Promote the successor's preshared key once the successor is the control node."""
    coming = state.successor_key.read()
    if coming is not None and coming.public_key == held.control_node.public_key:
        state.keys.save_preshared_key(coming.preshared_key)


def _become_control_node(state: State, held: Inventory) -> None:
    """Be the control node. The settings, which make this machine it, come last."""
    handover_data = state.handover_payload()
    if handover_data is None:
        raise StateUnreadable(
            f"this machine is the control node now, and {state.estate_file} is missing",
            hint="restore that file, or run `qmesh restore` with a backup of the control node before this"
            " one",
        )
    with open_registry_image(handover_data.registry) as image:
        mesh = image.promote_successor(now=int(time.time()))
        registry = image.serialize()
    if not _is_held_mesh(mesh, handover_data, state):
        raise StateUnreadable(
            f"{state.estate_file} is not of the mesh at revision {held.revision}",
            hint="the control node before this one still has everything: keep that machine, and report this",
        )
    write_registry(state.registry_file, registry)
    state.keys.save_signing_key(handover_data.signing_key)
    settings = state.settings()
    state.save_settings(msgspec.structs.replace(settings, control=True, control_endpoints=()))
    _remove_worker_files(state)
    report_event("handed-over", "this machine is the control node now")


def _remove_worker_files(state: State) -> None:
    """Have nothing any more that only a worker machine has, or who is about to be the control node."""
    files.remove(state.membership_file)
    files.remove(state.keys.preshared_file)
    state.successor_key.remove()
    state.save_handover_payload(None)


def report_handover_progress(state: State, here: Local) -> bool:
    """Tell the control node how far this successor is; whether it was given what it lacks.

    Raises Silent, or EnrolmentRefused.
    """
    if state.rollback_record.read() is not None:
        return False  # what is put back here must not be a control node
    handover_data = state.handover_payload()
    counters = wireguard.find_backend(here.settings.interface).read(here.settings.interface).counters
    heard = counters.keys() - find_stale_keys(counters, time.time())
    hubs = {here.inventory.control, here.inventory.successor}
    silent = tuple(
        machine.address
        for machine in list_members(here.inventory)
        if machine.name not in hubs and machine.public_key not in heard
    )
    said = HandoverProgress(
        holds=0 if handover_data is None else handover_data.event, silent=silent[:MOST_SILENT]
    )
    shared = here.preshared[here.inventory.control_node.public_key]
    body = encrypt_message(
        msgspec.json.encode(said), shared, about=PROGRESS, nonce=secrets.token_bytes(NONCE_OCTETS)
    )
    answer = build_client(here).report_handover(body, connect_s=_CONNECT_S, read_s=_ANSWER_S)
    if answer is None:
        return False
    octets = decrypt_message(answer, shared, about=ESTATE)
    with state.lock():
        _refuse_unfit_handover(
            decode_handover_data(octets), read_held_membership(state, state.settings()), state
        )
        state.save_handover_payload(octets)
    return True


def _refuse_unfit_handover(handover_data: HandoverData, held: Inventory, state: State) -> None:
    """Raise EnrolmentRefused for the handover data that this machine could not take over by, or not now.

    Of a newer qmesh, or one that writes the membership otherwise: once the role had passed, nobody had it.
    """
    try:
        with open_registry_image(handover_data.registry) as image:
            mesh = image.inventory()
    except StateUnreadable as error:
        raise EnrolmentRefused(error.message, hint=_SAME_QMESH) from None
    if mesh.revision != held.revision or not _is_held_mesh(mesh, handover_data, state):
        raise EnrolmentRefused(
            f"the handover data is not of the mesh at revision {held.revision}", hint=_SAME_QMESH
        )


def _is_held_mesh(mesh: Inventory, handover_data: HandoverData, state: State) -> bool:
    """Whether a mesh, signed with the handover data's key, is the very membership that is held."""
    octets = files.read(state.membership_file)
    signs = Ed25519PrivateKey.from_private_bytes(handover_data.signing_key)
    return octets is not None and sign_membership(mesh, signs) == decode_membership(octets)


class NewControlAnswer(SecretStruct, frozen=True):
    """What the new control node answered to the one before. preshared_key: of both from now on."""

    control: str
    signed: SignedMembership
    preshared_key: Secret


def ask_new_control_node(state: State, here: Local) -> NewControlAnswer | None:
    """Ask the new control node, where this was it, whether it is; None while it does not say so.

    It may take as long as that machine likes: nobody else's thread asks this.
    """
    with open_registry(state.registry_file) as registry:
        mesh, keys = registry.inventory(), registry.preshared_keys()
    try:
        answer = build_client(here, here.inventory.machine(mesh.control)).poll_membership(
            newer_than=mesh.revision - 1, connect_s=_CONNECT_S, read_s=_ANSWER_S, whole=True
        )
        if answer is None:
            return None
        signed = apply_update(read_update(answer), None)
        known = verify_membership(signed, here.settings.verification_key, mesh=mesh.mesh)
    except ControlNodeUnavailable:
        return None
    except EnrolmentRefused as error:
        report_event("handover-waits", "%s is not the control node yet: %s", mesh.control, error.message)
        return None
    if known.control == here.settings.name:
        return None
    shared = keys.get(mesh.control_node.public_key)
    if shared is None:
        raise StateUnreadable(f"{state.registry_file} has no preshared key of {mesh.control}", hint=JOIN_ANEW)
    return NewControlAnswer(mesh.control, signed, shared)


def become_member(state: State, answered: NewControlAnswer) -> None:
    """Be a member, now that the new control node has answered. Raises Busy, and what writing raises."""
    with state.lock():
        settings = state.settings()
        if settings.control:
            files.write(state.membership_file, encode_membership(answered.signed))
            state.keys.save_preshared_key(answered.preshared_key)
            _sign_retired_keys(state, settings.mesh)
            # No invitation made it a member: one for its place is to be redeemed.
            member = msgspec.structs.replace(settings, control=False, control_endpoints=(), invitation="")
            state.save_settings(member)
            state.remove_control_files()
            report_event(
                "handed-over", "%s is the control node now; this machine is a member", answered.control
            )


def _sign_retired_keys(state: State, mesh: str) -> None:
    """Keep what is known of keys that are no machine's, signed: who has one calls this machine still."""
    known = load_local(state).retired
    if known:
        signing_key = state.keys.read_signing_key()
        signed = tuple(sign_retirement(each, mesh, signing_key) for each in known)
        state.retired_keys.write(RetiredKeys(signed))
