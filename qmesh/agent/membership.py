"""How a worker machine comes by the newest membership."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from qmesh.agent import control_role
from qmesh.agent.control_client import NOTHING, build_client
from qmesh.agent.local import Local, load_local, read_held_membership
from qmesh.agent.machine_facts.teller import FactsTeller
from qmesh.errors import Busy, ContradictedByMember, EnrolmentRefused, RemovedFromMesh
from qmesh.host import files
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.log.events import report_event
from qmesh.host.state.directory import State
from qmesh.host.state.lock import READING_S
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine
from qmesh.mesh.protocol.aead import NONCE_OCTETS
from qmesh.mesh.protocol.member_note import MemberNote
from qmesh.mesh.protocol.membership import (
    SignedMembership,
    apply_update,
    decode_membership,
    encode_membership,
    encrypt_held_revision,
    is_newer_membership,
    read_update,
    verify_membership,
)
from qmesh.mesh.protocol.membership_conflict import (
    MembershipContent,
    build_proof,
    is_contradicting,
    read_membership_content,
)

if TYPE_CHECKING:
    from qmesh.host.api.client import Client

_ANSWER_S = 5.0


def update_membership(
    state: State,
    here: Local,
    *,
    connect_s: float,
    wait_s: int = 0,
    key_reports: Mapping[str, bytes] | None = None,
    note: MemberNote = NOTHING,
    teller: FactsTeller | None = None,
    answer_request: Callable[[str], None] | None = None,
) -> bool:
    """Ask the control node for a newer membership and keep it; whether there was one.

    connect_s: seconds to wait for a connection.
    wait_s: seconds to wait for a newer one to come.
    key_reports: what is reported of the node's keys, by the control node's public key.
    note: what this machine notes of itself. teller: what tells its facts; without one none are told.
    answer_request: called where the control node asks for this machine's findings, with its request; without
        it, it is not asked.
    Raises ControlNodeUnavailable when the control node does not answer, EnrolmentRefused when it says no,
    or when its answer is not to be believed (E6); RemovedFromMesh when it is, and this machine is not in it.
    """
    offered = None
    own = here.settings.name
    for hub in (machine for machine in here.inventory.hubs if machine.name != own):
        facts = b"" if teller is None else teller.build_report(here, hub)
        client = build_client(here, hub, can_report=answer_request is not None, note=note, facts=facts)
        try:
            offered = _fetch_membership(
                client,
                state,
                here,
                hub,
                connect_s=connect_s,
                wait_s=wait_s,
                key_report=(key_reports or {}).get(hub.public_key, b""),
                answer_request=answer_request,
            )
            break
        except ControlNodeUnavailable:  # the next control node may be it already
            if here.inventory.successor in {None, own, hub.name}:
                raise
    if offered is None:
        return False
    with state.lock():
        return adopt_membership(state, *offered)


def adopt_membership(state: State, signed: SignedMembership, inventory: Inventory) -> bool:
    """Hold a membership that is believed, if it is newer; whether it is. Holds the lock.

    Raises RemovedFromMesh where this machine is not in it.
    """
    settings = state.settings()
    if settings.control:
        return False
    held = read_held_membership(state, settings)
    if not is_newer_membership(held, inventory):
        return False
    if all(machine.name != settings.name for machine in inventory.machines):
        mark_removed(state)
        raise RemovedFromMesh
    control_role.prepare_membership_change(state, held, inventory)
    files.write(state.membership_file, encode_membership(signed))
    control_role.apply_control_role(state, inventory)
    rotation = state.key_rotation.read()
    if rotation is not None and inventory.machine(settings.name).public_key == rotation.new:
        state.key_rotation.remove()
    return True


def mark_removed(state: State) -> None:
    """Remember that this machine is removed. Holds the lock.

    The agent takes the tunnel down; the guard stays.
    """
    state.save_handover_payload(None)
    state.successor_key.remove()
    settings = state.settings()
    state.save_settings(msgspec.structs.replace(settings, up=False, removed=True))


def _fetch_membership(
    client: Client,
    state: State,
    here: Local,
    hub: Machine,
    *,
    connect_s: float,
    wait_s: int,
    key_report: bytes,
    answer_request: Callable[[str], None] | None,
) -> tuple[SignedMembership, Inventory] | None:
    """The newer membership, believed: by a difference, or as a whole where that leads to nothing."""
    octets = files.read(state.membership_file)
    held = None if octets is None else decode_membership(octets)
    revision = here.inventory.revision
    shared = here.preshared.get(hub.public_key)
    content = None if held is None else read_membership_content(held)
    if content is not None and content.revision != revision:  # a command has written a newer one just now
        content = None
    answer = client.poll_membership(
        newer_than=revision,
        connect_s=connect_s,
        read_s=_ANSWER_S,
        wait_s=wait_s,
        key_report=key_report,
        digest="" if content is None else content.digest,
        holds=b""
        if shared is None
        else encrypt_held_revision(revision, shared, nonce=secrets.token_bytes(NONCE_OCTETS)),
    )
    if answer_request is not None and client.asked_findings:
        answer_request(client.asked_findings)
    if answer is None:
        return None
    update = read_update(answer)
    if update.base is not None and held is not None:
        with contextlib.suppress(EnrolmentRefused):
            return _verify_signed(apply_update(update, held), here)
        answer = client.poll_membership(
            newer_than=revision, connect_s=connect_s, read_s=_ANSWER_S, whole=True
        )
        if answer is None:
            return None
        update = read_update(answer)
    signed, inventory = _verify_signed(apply_update(update, None), here)
    if (
        held is not None
        and content is not None
        and is_contradicting(content, read_membership_content(signed))
    ):
        _show_held_membership(client, here, held, content, connect_s=connect_s)
        return None
    return signed, inventory


def _show_held_membership(
    client: Client, here: Local, held: SignedMembership, content: MembershipContent, *, connect_s: float
) -> None:
    """Prove to the control node that it is an older copy of itself, unless it has only not looked yet.

    Raises ContradictedByMember.
    """
    # Asked without waiting, it looks into its registry first.
    answer = client.poll_membership(
        newer_than=content.revision, connect_s=connect_s, read_s=_ANSWER_S, digest=content.digest
    )
    if answer is None:
        return
    update = read_update(answer)
    if update.base is not None:
        return  # it has a newer one by now, which the next question brings
    signed, inventory = _verify_signed(apply_update(update, None), here)
    if is_contradicting(content, read_membership_content(signed)):
        with contextlib.suppress(ControlNodeUnavailable, EnrolmentRefused):  # then the next time
            client.report_conflict(
                build_proof(held, signed, inventory.revision), connect_s=connect_s, read_s=_ANSWER_S
            )
        raise ContradictedByMember(content.revision, inventory.revision)


def _verify_signed(signed: SignedMembership, here: Local) -> tuple[SignedMembership, Inventory]:
    return signed, verify_membership(signed, here.settings.verification_key, mesh=here.settings.mesh)


def load_latest(state: State) -> Local:
    """What this machine remembers, after a short try to learn what is new."""
    here = load_local(state)
    if here.settings.control or not here.settings.up:
        return here
    try:
        patient = State(state.directory, patience_s=READING_S)
        return load_local(state) if update_membership(patient, here, connect_s=1.0) else here
    except RemovedFromMesh as error:
        report_event("removed", "%s", error.message)
        return load_local(state)
    except (Busy, ControlNodeUnavailable, EnrolmentRefused) as error:
        report_event(
            "membership-old",
            "this is revision %d, the last one that reached this machine: %s",
            here.inventory.revision,
            error,
        )
        return here
