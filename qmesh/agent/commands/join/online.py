"""`join`: redeem an invitation, and become a member.

The order is what makes a join that is cut off safe to run again (E4): the private key is synced
first; the guard is up before the tunnel; that a redemption is under way is remembered before it is
sent; and the settings, which make this machine a member, are written last.
"""

from __future__ import annotations

import msgspec

from qmesh.agent.agent_start import ensure_agent
from qmesh.agent.commands.join.redeem import Joiner, redeem
from qmesh.agent.commands.join.steps import (
    Wish,
    checked,
    come_up,
    is_member,
    joiner_of,
    keep,
    refuse_another_mesh,
    refuse_control,
    refuse_wrong_place,
    without_tunnel,
    write_config,
)
from qmesh.agent.converge import reach, undone_on_failure
from qmesh.agent.leftovers import see_to_left_over
from qmesh.agent.local import Here, Standing, load, refuse_while_restoring, require_root, standing
from qmesh.agent.rollback import refuse_while_waiting
from qmesh.errors import JOIN_ANEW, BadInput
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.linux import Linux
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.mesh.model import Endpoint, NodeState
from qmesh.mesh.protocol.enrolment import parse_invitation
from qmesh.mesh.protocol.membership import believed, read_update, stored, updated

_CONFIRM_S = 15.0


def join(state: State, text: str, wish: Wish, *, apply: bool) -> Standing:
    """Make this machine a member; also goes on with a join of the same invitation that was cut off.

    Raises BadInput before anything is written, EnrolmentRefused with everything put back.
    """
    require_root("qmesh join")
    invitation = parse_invitation(text)
    options = checked(wish)
    state.prepare()
    with state.lock():
        refuse_while_waiting(state)
        refuse_while_restoring(state)
        refuse_another_mesh(state, invitation.mesh, invitation.name)
        see_to_left_over(state, take_over=wish.take_over)
        if not is_member(state, invitation.derived.identifier):
            _become_member(state, joiner_of(state, invitation, options), apply=apply)
        here = load(state)
        refuse_control(here)
        _refuse_other_options(here, wish)
        here = _with_directory(state, here, options.config_directory)
        here = come_up(state, here, apply=apply, patience_s=_CONFIRM_S)
    write_config(state, here)
    if apply:
        ensure_agent(state)
    return standing(here)


def _refuse_other_options(here: Here, wish: Wish) -> None:
    settings = here.settings
    said_and_is = (
        ("--listen-port", wish.listen_port, settings.listen_port),
        ("--interface", wish.interface, settings.interface),
    )
    differs = [option for option, said, now in said_and_is if said is not None and said != now]
    if differs:
        raise BadInput(
            f"this machine is a member already, with another {' and '.join(differs)}",
            hint="leave the option out; or `qmesh uninstall --delete-state`, which opens the worker ports,"
            f" and {JOIN_ANEW}",
        )


def _with_directory(state: State, here: Here, directory: ConfigDirectory | None) -> Here:
    """Remember another config directory, if one was named."""
    if directory is None or directory == here.settings.node:
        return here
    settings = here.settings.with_node(directory)
    state.save_settings(settings)
    return msgspec.structs.replace(here, settings=settings)


def _become_member(state: State, joiner: Joiner, *, apply: bool) -> None:
    """Redeem and remember; on failure the machine is as before, and a fresh key is kept for a retry."""
    own_key, derived = state.make_private_key(), joiner.invitation.derived
    linux = Linux(state, joiner.interface, [own_key, derived.private_key])
    try:
        with undone_on_failure(linux, back_to=_before(state, joiner, linux)):
            answer, endpoint = redeem(state, joiner, linux)
            wanted = joiner.invitation
            signed = updated(read_update(answer), None)
            inventory = believed(signed, wanted.verification_key, mesh=wanted.mesh)
            refuse_wrong_place(inventory, wanted.name, wanted.address, joiner.public_key)
            keep(state, joiner.preshared, stored(signed), _settings(joiner, endpoint))
    finally:
        state.save_pending(None)
    if not apply:
        reach(linux, without_tunnel(joiner, linux))


def _before(state: State, joiner: Joiner, linux: Linux) -> NodeState:
    """What a join that fails goes back to: not to a rest of one that was killed, nor to open ports."""
    before = linux.observe()
    if state.pending() is not None:
        return without_tunnel(joiner, linux)
    guard = before.loaded_guard or without_tunnel(joiner, linux).guard
    return msgspec.structs.replace(before, guard=guard, reserved_ports=joiner.ports)


def _settings(joiner: Joiner, answered: Endpoint) -> Settings:
    others = (endpoint for endpoint in joiner.invitation.endpoints if endpoint != answered)
    settings = Settings(
        mesh=joiner.invitation.mesh,
        name=joiner.invitation.name,
        control=False,
        interface=joiner.interface,
        listen_port=joiner.listen_port,
        verification_key=joiner.invitation.verification_key,
        control_endpoints=(answered, *others),
        up=False,
        guarded=bool(joiner.ports),
        invitation=joiner.invitation.derived.identifier,
    )
    return settings if joiner.config_directory is None else settings.with_node(joiner.config_directory)
