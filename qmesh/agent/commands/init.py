"""`init`: make the mesh, with this machine as its control node."""

from __future__ import annotations

import ipaddress
import logging
import os
import time
from pathlib import Path

import msgspec

from qmesh.agent import node_config
from qmesh.agent.agent_start import ensure_agent
from qmesh.agent.collisions import refuse_interface, refuse_listen_port
from qmesh.agent.converge import converge, steps_without_names, undone_on_failure
from qmesh.agent.leftovers import see_to_left_over
from qmesh.agent.local import (
    Here,
    Standing,
    linux_for,
    load,
    refuse_foreign_guard,
    refuse_while_asking,
    refuse_while_restoring,
    require_root,
    rise,
    standing,
)
from qmesh.agent.rollback import refuse_while_waiting
from qmesh.agent.ssh_lockout import warn_of_cut
from qmesh.errors import JOIN_ANEW, RESTORE, BadInput, MachineRefused, StateUnreadable
from qmesh.host import files, wireguard
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.firewall import nftables
from qmesh.host.network import ports, routes
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.host.system.sudo_user import invoker
from qmesh.mesh import networks
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.model import (
    DEFAULT_INTERFACE,
    DEFAULT_LISTEN_PORT,
    SERVICE_PORTS,
    Endpoint,
    Machine,
    Profile,
    interface_name,
    ip_network,
    machine_name,
    port_number,
    worker_count,
)
from qmesh.mesh.nodeconfig import facts
from qmesh.mesh.protocol.enrolment import mesh_identifier, public_key_of

log = logging.getLogger("qmesh")

_NO_KEY = "A" * 43 + "="


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What `init` was asked for; None where it was left to qmesh. take_over: as of `join`."""

    name: str | None
    endpoints: tuple[str, ...]
    network: str | None
    listen_port: int | None
    workers: int | None
    reserve: int | None = None
    node: Profile | None
    worker_base_port: int | None
    config: Path | None
    interface: str | None
    take_over: bool = False


def init(state: State, wish: Wish, *, apply: bool) -> Standing:
    """Make the mesh, guard and tunnel first, then the agent; or go on with an init that was cut off.

    Raises BadInput before anything is written, or MachineRefused with everything put back.
    """
    require_root("qmesh init")
    directory = node_config.find_directory(wish.config)
    founding = _founding(wish, directory)
    if apply:
        nftables.run("list tables")
        wireguard.available_kind()
    state.prepare()
    with state.lock():
        refuse_while_restoring(state)
        if state.settings_or_none() is None:
            refuse_while_asking(state)
            _refuse_lost_settings(state)
            see_to_left_over(state, take_over=wish.take_over)
            _refuse_what_collides(founding)
            refuse_foreign_guard(state)
            _found(state, founding, apply=apply)
        else:
            refuse_while_waiting(state)
            _go_on(state, wish, directory, apply=apply)
        here = load(state)
    if apply:
        ensure_agent(state)
    return standing(here)


class Founding(msgspec.Struct, frozen=True, kw_only=True):
    """A mesh about to be made: everything decided and valid, nothing written."""

    inventory: Inventory
    interface: str
    listen_port: int
    config_directory: ConfigDirectory | None


def _founding(wish: Wish, directory: ConfigDirectory | None) -> Founding:
    interface = interface_name(DEFAULT_INTERFACE if wish.interface is None else wish.interface)
    listen_port = port_number(
        DEFAULT_LISTEN_PORT if wish.listen_port is None else wish.listen_port, "listen port"
    )
    network = _network(wish.network, interface)
    machine = Machine(
        name=machine_name(wish.name if wish.name is not None else "control"),
        public_key=_NO_KEY,
        address=networks.free_address(network, ()),
        workers=worker_count(default_workers(wish.reserve) if wish.workers is None else wish.workers),
        endpoints=tuple(Endpoint.parse(text, default_port=listen_port) for text in wish.endpoints),
    )
    profile = profile_wanted(wish.node, directory)
    base_port = facts(profile).base_port if wish.worker_base_port is None else wish.worker_base_port
    inventory = Inventory(
        mesh="",
        network=network,
        control=machine.name,
        node=profile,
        base_port=port_number(base_port, "worker base port"),
        p2p_base_port=facts(profile).p2p_base_port,
        service_port=_service_port(),
        revision=1,
        machines=(machine,),
    )
    msgspec.structs.replace(inventory, service_port=listen_port)  # nor may that be the node's
    return Founding(
        inventory=inventory,
        interface=interface,
        listen_port=listen_port,
        config_directory=directory,
    )


def _service_port() -> int:
    """The first of those for the membership service that nobody has here. Raises MachineRefused."""
    for port in SERVICE_PORTS:
        if not ports.tcp_port_in_use(port):
            return port
    first, last = SERVICE_PORTS[0], SERVICE_PORTS[-1]
    raise MachineRefused(
        f"TCP ports {first} to {last} are all in use on this machine, and members are to be served at one",
        hint=f"see by whom with `ss -ltnp sport '>=' :{first} and sport '<=' :{last}`",
    )


def default_workers(reserve: int | None) -> int:
    """A data worker for each core but those that the control process keeps: one, unless it is said."""
    there = len(os.sched_getaffinity(0))
    if reserve is None:
        return max(1, there - 1)
    if not 0 <= reserve < there:
        raise BadInput(
            f"{reserve} of {there} cores cannot be left to the control process",
            hint=f"--reserve goes from 0 to {there - 1} here; or say --workers",
        )
    return there - reserve


def _network(given: str | None, interface: str) -> str:
    occupied = routes.occupied_networks(interface)
    if given is None:
        return networks.choose_network(occupied)
    network = ip_network(given)
    networks.refuse_small(network)
    networks.refuse_collision(network, occupied, hint="choose another --network, or leave it to qmesh")
    return network


def profile_wanted(given: Profile | None, directory: ConfigDirectory | None) -> Profile:
    """The profile asked for, or that of the node's config.yml, or 2.0. Raises BadInput."""
    found = node_config.profile_of(directory)
    profile = given or found or "2.0"
    node_config.refuse_other_key(profile, found)
    return profile


def _refuse_lost_settings(state: State) -> None:
    """Raise StateUnreadable where a mesh is held whose settings were lost: it is not to be overwritten.

    What an init left behind that was cut off is no mesh yet: nobody was invited to it.
    """
    if files.mode_of(state.membership_file) is None:
        if files.mode_of(state.registry_file) is None:
            return
        with Registry(state.registry_file) as registry:
            if len(registry.events()) == 1:
                return
    raise StateUnreadable(
        f"{state.directory} holds a mesh, but its machine.json is missing",
        hint=f"on a member: {JOIN_ANEW}; on a control node: {RESTORE}; to give it up: the first of that",
    )


def _refuse_what_collides(founding: Founding) -> None:
    refuse_interface(founding.interface, instead="choose another --interface")
    refuse_listen_port(founding.listen_port, instead="or choose another --listen-port")


def _found(state: State, founding: Founding, *, apply: bool) -> None:
    """Write the state, the settings last: until they are there, an init may start over."""
    had_key = state.private_key() is not None
    try:
        _remember(state, founding)
        if apply:
            here = rise(state, load(state))
            linux = linux_for(state, here)
            warn_of_cut(linux, steps_without_names(here, linux))
            with undone_on_failure(linux, back_to=linux.observe()):
                converge(here, linux)
    except BaseException:
        state.forget(keep_private_key=had_key)
        raise


def _remember(state: State, founding: Founding) -> None:
    private_key = state.make_private_key()
    verification_key = state.make_signing_key().public_key().public_bytes_raw()
    machine = msgspec.structs.replace(founding.inventory.control_node, public_key=public_key_of(private_key))
    mesh = msgspec.structs.replace(
        founding.inventory, mesh=mesh_identifier(verification_key), machines=(machine,)
    )
    Registry.create(state.registry_file, mesh, now=int(time.time()), user=invoker())
    settings = Settings(
        mesh=mesh.mesh,
        name=machine.name,
        control=True,
        interface=founding.interface,
        listen_port=founding.listen_port,
        verification_key=verification_key,
        up=False,
        guarded=False,
    )
    directory = founding.config_directory
    state.save_settings(settings if directory is None else settings.with_node(directory))


def _go_on(state: State, wish: Wish, directory: ConfigDirectory | None, *, apply: bool) -> None:
    """This machine is in a mesh already: fine when an init that was cut off is said again."""
    here = load(state)
    _refuse_another_mesh(here, wish, directory)
    log.info("this machine is the control node of mesh %s already: going on with it", here.inventory.mesh)
    if apply:
        here = rise(state, here)
        linux = linux_for(state, here)
        warn_of_cut(linux, steps_without_names(here, linux))
        converge(here, linux)


def _refuse_another_mesh(here: Here, wish: Wish, directory: ConfigDirectory | None) -> None:
    settings, inventory, machine = here.settings, here.inventory, here.machine
    endpoints = tuple(Endpoint.parse(text, default_port=settings.listen_port) for text in wish.endpoints)
    said_and_is: tuple[tuple[str, object, object], ...] = (
        ("--name", wish.name, machine.name),
        ("--network", wish.network and str(ipaddress.ip_network(wish.network)), inventory.network),
        ("--listen-port", wish.listen_port, settings.listen_port),
        ("--workers", wish.workers, machine.workers),
        ("--node", wish.node, inventory.node),
        ("--worker-base-port", wish.worker_base_port, inventory.base_port),
        ("--interface", wish.interface, settings.interface),
        ("--endpoint", endpoints or None, machine.endpoints),
        ("--config", wish.config and str(directory), settings.config_directory),
    )
    differs = [option for option, said, now in said_and_is if said is not None and said != now]
    if not settings.control or differs:
        role = "the control node" if settings.control else "a member"
        other = f", with another {' and '.join(differs)}" if differs else ""
        raise BadInput(
            f"this machine is {role} of mesh {inventory.mesh} already{other}",
            hint="see `qmesh status`; to start over: `qmesh uninstall --delete-state`",
        )
