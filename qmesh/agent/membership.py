"""How a worker machine comes by the newest membership."""

from __future__ import annotations

import contextlib
import logging
import secrets
from typing import TYPE_CHECKING

import msgspec

from qmesh.agent import control_role
from qmesh.agent.local import Here, held_membership, load
from qmesh.errors import EnrolmentRefused, Removed
from qmesh.host import files
from qmesh.host.api.messages import Silent
from qmesh.host.state.directory import State
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.model import Machine
from qmesh.mesh.protocol.aead import NONCE_OCTETS
from qmesh.mesh.protocol.membership import (
    SignedMembership,
    believed,
    newer,
    read_stored,
    read_update,
    sealed_held,
    stored,
    updated,
)

if TYPE_CHECKING:
    from qmesh.host.api.client import Client

log = logging.getLogger("qmesh")

_ANSWER_S = 5.0


def refresh(state: State, here: Here, *, connect_s: float, wait_s: int = 0) -> bool:
    """Ask the control node for a newer membership and keep it; whether there was one.

    connect_s: seconds to wait for a connection.
    wait_s: seconds to wait for a newer one to come.
    Raises Silent when the control node does not answer, EnrolmentRefused when it says no, or when
    its answer is not to be believed (E6); Removed when it is, and this machine is not in it.
    """
    from qmesh.host.api.client import Client  # noqa: PLC0415 - a control node has no use for it

    offered = None
    own = here.settings.name
    for hub in (machine for machine in here.inventory.hubs if machine.name != own):
        client = Client(address=hub.address, port=here.inventory.service_port)
        try:
            offered = _asked(client, state, here, hub, connect_s=connect_s, wait_s=wait_s)
            break
        except Silent:  # the next control node may be it already
            if here.inventory.successor in {None, own, hub.name}:
                raise
    if offered is None:
        return False
    with state.lock():
        return take_up(state, *offered)


def take_up(state: State, signed: SignedMembership, inventory: Inventory) -> bool:
    """Hold a membership that is believed, if it is newer; whether it is. Holds the lock.

    Raises Removed where this machine is not in it.
    """
    settings = state.settings()
    if settings.control:
        return False
    held = held_membership(state, settings)
    if not newer(held, inventory):
        return False
    if all(machine.name != settings.name for machine in inventory.machines):
        _leave(state)
        raise Removed
    control_role.prepare(state, held, inventory)
    files.write(state.membership_file, stored(signed))
    control_role.follow(state, inventory)
    rotation = state.rotation()
    if rotation is not None and inventory.machine(settings.name).public_key == rotation.new:
        state.save_rotation(None)
    return True


def _leave(state: State) -> None:
    """Remember that this machine is removed. The agent takes the tunnel down; the guard stays."""
    state.save_estate(None)
    state.save_next_shared(None)
    settings = state.settings()
    state.save_settings(msgspec.structs.replace(settings, up=False, removed=True))


def _asked(
    client: Client, state: State, here: Here, hub: Machine, *, connect_s: float, wait_s: int
) -> tuple[SignedMembership, Inventory] | None:
    """The newer membership, believed: by a difference, or as a whole where that leads to nothing."""
    held = files.read(state.membership_file)
    revision = here.inventory.revision
    shared = here.preshared.get(hub.public_key)
    answer = client.membership(
        newer_than=revision,
        connect_s=connect_s,
        read_s=_ANSWER_S,
        wait_s=wait_s,
        holds=b""
        if shared is None
        else sealed_held(revision, shared, nonce=secrets.token_bytes(NONCE_OCTETS)),
    )
    if answer is None:
        return None
    update = read_update(answer)
    if update.base is not None and held is not None:
        with contextlib.suppress(EnrolmentRefused):
            return _believed(updated(update, read_stored(held)), here)
        answer = client.membership(newer_than=revision, connect_s=connect_s, read_s=_ANSWER_S, whole=True)
        if answer is None:
            return None
        update = read_update(answer)
    return _believed(updated(update, None), here)


def _believed(signed: SignedMembership, here: Here) -> tuple[SignedMembership, Inventory]:
    return signed, believed(signed, here.settings.verification_key, mesh=here.settings.mesh)


def latest(state: State) -> Here:
    """What this machine remembers, after a short try to learn what is new."""
    here = load(state)
    if here.settings.control or not here.settings.up:
        return here
    try:
        return load(state) if refresh(state, here, connect_s=1.0) else here
    except Removed as error:
        log.warning("%s", error.message)
        return load(state)
    except (Silent, EnrolmentRefused) as error:
        log.warning("this is revision %d, as it was last known here: %s", here.inventory.revision, error)
        return here
