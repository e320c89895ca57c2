"""What `check` looks at on this machine and around it, part by part: what fails is a finding of its own."""

from __future__ import annotations

import contextlib
import time
from ipaddress import ip_address
from typing import Final, NamedTuple

from qmesh.agent.audit.clocks import compare_clock
from qmesh.agent.audit.control_path import find_black_hole, find_narrow_path
from qmesh.agent.audit.foreign_firewalls import (
    find_firewall_obstacles,
    find_path_error_obstacles,
    find_program_suspects,
    read_mark,
)
from qmesh.agent.audit.key_files import list_key_files, list_secret_files
from qmesh.agent.audit.links import build_link_context
from qmesh.agent.audit.part_checks import PartChecks
from qmesh.agent.audit.saved_rules import find_flushing_unit, find_saved_rules
from qmesh.agent.control_client import build_client
from qmesh.agent.detours import find_detours, find_overlaps
from qmesh.agent.local import Local
from qmesh.agent.node.node_audit import read_config_file, read_key_store_file
from qmesh.agent.node.node_host import find_node_host
from qmesh.agent.node.node_keys import list_other_keys
from qmesh.agent.node.node_processes import build_readings, look_at_node
from qmesh.agent.node.node_program import find_node_programs
from qmesh.agent.node.worker_status import DialledWorkers, begin_dialling, probe_answers
from qmesh.errors import BadInput, EnrolmentRefused, MachineRefused
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.firewall import firewall_units, held_table
from qmesh.host.firewall.firewall_units import FirewallUnit
from qmesh.host.network import ports, routes, sysctl_files, sysctls
from qmesh.host.network.ssh_ports import find_ssh_ports
from qmesh.host.registry_access import open_registry
from qmesh.host.state.directory import State
from qmesh.host.system import systemd
from qmesh.host.system.agent_health import Health
from qmesh.mesh import nodeconfig
from qmesh.mesh.audit.node.silence import group_silent_cores
from qmesh.mesh.audit.surroundings import (
    AgentStatus,
    AgentTrouble,
    AuditContext,
    Change,
    ConfigFile,
    KeyStoreFile,
    LinkContext,
    NodeReport,
    PortContext,
    SilentWorkers,
)
from qmesh.mesh.foreign.obstacles import Obstacle
from qmesh.mesh.foreign.saved_rules import SavedRules
from qmesh.mesh.inventory import worker_ports
from qmesh.mesh.machine_facts.differences import list_fresh_facts
from qmesh.mesh.node_processes.answers import list_undialled_machines
from qmesh.mesh.node_processes.reading_record import Stamp
from qmesh.mesh.nodeconfig.program_version import NodeProgram
from qmesh.mesh.ports.closed_ports import describe_untouched_ports
from qmesh.mesh.protocol.versions import ProtocolsApart, SpokenProtocol
from qmesh.mesh.reachability.announcements import MissingAnnouncement, list_missing_announcements
from qmesh.mesh.reachability.unsupported_options import list_unsupported_options
from qmesh.mesh.state import NodeState
from qmesh.mesh.sysctls import Weakness, find_tracking_weakness, find_weaknesses
from qmesh.mesh.systemd.unit_failures import UnitFailure

SEE_RULES: Final = (
    "qmesh cannot read it; look at it with `nft list ruleset`, and remove it if you do not need it"
)


WRITABLE_S: Final = 3.0
"""Seconds that another writer of the registry has to end: those of qmesh's own need far less."""


class SeenNodeFiles(NamedTuple):
    """The node's files and programs. stamp: of config.yml, from before it was read."""

    stamp: Stamp | None
    config: ConfigFile | None
    programs: tuple[NodeProgram, ...]
    key_store: KeyStoreFile | None


def look_at_node_files(state: State, looks: PartChecks) -> SeenNodeFiles:
    """The node's files as they are. They are on a user's disk, for which nobody has to wait with the lock."""
    directory = looks.run("config.yml", lambda: state.settings().node_directory, None)
    if directory is None:
        return SeenNodeFiles(None, None, (), None)
    stamp, config = looks.run("config.yml", lambda: read_config_file(directory), (None, None))
    programs = looks.run("node's program", lambda: find_node_programs(directory), ())
    store = looks.run("node keys", lambda: read_key_store_file(directory, config), None)
    return SeenNodeFiles(stamp, config, programs, store)


def build_audit_context(
    state: State,
    here: Local,
    looks: PartChecks,
    seen: tuple[NodeState, NodeState] | None,
    *,
    taken_down: bool,
    agent: tuple[AgentStatus | None, Health | None],
    files: SeenNodeFiles,
    dialled: DialledWorkers | None,
) -> AuditContext:
    """All but the node's processes. here: with tunnel and guard. seen: desired and observed, where known.

    taken_down: whether `qmesh down` was run. agent: as of `read_agent_status`. dialled: None where none is.
    """
    status, health = agent
    listeners = looks.run("listeners", ports.list_listeners, ())
    firewalls = looks.run("units that flush", firewall_units.read_firewall_units, ())
    is_asked = not taken_down and not here.settings.removed
    mark = 0 if seen is None else looks.run("other firewalls", lambda: read_mark(seen[1]), 0)
    black_hole = None if seen is None else looks.run("tunnel", lambda: find_black_hole(here, *seen), None)
    control = (
        looks.run("membership service", lambda: _ask_control_node(here), _ANSWERS) if is_asked else _ANSWERS
    )
    obstacles: tuple[Obstacle, ...] = ()
    suspects: tuple[Obstacle, ...] = ()
    if seen is not None:
        obstacles = looks.run("other firewalls", lambda: _find_obstacles(here, looks, *seen, mark=mark), ())
        suspects = looks.run("other firewalls", lambda: find_program_suspects(here, *seen, mark=mark), ())
    of_ports = looks.run("listeners", lambda: _build_port_context(here, listeners), PortContext())
    # Last of what takes long: until now they were dialled besides.
    silent = () if taken_down else looks.run("workers", lambda: _find_silent(here, health, dialled), ())
    return AuditContext(
        public_key=here.machine.public_key,
        names={machine.public_key: machine.name for machine in here.inventory.machines},
        members=nodeconfig.tunnel_addresses_by_name(here.inventory),
        workers=nodeconfig.list_worker_multiaddrs(here.inventory),
        host=find_node_host(here.settings),
        silent=silent,
        is_control_first=looks.run("units of the node", systemd.has_control_first, None),
        unit_failures=looks.run("units of the node", lambda: _find_unit_failures(here, silent), ()),
        settings=nodeconfig.build_desired_settings(here.inventory, here.settings.name)[1:],
        profile=here.inventory.node,
        is_control=here.settings.control,
        key_files=looks.run("keys", lambda: list_key_files(state, here), ()),
        secret_files=looks.run("keys", lambda: list_secret_files(state), ()),
        own_name=here.settings.name,
        may_fetch=here.machine.node_files,
        config=files.config,
        programs=files.programs,
        key_store=files.key_store,
        other_keys=looks.run("node keys", lambda: list_other_keys(state, here), ()),
        ephemeral=looks.run("config.yml", ports.read_ephemeral_range, None),
        reserved=looks.run("config.yml", ports.read_reserved_ports, frozenset()),
        can_reserve=ports.can_reserve_ports(),
        reserved_lists=()
        if seen is None or set(seen[0].reserved_ports) <= set(seen[1].reserved_ports)
        else looks.run("sysctls", sysctl_files.read_reserved_lists, ()),
        listeners=listeners,
        ports=of_ports,
        taken_down=taken_down,
        removed=here.settings.removed,
        agent=status,
        unanswered=control.unanswered,
        unwritable=looks.run("membership service", lambda: _find_registry_trouble(state), None)
        if here.settings.control
        else None,
        apart=control.apart,
        obstacles=obstacles,
        suspects=suspects,
        control=here.inventory.control,
        missing_announcements=_list_missing_announcements(here),
        unsupported=list_unsupported_options(here.inventory),
        own_addresses=looks.run(
            "announcements", lambda: tuple(routes.list_global_addresses(here.settings.interface)), ()
        ),
        black_hole=black_hole,
        path_obstacles=()
        if seen is None or black_hole is None or black_hole.direction == "from"
        else looks.run("other firewalls", lambda: find_path_error_obstacles(here, seen[1]), ()),
        narrow_path=None
        if seen is None
        else looks.run("tunnel", lambda: find_narrow_path(here, *seen, state.directory), None),
        retired_since=""
        if here.settings.control
        else looks.run("membership", lambda: _find_retirement(state, here), ""),
        conflict=looks.run("membership", state.membership_conflict.read, None)
        if here.settings.control
        else None,
        links=LinkContext()
        if health is None or taken_down
        else looks.run("links", lambda: build_link_context(here, health, silent, seen), LinkContext()),
        detours=() if taken_down else looks.run("routes", lambda: find_detours(here), ()),
        overlaps=looks.run("routes", lambda: find_overlaps(here), ()),
        weaknesses=looks.run("sysctls", lambda: _find_weaknesses(here.settings.interface), ()),
        flusher=looks.run("units that flush", lambda: find_flushing_unit(state, firewalls), None),
        held=looks.run("units that flush", held_table.is_held, otherwise=False),
        facts={} if health is None else list_fresh_facts(here.inventory, health.facts),
        proof=None if health is None else health.proof,
        clock=looks.run("clock", lambda: compare_clock(state, here), None) if is_asked else None,
        saved_rules=looks.run("saved rules", lambda: _find_saved_rules(state, looks, firewalls), ()),
        unstarted=looks.run("agent", systemd.list_unstarted_units, ()),
        failed_firewalls=tuple(each.name for each in firewalls if each.state == "failed"),
        change=looks.run("unconfirmed changes", lambda: _find_unconfirmed_change(state), None),
    )


def _build_port_context(here: Local, listeners: tuple[tuple[str, int], ...]) -> PortContext:
    known, name = here.machine, here.settings.name
    untouched = describe_untouched_ports(here.inventory, name, (here.settings.listen_port,))
    beyond = {port for address, port in listeners if not ip_address(address).is_loopback}
    wide = beyond.difference(untouched, worker_ports(here.inventory, name))  # the node's own are many
    return PortContext(
        untouched=untouched,
        of_ssh=find_ssh_ports(wide, with_sessions=[each.port for each in known.guarded_ports]),
        asked=tuple(each.port for each in known.guarded_ports),
        left_open=known.left_open,
        programs={each.port: each.program for each in ports.find_listeners(wide) if each.protocol == "tcp"},
    )


def _list_missing_announcements(here: Local) -> tuple[MissingAnnouncement, ...]:
    """Of all machines on the control node, where they are given; elsewhere of this one."""
    found = list_missing_announcements(here.inventory)
    return tuple(each for each in found if here.settings.control or each.machine == here.settings.name)


def _find_obstacles(
    here: Local, looks: PartChecks, desired: NodeState, observed: NodeState, *, mark: int
) -> tuple[Obstacle, ...]:
    found, unread = find_firewall_obstacles(here, desired, observed, mark=mark)
    for each in unread:
        looks.add_failure("other firewalls", each, SEE_RULES)
    return found


class _ControlAnswer(NamedTuple):
    """unanswered, apart: as of `AuditContext`."""

    unanswered: str | None = None
    apart: SpokenProtocol | None = None


_ANSWERS: Final = _ControlAnswer()


def _ask_control_node(here: Local) -> _ControlAnswer:
    """How the control node answers a question of this machine's."""
    hub = here.inventory.control_node
    if here.settings.control or hub.name == here.settings.name:
        return _ANSWERS
    try:
        build_client(here).poll_membership(newer_than=here.inventory.revision, connect_s=2.0, read_s=3.0)
    except ProtocolsApart as error:
        return _ControlAnswer(apart=error.spoken)
    except EnrolmentRefused as error:
        return _ControlAnswer(f"{hub.name} refuses: {error.message}")
    except ControlNodeUnavailable as error:
        return _ControlAnswer(f"{hub.name}, {hub.address} port {here.inventory.service_port}: {error}")
    return _ANSWERS


def _find_registry_trouble(state: State) -> AgentTrouble | None:
    """Why the registry takes no change, as where a backup program holds it."""
    try:
        with open_registry(state.registry_file, busy_s=WRITABLE_S) as registry:
            registry.require_write_access()
    except MachineRefused as error:
        return AgentTrouble("registry", error.message, error.hint)
    return None


def _find_retirement(state: State, here: Local) -> str:
    """Since when the key that this machine has now is not the mesh's, as its agent was told; else empty."""
    known = state.key_retirement.read_valid()  # a damaged one: the agent is told again
    if known is None or known.public_key != here.machine.public_key:
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(known.at))


def begin_audit_dialling(here: Local, health: Health | None) -> DialledWorkers | None:
    """Dial the workers of machines of which something comes through the tunnel, as the agent says."""
    unheard = frozenset() if health is None else list_undialled_machines(here.inventory, health.links)
    return begin_dialling(here, unheard=unheard)


def _find_silent(
    here: Local, health: Health | None, dialled: DialledWorkers | None
) -> tuple[SilentWorkers, ...]:
    answers = probe_answers(here, notes=() if health is None else health.notes, dialled=dialled)
    return tuple(
        silent
        for name, found in answers.items()
        for silent in group_silent_cores(name, here.inventory.machine(name).address, found)
    )


def _find_unit_failures(here: Local, silent: tuple[SilentWorkers, ...]) -> tuple[UnitFailure, ...]:
    """How the units of silent workers of this machine ended; none where it has no units."""
    cores = [core for each in silent if each.machine == here.settings.name for core in each.cores]
    return systemd.read_unit_failures(cores) if systemd.has_node_units() else ()


def _find_weaknesses(interface: str) -> tuple[Weakness, ...]:
    settings = sysctls.read_interface_settings(except_interfaces=frozenset({"lo", interface}))
    full = find_tracking_weakness(*sysctls.read_tracking())
    return (*find_weaknesses(settings, sysctls.read_forwarding()), *full)


def _find_saved_rules(
    state: State, looks: PartChecks, units: tuple[FirewallUnit, ...]
) -> tuple[SavedRules, ...]:
    found, unread = find_saved_rules(state, units)
    for each in unread:
        looks.add_failure("saved rules", each, "see that root can read it, and look for `table inet qmesh`")
    return found


def _find_unconfirmed_change(state: State) -> Change | None:
    undoing = state.rollback_record.read()
    if undoing is None:
        return None
    return "undone" if undoing.undone else "unconfirmed"


def look_at_own_node(state: State, here: Local, files: SeenNodeFiles) -> NodeReport:
    """The node's processes. It may wait for a user's disk, and so is nothing to do with the lock.

    files: from before. Raises MachineRefused.
    """
    record, readings, config = state.process_record.read_valid(), None, files.config
    if files.stamp is not None and config is not None and config.text is not None:
        with contextlib.suppress(BadInput):  # which is a finding of config.yml
            readings = build_readings(here, record, files.stamp, config.parse(), config.mode)
    return look_at_node(state, here, record=record, readings=readings).report
