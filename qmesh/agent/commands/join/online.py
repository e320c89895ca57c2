"""`join`: redeem an invitation, and become a member.

The order is what makes a join that is cut off safe to run again (E4): the private key is synced
first; the guard is up before the tunnel; that a redemption is under way is remembered before it is
sent; and the settings, which make this machine a member, are written last.
"""

from __future__ import annotations

import msgspec

from qmesh.agent.agent_start import ensure_agent
from qmesh.agent.commands.join.redeem import Joiner, redeem_invitation
from qmesh.agent.commands.join.steps import (
    JoinOptions,
    build_joiner,
    check_join_options,
    finish_join,
    is_member,
    refuse_another_mesh,
    refuse_control,
    state_without_tunnel,
    warn_of_announcement,
)
from qmesh.agent.converge import apply_state, revert_on_failure
from qmesh.agent.leftovers import handle_leftovers, make_state_directory
from qmesh.agent.local import JoinResult, Local, join_result, load_local
from qmesh.agent.preconditions import check_user, find_differences, lock_checked
from qmesh.errors import JOIN_ANEW, BadInput
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.linux import Linux
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.mesh.protocol.enrolment import parse_invitation
from qmesh.mesh.protocol.membership import (
    apply_update,
    encode_membership,
    read_update,
    refuse_unlisted_machine,
    verify_membership,
)
from qmesh.mesh.state import NodeState
from qmesh.mesh.values import Endpoint

_CONFIRM_S = 15.0


def join(state: State, text: str, wish: JoinOptions, *, apply: bool) -> JoinResult:
    """Make this machine a member; also goes on with a join of the same invitation that was cut off.

    Raises BadInput before anything is written, EnrolmentRefused with everything put back.
    """
    check_user("join")
    invitation = parse_invitation(text)
    options = check_join_options(wish)
    with make_state_directory(state), lock_checked(state, "join"):
        refuse_another_mesh(state, invitation.mesh, invitation.name)
        handle_leftovers(state, take_over=wish.take_over)
        if not is_member(state, invitation.derived_keys.identifier):
            _become_member(state, build_joiner(state, invitation, options), apply=apply)
        here = load_local(state)
        refuse_control(here)
        _refuse_other_options(here, wish)
        here = _save_config_directory(state, here, options.config_directory)
        warn_of_announcement(here, options.announce)
        here = finish_join(state, here, apply=apply, patience_s=_CONFIRM_S)
    # A fifth of all that a join loads: the first packet does not wait for it.
    from qmesh.agent.commands.join import write_config  # noqa: PLC0415 - see above

    if not wish.node_files:
        write_config.write_config(state, here)
    if apply:
        ensure_agent(state)
    if wish.node_files:
        write_config.write_fetched_files(state)
    return join_result(here)


def _refuse_other_options(here: Local, wish: JoinOptions) -> None:
    settings = here.settings
    differs = find_differences(
        ("--listen-port", wish.listen_port, settings.listen_port),
        ("--interface", wish.interface, settings.interface),
    )
    if differs:
        raise BadInput(
            f"this machine is already a member, with another {differs}",
            hint="leave the option out; or run `qmesh uninstall --delete-state`, which opens the worker"
            f" ports; then {JOIN_ANEW}",
        )


def _save_config_directory(state: State, here: Local, directory: ConfigDirectory | None) -> Local:
    """Remember another config directory, if one was named."""
    if directory is None or directory == here.settings.node_directory:
        return here
    settings = here.settings.with_node_directory(directory)
    state.save_settings(settings)
    return msgspec.structs.replace(here, settings=settings)


def _become_member(state: State, joiner: Joiner, *, apply: bool) -> None:
    """Redeem and remember; on failure the machine is as before.

    A fresh key is kept for a retry once the control node may know it.
    """
    derived, before = joiner.invitation.derived_keys, state.keys.read_private_key()
    keys = [joiner.private_key, derived.private_key, *(() if before is None else (before,))]
    linux = Linux(state, joiner.options.interface, keys)
    sent: list[bool] = []
    try:
        with revert_on_failure(linux, back_to=_find_revert_state(state, joiner, linux)):
            answer, endpoint = redeem_invitation(state, joiner, linux, on_send=lambda: sent.append(True))
            wanted = joiner.invitation
            signed = apply_update(read_update(answer), None)
            inventory = verify_membership(signed, wanted.verification_key, mesh=wanted.mesh)
            refuse_unlisted_machine(inventory, wanted.name, wanted.address, joiner.public_key)
            settings = _build_settings(joiner, endpoint, apply=apply)
            state.save_membership(
                joiner.public_key, joiner.preshared_key, encode_membership(signed), settings
            )
    except BaseException:
        if joiner.has_new_key and not sent:
            state.keys.discard_joining_key(joiner.public_key)
        raise
    finally:
        state.unfinished_redemption.remove()
    if not apply:
        apply_state(linux, state_without_tunnel(joiner, linux))


def _find_revert_state(state: State, joiner: Joiner, linux: Linux) -> NodeState:
    """What a join that fails goes back to: not to a rest of one that was killed, nor to open ports."""
    before = linux.observe()
    if state.unfinished_redemption.read() is not None:
        return state_without_tunnel(joiner, linux)
    guard = before.loaded_guard or state_without_tunnel(joiner, linux).guard
    return msgspec.structs.replace(before, guard=guard, reserved_ports=joiner.ports)


def _build_settings(joiner: Joiner, answered: Endpoint, *, apply: bool) -> Settings:
    others = (endpoint for endpoint in joiner.invitation.endpoints if endpoint != answered)
    return Settings(
        **joiner.options.stored_fields(),
        mesh=joiner.invitation.mesh,
        name=joiner.invitation.name,
        control=False,
        verification_key=joiner.invitation.verification_key,
        control_endpoints=(answered, *others),
        up=apply,
        guarded=apply or bool(joiner.ports),
        invitation=joiner.invitation.derived_keys.identifier,
    )
