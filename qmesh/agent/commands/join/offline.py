"""`join --offline` and `join --answer`: become a member where no packet reaches the control node.

In between nothing of the machine is changed: there is no tunnel for a guard to watch over, and worker
ports that were closed stay closed. What the answer will need is remembered (`request.json`), so that
the invitation, which is a secret, can be deleted once the request is written.
"""

from __future__ import annotations

import contextlib
import os

import msgspec

from qmesh.agent.agent_start import ensure_agent
from qmesh.agent.commands.join.redeem import Joiner
from qmesh.agent.commands.join.steps import (
    Wish,
    checked,
    come_up,
    is_member,
    is_nobodys,
    joiner_of,
    keep,
    refuse_another_mesh,
    refuse_control,
    refuse_what_collides,
    refuse_wrong_place,
    without_tunnel,
    write_config,
)
from qmesh.agent.converge import reach
from qmesh.agent.leftovers import see_to_left_over
from qmesh.agent.local import (
    Here,
    Standing,
    load,
    refuse_foreign_guard,
    refuse_while_restoring,
    require_root,
    standing,
)
from qmesh.agent.rollback import refuse_while_waiting
from qmesh.errors import BadInput, EnrolmentRefused, StateUnreadable
from qmesh.host import files, wireguard
from qmesh.host.firewall import nftables
from qmesh.host.linux import Linux
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Asked, Settings
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.protocol.enrolment import parse_invitation, public_key_of, redemption
from qmesh.mesh.protocol.file_exchange import Answer, Request, open_answer, parse_answer
from qmesh.mesh.protocol.membership import believed, newer, read_stored

_CONFIRM_S = 2.0
"""Seconds: where files are carried, most often nobody answers yet."""


class Requested(msgspec.Struct, frozen=True):
    """A request that was made. request: its one line, which holds no secret."""

    request: str
    name: str
    mesh: str
    address: str
    public_key: str


def ask(state: State, text: str, wish: Wish) -> Requested:
    """Make this machine's key, and its request; the same again when run again.

    Raises BadInput with nothing written where a join could not succeed, or was done already.
    """
    require_root("qmesh join")
    invitation = parse_invitation(text)
    options = checked(wish)
    wireguard.available_kind()
    state.prepare()
    with state.lock():
        refuse_while_waiting(state)
        refuse_while_restoring(state)
        refuse_another_mesh(state, invitation.mesh, invitation.name)
        if is_member(state, invitation.derived.identifier):
            raise BadInput(
                f"this machine is {invitation.name} of mesh {invitation.mesh} already",
                hint="there is nothing to ask for; see it with `qmesh status`",
            )
        see_to_left_over(state, take_over=wish.take_over)
        joiner = joiner_of(state, invitation, options)
        asked = _asked(state, joiner)
        state.save_asked(asked)
        _end_what_was_cut_off(state, joiner)
    return Requested(
        request=Request(asked.mesh, msgspec.json.encode(asked.redemption)).text(),
        name=asked.name,
        mesh=asked.mesh,
        address=asked.address,
        public_key=joiner.public_key,
    )


def _asked(state: State, joiner: Joiner) -> Asked:
    """What to ask, and to remember: as before, where this was asked before."""
    invitation = joiner.invitation
    directory = joiner.config_directory
    message = redemption(
        invitation.derived,
        public_key=joiner.public_key,
        workers=len(os.sched_getaffinity(0)),
        endpoint=joiner.endpoint,
    )
    with contextlib.suppress(StateUnreadable):  # it is replaced
        before = state.asked()
        if before is not None:
            again = msgspec.structs.replace(before.redemption, workers=message.workers, proof=message.proof)
            message = before.redemption if again == message else message
    return Asked(
        mesh=invitation.mesh,
        name=invitation.name,
        address=invitation.address,
        endpoints=invitation.endpoints,
        verification_key=invitation.verification_key,
        interface=joiner.interface,
        listen_port=joiner.listen_port,
        config_directory=None if directory is None else str(directory),
        config_owner=None if directory is None else directory.owner,
        redemption=message,
        preshared_key=joiner.preshared,
    )


def _end_what_was_cut_off(state: State, joiner: Joiner) -> None:
    """Take down what a join left that was killed: this one does without."""
    if state.pending() is not None:
        linux = Linux(state, joiner.interface, [])
        reach(linux, without_tunnel(joiner, linux))
        state.save_pending(None)


def enter(state: State, text: str, *, apply: bool) -> Standing:
    """Become a member by the control node's answer; for a member, take a membership that is newer.

    Raises BadInput or EnrolmentRefused, with nothing changed, for all but an answer to this machine.
    """
    require_root("qmesh join")
    answer = parse_answer(text)
    nftables.run("list tables")
    with state.lock():
        refuse_while_waiting(state)
        asked = state.asked()
        if is_member(state, None if asked is None else asked.redemption.identifier):
            _take_newer(state, load(state), answer)
        else:
            _become_member(state, answer)
        here = come_up(state, load(state), apply=apply, patience_s=_CONFIRM_S)
    write_config(state, here)
    if apply:
        ensure_agent(state)
    return standing(here)


def _take_newer(state: State, here: Here, answer: Answer) -> None:
    """Run again after success this changes nothing, and never does an older membership (E6)."""
    settings = here.settings
    refuse_control(here)
    octets = open_answer(answer, here.preshared[here.inventory.control_node.public_key])
    offered = believed(read_stored(octets), settings.verification_key, mesh=settings.mesh)
    refuse_wrong_place(offered, settings.name, here.machine.address, here.machine.public_key)
    if newer(here.inventory, offered):
        files.write(state.membership_file, octets)


def _become_member(state: State, answer: Answer) -> None:
    asked = state.asked()
    if asked is None:
        raise BadInput(
            "no request of this machine waits for an answer",
            hint="`qmesh join --offline` with the invitation writes one, the same as before if there was one",
        )
    if answer.identifier != asked.redemption.identifier:
        raise EnrolmentRefused(
            "this answer is to another request",
            hint="`qmesh admit` the request that was written here last, and use that answer",
        )
    octets = open_answer(answer, asked.preshared_key)
    offered = _believed(octets, asked)
    refuse_another_mesh(state, asked.mesh, asked.name)
    refuse_wrong_place(offered, asked.name, asked.address, asked.redemption.public_key)
    _refuse_another_key(state, asked)
    _refuse_older(state, asked, offered)
    if state.pending() is None and is_nobodys(state, set(), asked.interface):
        refuse_what_collides(offered.network, asked.interface, asked.listen_port)
        refuse_foreign_guard(state)
    keep(state, asked.preshared_key, octets, _settings(state, asked, offered))


def _refuse_another_key(state: State, asked: Asked) -> None:
    key = state.private_key()
    if key is None or public_key_of(key) != asked.redemption.public_key:
        raise StateUnreadable(
            f"{state.private_key_file} is not the key that the request was made with",
            hint="restore it; or ask for a new invitation, of a member `qmesh invite NAME --replace`",
        )


def _refuse_older(state: State, asked: Asked, offered: Inventory) -> None:
    """Refuse what is older than a membership that is held still, though this machine lost another file."""
    octets = files.read(state.membership_file)
    try:
        held = None if octets is None else _believed(octets, asked)
    except EnrolmentRefused:  # what is not to be believed is no reason
        return
    if held is not None and newer(offered, held):
        raise EnrolmentRefused(
            f"this answer is of revision {offered.revision}, and revision {held.revision} is held here",
            hint="`qmesh admit` the same request again, and use that answer",
        )


def _believed(octets: bytes, asked: Asked) -> Inventory:
    return believed(read_stored(octets), asked.verification_key, mesh=asked.mesh)


def _settings(state: State, asked: Asked, offered: Inventory) -> Settings:
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
        guarded=bool(state.ports_closed()),
        invitation=asked.redemption.identifier,
    )
