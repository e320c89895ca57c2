"""`init`: make the mesh, with this machine as its control node."""

from __future__ import annotations

import logging
import os
import time

import msgspec

from qmesh.agent.agent_start import ensure_agent
from qmesh.agent.bring_up import GivenOptions, bring_up, check_options
from qmesh.agent.detours import refuse_collisions
from qmesh.agent.leftovers import handle_leftovers, make_state_directory
from qmesh.agent.local import JoinResult, Local, join_result, load_local
from qmesh.agent.node.node_program import ChosenProfile, choose_profile
from qmesh.agent.preconditions import check_user, find_differences, lock_checked, refuse_occupied
from qmesh.errors import BadInput, MachineRefused
from qmesh.host import wireguard
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.firewall import nftables
from qmesh.host.network import ports, routes
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.state.documents import LocalOptions, Settings
from qmesh.host.system.sudo_user import find_invoking_user
from qmesh.mesh import networks
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine, count_default_workers, validate_worker_count
from qmesh.mesh.nodeconfig import profile_facts
from qmesh.mesh.protocol.enrolment import compute_mesh_identifier, derive_public_key
from qmesh.mesh.reachability.announcements import refuse_announcement
from qmesh.mesh.reachability.public_host import parse_public_host
from qmesh.mesh.reachability.unsupported_options import refuse_unsupported_options
from qmesh.mesh.routes.detours import TunnelPlace
from qmesh.mesh.values import (
    DEFAULT_PROFILE,
    PROFILES,
    SERVICE_PORTS,
    Endpoint,
    Profile,
    normalize_ip_network,
    validate_machine_name,
    validate_port,
)

log = logging.getLogger("qmesh")

_NO_KEY = "A" * 43 + "="


class InitOptions(GivenOptions, frozen=True, kw_only=True):
    """What `init` was asked for; None where it was left to qmesh."""

    name: str | None
    endpoints: tuple[str, ...]
    network: str | None
    workers: int | None
    reserve: int | None = None
    node: Profile | None
    worker_base_port: int | None


def init(state: State, wish: InitOptions, *, apply: bool) -> JoinResult:
    """Make the mesh, guard and tunnel first, then the agent; or go on with an init that was cut off.

    Raises BadInput before anything is written, or MachineRefused with everything put back.
    """
    check_user("init")
    options = check_options(wish)
    is_new = state.find_settings() is None
    chosen = choose_profile(wish.node, options.config_directory) if is_new else None
    inventory = _plan_new_mesh(wish, options, chosen)
    if apply:
        nftables.require_nftables()
        wireguard.detect_tunnel_kind()
    with make_state_directory(state), lock_checked(state, "init"):
        if state.find_settings() is None:
            handle_leftovers(state, take_over=wish.take_over)
            refuse_occupied(state, options.interface, options.listen_port)
            _create_mesh(state, inventory, options, apply=apply)
        else:
            _resume_init(state, wish, options.config_directory, apply=apply)
        here = load_local(state)
    if chosen is not None and chosen.is_guess:
        log.warning(
            "node %s is a guess: qmesh found no config.yml; if your node is of another version, run"
            " `qmesh set --node VERSION` (%s) before the first machine joins",
            *(chosen.profile, ", ".join(each for each in PROFILES if each != chosen.profile)),
        )
    if apply:
        ensure_agent(state)
    return join_result(here)


def _plan_new_mesh(wish: InitOptions, options: LocalOptions, chosen: ChosenProfile | None) -> Inventory:
    """The mesh that is about to be made: everything decided and valid, but for its identifier and the key.

    chosen: None where there is one already, which an init that is said again does not change.
    """
    network = _choose_network(wish.network, options.interface)
    machine = Machine(
        name=validate_machine_name(wish.name if wish.name is not None else "control"),
        public_key=_NO_KEY,
        address=networks.find_lowest_free_address(network, ()),
        workers=validate_worker_count(
            count_default_workers(len(os.sched_getaffinity(0)), wish.reserve)
            if wish.workers is None
            else wish.workers
        ),
        endpoints=tuple(Endpoint.parse(text, default_port=options.listen_port) for text in wish.endpoints),
        announce=options.announce,
    )
    profile = (wish.node or DEFAULT_PROFILE) if chosen is None else chosen.profile
    base_port = profile_facts(profile).base_port if wish.worker_base_port is None else wish.worker_base_port
    inventory = Inventory(
        mesh="",
        network=network,
        control=machine.name,
        node=profile,
        base_port=validate_port(base_port, "worker base port"),
        p2p_base_port=profile_facts(profile).p2p_base_port,
        service_port=_find_service_port(),
        revision=1,
        machines=(machine,),
    )
    msgspec.structs.replace(inventory, service_port=options.listen_port)  # nor may that be the node's
    refuse_unsupported_options(inventory)
    if options.announce is not None:
        refuse_announcement(inventory, machine.name, options.announce)
    return inventory


def _find_service_port() -> int:
    """The first of those for the membership service that nobody has here. Raises MachineRefused."""
    for port in SERVICE_PORTS:
        if not ports.is_tcp_port_used(port):
            return port
    first, last = SERVICE_PORTS[0], SERVICE_PORTS[-1]
    raise MachineRefused(
        f"TCP ports {first} to {last} are all in use on this machine; qmesh needs one of them to serve"
        " members",
        hint=f"see which programs have them with `ss -ltnp sport '>=' :{first} and sport '<=' :{last}`",
    )


def _choose_network(given: str | None, interface: str) -> str:
    occupied = routes.list_occupied_networks(interface)
    if given is None:
        network, hint = networks.choose_network(occupied), "init needs a network that nothing else routes"
    else:
        network, hint = normalize_ip_network(given), "or choose another --network, or leave it to qmesh"
        networks.refuse_small_network(network)
        networks.refuse_collision(network, occupied, hint="choose another --network, or leave it to qmesh")
    own = networks.find_lowest_free_address(network, ())
    member = networks.find_lowest_free_address(network, (own,))
    refuse_collisions(TunnelPlace(interface, network, own), {"a member": member}, hint=hint)
    return network


def _create_mesh(state: State, inventory: Inventory, options: LocalOptions, *, apply: bool) -> None:
    """Write the state, the settings last: until they are there, an init may start over."""
    had_key = state.keys.read_private_key() is not None
    try:
        _write_state(state, inventory, options)
        if apply:
            bring_up(state, load_local(state), revert=True)
    except BaseException:
        state.remove_mesh_state(keep_private_key=had_key)
        raise


def _write_state(state: State, inventory: Inventory, options: LocalOptions) -> None:
    private_key = state.keys.ensure_private_key()
    verification_key = state.keys.ensure_signing_key().public_key().public_bytes_raw()
    machine = msgspec.structs.replace(inventory.control_node, public_key=derive_public_key(private_key))
    mesh = msgspec.structs.replace(
        inventory, mesh=compute_mesh_identifier(verification_key), machines=(machine,)
    )
    Registry.create(state.registry_file, mesh, now=int(time.time()), user=find_invoking_user())
    settings = Settings(
        **options.stored_fields(),
        mesh=mesh.mesh,
        name=machine.name,
        control=True,
        verification_key=verification_key,
        up=False,
        guarded=False,
    )
    state.save_settings(settings)


def _resume_init(state: State, wish: InitOptions, directory: ConfigDirectory | None, *, apply: bool) -> None:
    """This machine is in a mesh already: fine when an init that was cut off is said again."""
    here = load_local(state)
    _refuse_another_mesh(here, wish, directory)
    log.info("this machine is already the control node of mesh %s: going on with it", here.inventory.mesh)
    if apply:
        bring_up(state, here)


def _refuse_another_mesh(here: Local, wish: InitOptions, directory: ConfigDirectory | None) -> None:
    settings, inventory, machine = here.settings, here.inventory, here.machine
    endpoints = tuple(Endpoint.parse(text, default_port=settings.listen_port) for text in wish.endpoints)
    differs = find_differences(
        ("--name", wish.name, machine.name),
        ("--network", wish.network and normalize_ip_network(wish.network), inventory.network),
        ("--listen-port", wish.listen_port, settings.listen_port),
        ("--workers", wish.workers, machine.workers),
        ("--node", wish.node, inventory.node),
        ("--worker-base-port", wish.worker_base_port, inventory.base_port),
        ("--interface", wish.interface, settings.interface),
        ("--endpoint", endpoints or None, machine.endpoints),
        ("--announce", wish.announce and parse_public_host(wish.announce), machine.announce),
        ("--config", wish.config and str(directory), settings.config_directory),
    )
    if not settings.control or differs:
        role = "the control node" if settings.control else "a member"
        other = f", with another {differs}" if differs else ""
        raise BadInput(
            f"this machine is already {role} of mesh {inventory.mesh}{other}",
            hint="see it with `qmesh status`; to start over, run `qmesh uninstall --delete-state` first",
        )
