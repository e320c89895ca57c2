"""`join --offline` and `join --answer`: become a member where no packet reaches the control node.

In between nothing of the machine is changed: there is no tunnel for a guard to watch over, and worker
ports that were closed stay closed. What the answer will need is remembered (`request.json`), so that
the invitation, which is a secret, can be deleted once the request is written.
"""

from __future__ import annotations

import os

import msgspec

from qmesh.agent.agent_start import ensure_agent
from qmesh.agent.commands.join.redeem import Joiner
from qmesh.agent.commands.join.steps import (
    JoinOptions,
    build_joiner,
    check_join_options,
    finish_join,
    has_no_join_interface,
    is_member,
    refuse_another_mesh,
    refuse_collisions,
    refuse_control,
    state_without_tunnel,
)
from qmesh.agent.converge import apply_state
from qmesh.agent.leftovers import handle_leftovers, make_state_directory
from qmesh.agent.local import JoinResult, Local, join_result, load_local
from qmesh.agent.preconditions import check_user, lock_checked
from qmesh.errors import BadInput, EnrolmentRefused, StateUnreadable
from qmesh.host import files, wireguard
from qmesh.host.firewall import nftables
from qmesh.host.linux import Linux
from qmesh.host.state.directory import State
from qmesh.host.state.documents import SentRequest, Settings
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.protocol.enrolment import build_redemption, derive_public_key, parse_invitation
from qmesh.mesh.protocol.file_exchange import JoinAnswer, JoinRequest, decrypt_answer, parse_answer
from qmesh.mesh.protocol.membership import (
    decode_membership,
    is_newer_membership,
    refuse_unlisted_machine,
    verify_membership,
)
from qmesh.mesh.routes.detours import TunnelPlace

_CONFIRM_S = 2.0
"""Seconds: where files are carried, most often nobody answers yet."""


class JoinRequestResult(msgspec.Struct, frozen=True):
    """A request that was made. request: its one line, which holds no secret."""

    request: str
    name: str
    mesh: str
    address: str
    public_key: str


def make_request(state: State, text: str, wish: JoinOptions) -> JoinRequestResult:
    """Make this machine's key, and its request; the same again when run again.

    Raises BadInput with nothing written where a join could not succeed, or was done already.
    """
    check_user("join")
    invitation = parse_invitation(text)
    options = check_join_options(wish)
    wireguard.detect_tunnel_kind()
    with make_state_directory(state), lock_checked(state, "join"):
        refuse_another_mesh(state, invitation.mesh, invitation.name)
        if is_member(state, invitation.derived_keys.identifier):
            raise BadInput(
                f"this machine is already {invitation.name} of mesh {invitation.mesh}",
                hint="nothing to do; see it with `qmesh status`",
            )
        handle_leftovers(state, take_over=wish.take_over)
        joiner = build_joiner(state, invitation, options)
        asked = _build_sent_request(state, joiner)
        state.sent_request.write(asked)
        _remove_unfinished_join(state, joiner)
    return JoinRequestResult(
        request=JoinRequest(asked.mesh, msgspec.json.encode(asked.redemption)).text(),
        name=asked.name,
        mesh=asked.mesh,
        address=asked.address,
        public_key=joiner.public_key,
    )


def _build_sent_request(state: State, joiner: Joiner) -> SentRequest:
    """What to ask, and to remember: as before, where this was asked before."""
    invitation = joiner.invitation
    message = build_redemption(
        invitation.derived_keys,
        public_key=joiner.public_key,
        workers=len(os.sched_getaffinity(0)),
        endpoint=joiner.options.endpoint,
        announce=joiner.options.announce,
    )
    before = state.sent_request.read_valid()
    if before is not None:
        again = msgspec.structs.replace(before.redemption, workers=message.workers, proof=message.proof)
        message = before.redemption if again == message else message
    return SentRequest(
        mesh=invitation.mesh,
        name=invitation.name,
        address=invitation.address,
        endpoints=invitation.endpoints,
        verification_key=invitation.verification_key,
        **joiner.options.stored_fields(),
        redemption=message,
        preshared_key=joiner.preshared_key,
    )


def _remove_unfinished_join(state: State, joiner: Joiner) -> None:
    """Take down what a join left that was killed: this one does without."""
    if state.unfinished_redemption.read() is not None:
        linux = Linux(state, joiner.options.interface, [])
        apply_state(linux, state_without_tunnel(joiner, linux))
        state.unfinished_redemption.remove()


def accept_answer(state: State, text: str, *, apply: bool) -> JoinResult:
    """Become a member by the control node's answer; for a member, take a membership that is newer.

    Raises BadInput or EnrolmentRefused, with nothing changed, for all but an answer to this machine.
    """
    check_user("join")
    answer = parse_answer(text)
    nftables.require_nftables()
    with lock_checked(state, "join --answer"):
        asked = state.sent_request.read()
        if is_member(state, None if asked is None else asked.redemption.identifier):
            _take_newer_membership(state, load_local(state), answer)
        else:
            _become_member(state, answer)
        here = finish_join(state, load_local(state), apply=apply, patience_s=_CONFIRM_S)
    # As in `join`: who only makes a request has no use for it either.
    from qmesh.agent.commands.join.write_config import write_config  # noqa: PLC0415 - see above

    write_config(state, here)
    if apply:
        ensure_agent(state)
    return join_result(here)


def _take_newer_membership(state: State, here: Local, answer: JoinAnswer) -> None:
    """Run again after success this changes nothing, and never does an older membership (E6)."""
    settings = here.settings
    refuse_control(here)
    octets = decrypt_answer(answer, here.preshared[here.inventory.control_node.public_key])
    offered = verify_membership(decode_membership(octets), settings.verification_key, mesh=settings.mesh)
    refuse_unlisted_machine(offered, settings.name, here.machine.address, here.machine.public_key)
    if is_newer_membership(here.inventory, offered):
        files.write(state.membership_file, octets)


def _become_member(state: State, answer: JoinAnswer) -> None:
    asked = state.sent_request.read()
    if asked is None:
        raise BadInput(
            "no request of this machine waits for an answer",
            hint="run `qmesh join --offline` with the invitation: it writes a request, the same as before"
            " if there was one",
        )
    if answer.identifier != asked.redemption.identifier:
        raise EnrolmentRefused(
            "this answer is to another request",
            hint="run `qmesh admit` with the request that was written here last, and use its answer",
        )
    octets = decrypt_answer(answer, asked.preshared_key)
    offered = _verify_stored(octets, asked)
    refuse_another_mesh(state, asked.mesh, asked.name)
    refuse_unlisted_machine(offered, asked.name, asked.address, asked.redemption.public_key)
    _refuse_another_key(state, asked)
    _refuse_older_membership(state, asked, offered)
    if state.unfinished_redemption.read() is None and has_no_join_interface(state, set(), asked.interface):
        refuse_collisions(
            state,
            TunnelPlace(asked.interface, offered.network, asked.address),
            offered.control_node.address,
            listen_port=asked.listen_port,
        )
    settings = _build_settings(state, asked, offered)
    state.save_membership(asked.redemption.public_key, asked.preshared_key, octets, settings)


def _refuse_another_key(state: State, asked: SentRequest) -> None:
    keys = (state.keys.read_private_key(), state.keys.read_joining_key())
    if all(key is None or derive_public_key(key) != asked.redemption.public_key for key in keys):
        raise StateUnreadable(
            f"{state.keys.private_file} is not the key that the request was made with",
            hint="restore that file, or use a new invitation (for a member: `qmesh invite NAME --replace`)",
        )


def _refuse_older_membership(state: State, asked: SentRequest, offered: Inventory) -> None:
    """Refuse what is older than a membership that is held still, though this machine lost another file."""
    octets = files.read(state.membership_file)
    try:
        held = None if octets is None else _verify_stored(octets, asked)
    except EnrolmentRefused:  # what is not to be believed is no reason
        return
    if held is not None and is_newer_membership(offered, held):
        raise EnrolmentRefused(
            f"this answer is of revision {offered.revision}, but this machine has revision {held.revision}"
            " already",
            hint="run `qmesh admit` with the same request again, and use its answer",
        )


def _verify_stored(octets: bytes, asked: SentRequest) -> Inventory:
    return verify_membership(decode_membership(octets), asked.verification_key, mesh=asked.mesh)


def _build_settings(state: State, asked: SentRequest, offered: Inventory) -> Settings:
    endpoints = dict.fromkeys((*offered.control_node.endpoints, *asked.endpoints))
    return Settings(
        mesh=asked.mesh,
        name=asked.name,
        control=False,
        interface=asked.interface,
        listen_port=asked.listen_port,
        verification_key=asked.verification_key,
        control_endpoints=tuple(endpoints),
        config_directory=asked.config_directory,
        config_owner=asked.config_owner,
        up=False,
        guarded=bool(state.list_closed_ports()),
        invitation=asked.redemption.identifier,
    )
