"""How the control role passes from one machine to another, seen from each of them.

All follow one signed membership after the other. In the first the successor is named: members make it a
second peer, it fetches the registry and the signing key and shakes hands with each of them. In the next it
is the control node: members have no other peer any more, it serves them, and the one before it is a member
once it was answered there. Every step is found again from files, so that each may be cut off.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmesh.agent.local import Here, held_membership, stale
from qmesh.errors import JOIN_ANEW, EnrolmentRefused, StateUnreadable
from qmesh.host import files, wireguard
from qmesh.host.api.messages import Silent
from qmesh.host.registry import Registry, RegistryImage
from qmesh.host.registry.image import put
from qmesh.host.state.directory import State
from qmesh.host.state.documents import NextShared
from qmesh.mesh.inventory import Inventory, members
from qmesh.mesh.model import Secret, Unshown
from qmesh.mesh.protocol.aead import NONCE_OCTETS, seal, unseal
from qmesh.mesh.protocol.handover import (
    ESTATE,
    MOST_SILENT,
    PROGRESS,
    Estate,
    Progress,
    preshared_key_with,
    unpacked,
)
from qmesh.mesh.protocol.membership import (
    SignedMembership,
    believed,
    read_stored,
    read_update,
    sign_membership,
    stored,
    updated,
)

if TYPE_CHECKING:
    from qmesh.host.api.client import Client

log = logging.getLogger("qmesh")

_ANSWER_S = 10.0
_CONNECT_S = 2.0
_SAME_QMESH = "use the same qmesh on both machines; `qmesh handover --cancel` on the control node gives it up"


def prepare(state: State, held: Inventory, coming: Inventory) -> None:
    """Have ready what a worker machine needs for a newer membership, before it holds it. Holds the lock."""
    settings = state.settings()
    _settle(state, held)
    is_another = coming.control != held.control
    if is_another:
        state.save_settings(msgspec.structs.replace(settings, control_endpoints=()))
    hub = coming.control if is_another else coming.successor
    shared = state.preshared_key()
    if hub is None or hub == settings.name or shared is None:
        state.save_next_shared(None)
    else:
        key = coming.machine(hub).public_key
        state.save_next_shared(NextShared(key, preshared_key_with(key, shared)))


def follow(state: State, held: Inventory) -> None:
    """Be what the membership that is held makes of this machine; from any point on. Holds the lock."""
    settings = state.settings()
    if settings.control:
        _clear(state)
    elif held.control == settings.name:
        _take_over(state, held)
    else:
        _settle(state, held)
        if held.successor != settings.name:
            state.save_estate(None)
        state.forget_mesh()


def go_on(state: State) -> None:
    """End what was cut off, if anything was. Holds the lock."""
    settings = state.settings()
    rests = [state.estate_file]
    if not settings.control:
        rests += [state.signing_key_file, state.registry_file]
    if all(files.mode_of(path) is None for path in rests):
        return
    if settings.control:
        _clear(state)
    else:
        follow(state, held_membership(state, settings))


def _settle(state: State, held: Inventory) -> None:
    """What was shared with the next control node is, once it is the control node, what is shared."""
    coming = state.next_shared()
    if coming is not None and coming.public_key == held.control_node.public_key:
        state.save_preshared_key(coming.preshared_key)


def _take_over(state: State, held: Inventory) -> None:
    """Be the control node. The settings, which make this machine it, come last."""
    estate = state.estate()
    if estate is None:
        raise StateUnreadable(
            f"this machine is the control node now, and {state.estate_file} is missing",
            hint="restore that file; or `qmesh restore` a backup of the machine that was it before",
        )
    with RegistryImage(estate.registry) as image:
        mesh = image.inherited(now=int(time.time()))
        registry = image.octets()
    if not _is_of(mesh, estate, state):
        raise StateUnreadable(
            f"what {state.estate_file} holds is not the mesh of revision {held.revision}",
            hint="the machine that was the control node before has all still; keep it, and report this",
        )
    put(state.registry_file, registry)
    state.save_signing_key(estate.signing_key)
    settings = state.settings()
    state.save_settings(msgspec.structs.replace(settings, control=True, control_endpoints=()))
    _clear(state)
    log.info("this machine is the control node now")


def _clear(state: State) -> None:
    """Have nothing any more that only a worker machine has, or who is about to be the control node."""
    files.remove(state.membership_file)
    files.remove(state.preshared_key_file)
    state.save_next_shared(None)
    state.save_estate(None)


def say_progress(state: State, here: Here) -> bool:
    """Tell the control node how far this successor is; whether it was given what it lacks.

    Raises Silent, or EnrolmentRefused.
    """
    if state.undoing() is not None:
        return False  # what is put back here must not be a control node
    estate = state.estate()
    counters = wireguard.backend_for(here.settings.interface).read(here.settings.interface).counters
    heard = counters.keys() - stale(counters)
    hubs = {here.inventory.control, here.inventory.successor}
    silent = tuple(
        machine.address
        for machine in members(here.inventory)
        if machine.name not in hubs and machine.public_key not in heard
    )
    said = Progress(holds=0 if estate is None else estate.event, silent=silent[:MOST_SILENT])
    shared = here.preshared[here.inventory.control_node.public_key]
    body = seal(msgspec.json.encode(said), shared, about=PROGRESS, nonce=secrets.token_bytes(NONCE_OCTETS))
    answer = _client(here, here.inventory.control).succeed(body, connect_s=_CONNECT_S, read_s=_ANSWER_S)
    if answer is None:
        return False
    octets = unseal(answer, shared, about=ESTATE)
    with state.lock():
        _refuse_unfit(unpacked(octets), held_membership(state, state.settings()), state)
        state.save_estate(octets)
    return True


def _refuse_unfit(estate: Estate, held: Inventory, state: State) -> None:
    """Raise EnrolmentRefused for an estate that this machine could not take over by, or not now.

    Of a newer qmesh, or one that writes the membership otherwise: once the role had passed, nobody had it.
    """
    try:
        with RegistryImage(estate.registry) as image:
            mesh = image.inventory()
    except StateUnreadable as error:
        raise EnrolmentRefused(error.message, hint=_SAME_QMESH) from None
    if mesh.revision != held.revision or not _is_of(mesh, estate, state):
        raise EnrolmentRefused(
            f"what was given for the handover is not the mesh of revision {held.revision}", hint=_SAME_QMESH
        )


def _is_of(mesh: Inventory, estate: Estate, state: State) -> bool:
    """Whether a mesh, signed with the estate's key, is the very membership that is held."""
    octets = files.read(state.membership_file)
    signs = Ed25519PrivateKey.from_private_bytes(estate.signing_key)
    return octets is not None and sign_membership(mesh, signs) == read_stored(octets)


class Answered(Unshown, frozen=True):
    """What the new control node answered to the one before. preshared_key: of both from now on."""

    control: str
    signed: SignedMembership
    preshared_key: Secret


def ask_next(state: State, here: Here) -> Answered | None:
    """Ask the new control node, where this was it, whether it is; None while it does not say so.

    It may take as long as that machine likes: nobody else's thread asks this.
    """
    with Registry(state.registry_file) as registry:
        mesh, keys = registry.inventory(), registry.preshared_keys()
    try:
        answer = _client(here, mesh.control).membership(
            newer_than=mesh.revision - 1, connect_s=_CONNECT_S, read_s=_ANSWER_S, whole=True
        )
        if answer is None:
            return None
        signed = updated(read_update(answer), None)
        known = believed(signed, here.settings.verification_key, mesh=mesh.mesh)
    except Silent:
        return None
    except EnrolmentRefused as error:
        log.warning("%s is not the control node yet: %s", mesh.control, error.message)
        return None
    if known.control == here.settings.name:
        return None
    shared = keys.get(mesh.control_node.public_key)
    if shared is None:
        raise StateUnreadable(f"{state.registry_file} has no preshared key of {mesh.control}", hint=JOIN_ANEW)
    return Answered(mesh.control, signed, shared)


def retire(state: State, answered: Answered) -> None:
    """Be a member, now that the new control node has answered. Raises Busy, and what writing raises."""
    with state.lock():
        settings = state.settings()
        if settings.control:
            files.write(state.membership_file, stored(answered.signed))
            state.save_preshared_key(answered.preshared_key)
            # No invitation made it a member: one for its place is to be redeemed.
            member = msgspec.structs.replace(settings, control=False, control_endpoints=(), invitation="")
            state.save_settings(member)
            state.forget_mesh()
            log.info("%s is the control node now, and this machine a member", answered.control)


def _client(here: Here, name: str) -> Client:
    from qmesh.host.api.client import Client  # noqa: PLC0415 - what never hands over has no use for it

    return Client(address=here.inventory.machine(name).address, port=here.inventory.service_port)
