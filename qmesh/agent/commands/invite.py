"""`invite`: a one-use invitation for a new machine."""

from __future__ import annotations

import logging
import time

import msgspec

from qmesh.agent.local import Local
from qmesh.agent.packet_origin import PeerEndpoints
from qmesh.agent.preconditions import check_state, check_user, load_checked, lock_member
from qmesh.agent.rollback import follow_mesh
from qmesh.errors import BadInput
from qmesh.host.network import routes
from qmesh.host.registry import Event, MachineOptions, OpenInvitation, Registry, SpentInvitation
from qmesh.host.state.directory import State
from qmesh.host.system import background
from qmesh.host.system.sudo_user import find_invoking_user
from qmesh.mesh.endpoints import list_candidate_endpoints
from qmesh.mesh.machine import build_unknown_machine_error, describe_machine_at, validate_worker_count
from qmesh.mesh.protocol.enrolment import Invitation, parse_duration_s
from qmesh.mesh.reachability.public_host import parse_public_host
from qmesh.mesh.values import Endpoint, validate_machine_name

log = logging.getLogger("qmesh")


class InviteOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `invite` was asked for.

    replace: for the place of the member of that name.
    node_files: whether the machine may fetch the node's files.
    announce: where the node's network will reach it.
    """

    name: str = ""
    workers: int | None = None
    endpoint: str | None = None
    expires: str
    replace: bool = False
    node_files: bool = False
    announce: str | None = None


def invite(state: State, wish: InviteOptions) -> Invitation:
    """Make an invitation and let WireGuard know it. Raises BadInput with nothing written."""
    check_user("invite")
    # Of one that is replaced, the mesh tells whose address it is.
    name = wish.name if wish.replace else validate_machine_name(wish.name)
    workers = None if wish.workers is None else validate_worker_count(wish.workers)
    endpoint = None if wish.endpoint is None else Endpoint.parse(wish.endpoint)
    announce = None if wish.announce is None else parse_public_host(wish.announce)
    lasts_s = parse_duration_s(wish.expires)
    if wish.replace and (workers, endpoint, announce) != (None, None, None):
        raise BadInput(
            "with --replace the machine keeps its workers, endpoint and announced address",
            hint=f"leave --workers, --endpoint and --announce out; change them with `qmesh set {name}`",
        )
    if wish.replace and wish.node_files:
        raise BadInput(
            "with --replace the machine may do what it could before",
            hint=f"leave --node-files out; permit it with `qmesh set {name} --node-files on`",
        )
    with lock_member(state, "invite") as here:
        endpoints = _list_invitation_endpoints(here)
        now = int(time.time())
        with Registry(state.registry_file, user=find_invoking_user()) as registry:
            issued = registry.invite(
                name,
                workers=workers,
                endpoint=endpoint,
                expires_at=now + lasts_s,
                now=now,
                replace=wish.replace,
                options=MachineOptions(announce=announce, node_files=wish.node_files),
            )
        follow_mesh(state)
    if not here.settings.up:
        log.info("the tunnel is down here: run `qmesh apply` before the machine joins")
    if not here.machine.endpoints:
        said = ", ".join(endpoint.host for endpoint in endpoints)
        log.info("the invitation names this machine's own addresses: %s", said)
    if not background.is_agent_running(state):
        log.warning("the agent does not run here, and no machine can join without it: run `qmesh apply`")
    return Invitation(
        secret=issued.secret,
        mesh=here.inventory.mesh,
        verification_key=here.settings.verification_key,
        control_key=here.machine.public_key,
        control_address=here.machine.address,
        network=here.inventory.network,
        service_port=here.inventory.service_port,
        endpoints=endpoints,
        name=issued.machine.name,
        address=issued.machine.address,
        workers=issued.machine.workers,
        expires_at=issued.expires_at,
        from_address=issued.from_address,
    )


class Invitations(msgspec.Struct, frozen=True):
    """Those that can still be used. now: Unix time in seconds, when that was so."""

    invitations: tuple[OpenInvitation, ...]
    now: int


def list_open_invitations(state: State) -> Invitations:
    """The invitations that nobody has used yet."""
    check_user("invite --list")
    check_state(state, "invite --list")
    load_checked(state, "invite --list")
    now = int(time.time())
    with Registry(state.registry_file, user=find_invoking_user()) as registry:
        return Invitations(registry.list_open_invitations(now=now), now)


def withdraw_invitation(state: State, name: str) -> None:
    """End the open invitation of that name. Raises BadInput, with what became of it, where there is none."""
    check_user("invite --withdraw")
    with lock_member(state, "invite --withdraw") as here:
        with Registry(state.registry_file, user=find_invoking_user()) as registry:
            if not registry.withdraw_invitation(name, now=int(time.time())):
                raise _not_open_error(here, name, registry.find_spent_invitation(name))
        follow_mesh(state)


def _not_open_error(here: Local, name: str, spent: SpentInvitation | None) -> BadInput:
    """Why an invitation cannot be withdrawn: of one that was used, who joined with it, when and whence."""
    there_are = "`qmesh invite --list` shows the invitations that can be used"
    if spent is None and describe_machine_at(here.inventory.machines, name) is not None:
        return build_unknown_machine_error(here.inventory.machines, name)
    if spent is None:
        return BadInput(f"nothing to withdraw: there is no invitation for {name}", hint=there_are)
    if spent.outcome != "redeemed":
        how = "has expired" if spent.outcome == "expired" else "was withdrawn already"
        return BadInput(f"nothing to withdraw: the last invitation for {name} {how}", hint=there_are)
    joined = spent.joined
    when = "" if joined is None else time.strftime(" on %Y-%m-%d at %H:%M:%S", time.localtime(joined.at))
    said = f"the invitation for {name} was used: a machine with key {spent.public_key} joined with it{when}"
    if not spent.is_member:
        return BadInput(f"{said}{_describe_origin(joined)}; it is no longer a member", hint="see `qmesh log`")
    machine = here.inventory.machine(name)
    now = PeerEndpoints(here.settings.interface).find(machine.address)
    return BadInput(
        f"{said}{_describe_origin(joined)}; it is {machine.address},"
        f" {f'at {now}' if now else 'not connected'} now",
        hint=f"to remove that machine and cut its connections, run `qmesh remove {name}`",
    )


def _describe_origin(joined: Event | None) -> str:
    if joined is not None and joined.command == "admit":
        return ", with `qmesh admit`"
    return "" if joined is None or joined.endpoint is None else f", from {joined.endpoint}"


def _list_invitation_endpoints(here: Local) -> tuple[Endpoint, ...]:
    """Where the invited machine is to look for this one."""
    own = routes.list_global_addresses(here.settings.interface)
    endpoints = list_candidate_endpoints(here.machine.endpoints, own, here.settings.listen_port)
    if not endpoints:
        raise BadInput(
            "this machine has no address at which others could reach it",
            hint=f"set one: `qmesh set {here.settings.name} --endpoint HOST:PORT`",
        )
    return endpoints
