"""What every join has in common, through the network or by files: its options, refusals, files and end."""

from __future__ import annotations

import logging
import time

import msgspec

from qmesh.agent import detours
from qmesh.agent.bring_up import GivenOptions, bring_up, check_options
from qmesh.agent.commands.join.redeem import Joiner
from qmesh.agent.control_client import build_client
from qmesh.agent.control_endpoint import use_nearest_endpoint
from qmesh.agent.local import Local, load_local
from qmesh.agent.preconditions import refuse_occupied
from qmesh.errors import BadInput, EnrolmentRefused, StateUnreadable
from qmesh.host import files, wireguard
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.firewall import nftables
from qmesh.host.linux import Linux
from qmesh.host.network import links
from qmesh.host.state.directory import State
from qmesh.host.state.documents import LocalOptions
from qmesh.mesh.protocol.enrolment import Invitation, derive_public_key
from qmesh.mesh.routes.detours import TunnelPlace
from qmesh.mesh.state import NodeState
from qmesh.mesh.values import (
    DEFAULT_LISTEN_PORT,
    Endpoint,
)

log = logging.getLogger("qmesh")

_ANSWER_S = 5.0
_AGAIN_S = 0.1
"""Seconds between two questions at least."""
_CONNECT_S = 0.1
"""Seconds for the first connection as a member; each further one has twice as many."""


class JoinOptions(GivenOptions, frozen=True, kw_only=True):
    """What `join` was asked for.

    endpoint: where this machine's WireGuard is reached from outside.
    node_files: whether to fetch the node's files.
    """

    endpoint: str | None
    node_files: bool = False


def check_join_options(wish: JoinOptions) -> LocalOptions:
    """Read what was asked for. Raises BadInput, or MachineRefused where there is no nftables."""
    port = DEFAULT_LISTEN_PORT if wish.listen_port is None else wish.listen_port
    endpoint = None if wish.endpoint is None else Endpoint.parse(wish.endpoint, default_port=port)
    options = check_options(wish, endpoint=endpoint)
    if options.config_directory is not None:
        # Whoever has the node already: others need not load this before their tunnel is up.
        from qmesh.agent.node import node_config  # noqa: PLC0415 - see above

        node_config.read_profile(options.config_directory)
    nftables.require_nftables()
    return options


def build_joiner(state: State, invitation: Invitation, options: LocalOptions) -> Joiner:
    """A machine that may join, with its own key, which is durable now.

    One that takes the place of a member, if its own, has a new key for that: whoever else has the old one,
    such as a copy of this machine's disk, goes on calling with it.
    Raises BadInput, with no key made, where something is in the way.
    """
    identifier, joining = invitation.derived_keys.identifier, state.keys.read_joining_key()
    join_keys = {invitation.derived_keys.public_key}
    if joining is not None:
        join_keys.add(derive_public_key(joining))
    if has_no_join_interface(state, join_keys, options.interface):
        tunnel = TunnelPlace(options.interface, invitation.network, invitation.address)
        refuse_collisions(state, tunnel, invitation.control_address, listen_port=options.listen_port)
    is_replacing = _needs_another_key(state, identifier, is_replacing=invitation.from_address is not None)
    key, has_new_key = state.keys.ensure_joining_key(identifier, is_replacing=is_replacing)
    settings = state.find_valid_settings()
    directory = options.config_directory or (None if settings is None else settings.node_directory)
    return Joiner(
        invitation=invitation,
        options=msgspec.structs.replace(options, config_directory=directory),
        private_key=key,
        ports=state.list_closed_ports(),
        has_new_key=has_new_key,
    )


def _needs_another_key(state: State, identifier: str, *, is_replacing: bool) -> bool:
    """Whether the mesh does not have this machine's key any more, or is about not to.

    is_replacing: as the invitation says. Not where it was redeemed here, with the key that there is.
    """
    settings = state.find_valid_settings()
    if settings is not None and settings.invitation == identifier:
        return False
    return is_replacing or (settings is not None and settings.removed)


def finish_join(state: State, here: Local, *, apply: bool, patience_s: float) -> Local:
    """Guard and tunnel, if they are wanted. With the node's config.yml, that is the end of every join.

    patience_s: seconds to wait for the control node's answer, at most.
    """
    state.unfinished_redemption.remove()
    state.sent_request.remove()
    if apply:
        here, linux = bring_up(state, here, follow_roaming=True)
        _wait_for_control_node(here, linux, patience_s=patience_s)
        use_nearest_endpoint(state, here, linux)
    return here


def is_member(state: State, identifier: str | None) -> bool:
    """Whether this machine has redeemed that invitation, or any, and holds its membership whole.

    A damaged membership is asked for again; with another invitation the machine becomes a member anew, also
    one that handed the control role over and was not answered since.
    """
    try:
        settings = state.find_settings()
        if settings is None or settings.removed:
            return False
        if identifier is not None and settings.invitation not in {None, identifier}:
            return False
        here = load_local(state)
    except StateUnreadable as error:
        if files.read_mode(state.keys.signing_file) is not None:
            raise
        log.info("%s: asking the control node for it", error.message)
        return False
    return identifier is None or not here.has_handed_over


def has_no_join_interface(state: State, throwaway: set[str], interface: str) -> bool:
    """Whether an interface of that name, if any, is not from a join cut off or a membership lost.

    throwaway: public keys that such a join gave it, besides this machine's own.
    """
    link, key = links.read(interface), state.keys.read_private_key()
    if link is None or link.kind not in {"wireguard", "tun"}:
        return True
    found = wireguard.find_backend(interface).read(interface).public_key
    if found is None:
        return state.unfinished_redemption.read() is None
    return found not in {*throwaway, None if key is None else derive_public_key(key)}


def refuse_collisions(state: State, tunnel: TunnelPlace, control_address: str, *, listen_port: int) -> None:
    """Raise BadInput where something on this machine has the tunnel's network, interface, port or guard."""
    detours.refuse_collisions(
        tunnel,
        {"the control node": control_address},
        hint="or make a new mesh: `qmesh init --network NETWORK`",
    )
    refuse_occupied(state, tunnel.interface, listen_port)


def refuse_another_mesh(state: State, mesh: str, name: str) -> None:
    """Raise BadInput where this machine is in another mesh, or under another name.

    One that its mesh has removed may join it again under any name.
    """
    settings = state.find_valid_settings()
    if settings is None or (settings.mesh, settings.name) == (mesh, name):
        return
    if settings.removed and settings.mesh == mesh:
        return
    raise BadInput(
        f"this machine is already {settings.name} of mesh {settings.mesh}",
        hint="a machine can be in one mesh only, with one name; see it with `qmesh status`. To leave that"
        " mesh: `qmesh uninstall --delete-state`, which opens the worker ports; then `qmesh join` again",
    )


def refuse_control(here: Local) -> None:
    """Raise BadInput where this machine is the control node of the mesh that it was to join."""
    if here.settings.control:
        raise BadInput(
            f"{here.settings.name} is the control node of its mesh",
            hint="run this on the machine that the invitation is for",
        )


def state_without_tunnel(joiner: Joiner, linux: Linux) -> NodeState:
    """Nothing; or on a machine whose worker ports were closed before, those still closed."""
    return (
        joiner.build_joining_state(linux.backend.kind) if joiner.ports else NodeState(guard=None, tunnel=None)
    )


def warn_of_announcement(here: Local, announce: str | None) -> None:
    """Say that a machine which was a member before is announced as it was."""
    if announce is not None and here.machine.announce != announce:
        name = here.settings.name
        log.warning(
            "%s is a member already, and --announce changes nothing: run `qmesh set %s --announce %s` on %s",
            *(name, name, announce, here.inventory.control),
        )


def _wait_for_control_node(here: Local, linux: Linux, *, patience_s: float) -> None:
    """See that the control node knows this machine by its own key now."""
    client = build_client(here)
    deadline = time.monotonic() + patience_s
    wait_s = _CONNECT_S
    while (left_s := deadline - time.monotonic()) > 0:
        asked = time.monotonic()
        try:
            client.poll_membership(
                newer_than=here.inventory.revision, connect_s=min(wait_s, left_s), read_s=_ANSWER_S
            )
        except (ControlNodeUnavailable, EnrolmentRefused):
            # The control node takes our own key a moment after its answer, and what came before is lost:
            # shake hands anew. From afar that and a connection take two round trips.
            wait_s *= 2
            _pause_until(min(asked + _AGAIN_S, deadline))
            observed = linux.observe().tunnel
            for peer in () if observed is None else observed.peers:
                linux.backend.reset_session(here.settings.interface, peer)
        else:
            return
    log.warning(
        "%s is a member, but the control node does not answer yet; the agent keeps trying", here.settings.name
    )


def _pause_until(moment: float) -> None:
    """Who refuses at once is not asked without end; one that did not answer was waited for already."""
    if (seconds := moment - time.monotonic()) > 0:
        time.sleep(seconds)
