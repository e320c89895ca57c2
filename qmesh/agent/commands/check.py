"""`check`: look at this machine and its surroundings, and audit them."""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from qmesh.agent.audit.clocks import compare_clock
from qmesh.agent.audit.control_path import find_black_hole, find_narrow_path
from qmesh.agent.audit.foreign_firewalls import find_firewall_obstacles
from qmesh.agent.audit.links import build_link_context
from qmesh.agent.audit.saved_rules import find_flushing_unit, find_saved_rules
from qmesh.agent.converge import desired_and_observed, desired_and_observed_guard
from qmesh.agent.detours import find_detours, find_overlaps
from qmesh.agent.local import Local, MembershipInvalid, load_local, with_tunnel_and_guard
from qmesh.agent.node.node_audit import read_config_file, read_key_store_file
from qmesh.agent.node.node_host import find_node_host
from qmesh.agent.node.node_keys import list_other_keys
from qmesh.agent.node.node_processes import build_readings, look_at_node, read_record
from qmesh.agent.node.node_program import find_node_programs
from qmesh.agent.node.unit_failures import find_unit_failures
from qmesh.agent.node.worker_status import WorkerAnswer, probe_answers
from qmesh.agent.preconditions import check_user, lock_checked
from qmesh.agent.rollback import roll_back_if_due
from qmesh.errors import (
    BadInput,
    EnrolmentRefused,
    Interrupted,
    QmeshError,
    StateUnreadable,
    describe_unexpected_error,
)
from qmesh.host import files
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.firewall import firewall_units, held_table
from qmesh.host.firewall.firewall_units import FirewallUnit
from qmesh.host.linux import Linux
from qmesh.host.network import ports, routes, sysctls
from qmesh.host.network.ssh_ports import find_ssh_ports
from qmesh.host.state.directory import State
from qmesh.host.system import agent_health, background, systemd
from qmesh.mesh import nodeconfig
from qmesh.mesh.audit import (
    AgentStatus,
    AgentTrouble,
    AuditContext,
    Change,
    ConfigFile,
    Finding,
    KeyFile,
    KeyStoreFile,
    LinkContext,
    NodeReport,
    Part,
    PortContext,
    SecretFile,
    SilentWorkers,
    failed_check_finding,
    invalid_membership_finding,
    list_audit_parts,
)
from qmesh.mesh.foreign.obstacles import Obstacle
from qmesh.mesh.foreign.saved_rules import SavedRules
from qmesh.mesh.inventory import Worker, worker_ports
from qmesh.mesh.node_processes.readings import Stamp
from qmesh.mesh.node_processes.silence import SilenceReason
from qmesh.mesh.nodeconfig.program_version import NodeProgram
from qmesh.mesh.ports.closed_ports import list_untouched_ports
from qmesh.mesh.protocol.enrolment import derive_public_key
from qmesh.mesh.reachability.announcements import MissingAnnouncement, list_missing_announcements
from qmesh.mesh.reachability.unsupported_options import list_unsupported_options
from qmesh.mesh.state import NodeState
from qmesh.mesh.sysctls import Weakness, find_weaknesses
from qmesh.mesh.systemd.instructions import describe_agent_log

T = TypeVar("T")
U = TypeVar("U")

AGENT_ANSWER_S = 3.0
NOTHING: Final = NodeState(guard=None, tunnel=None, reserved_ports=())
REPORT: Final = "report it with what `QMESH_TRACEBACK=1 qmesh check` shows"
SEE_RULES: Final = (
    "qmesh cannot read it; look at it with `nft list ruleset`, and remove it if you do not need it"
)
MOST_AWAITED: Final = 8
"""Machines that were never heard, and not awaited for long yet, whose workers are dialled all the same."""
LATE_S = 30.0
"""Seconds since an agent's last whole look that cannot be explained by what it waits for."""


class Report(msgspec.Struct, frozen=True):
    """What `check` answers."""

    machine: str
    revision: int  # 0 where the membership is invalid
    findings: tuple[Finding, ...]

    @property
    def is_fine(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)


def check(state: State) -> Report:
    """Audit this machine, part by part: one that can't be audited is a finding, and the others are told.

    Raises QmeshError where it is not known what the machine should be.
    """
    check_user("check")
    looks = PartChecks()
    # Before it has to wait for this command, which must not wait for a user's disk.
    agent, health = looks.run("agent", lambda: _read_agent_status(state), (None, None))
    stamp, config = looks.run(
        "config.yml", lambda: read_config_file(state.settings().node_directory), (None, None)
    )
    programs = looks.run("node's program", lambda: _find_node_programs(state.settings().node_directory), ())
    store = looks.run("node keys", lambda: read_key_store_file(state.settings().node_directory, config), None)
    with lock_checked(state, "check"):
        looks.run("unconfirmed changes", lambda: roll_back_if_due(state), otherwise=False)
        try:
            remembered = load_local(state)
        except MembershipInvalid as error:  # it is not known what the machine should be
            invalid = invalid_membership_finding(str(error.path), error.why, error.hint)
            return Report(state.settings().name, 0, (invalid, *looks.failures))
        here = with_tunnel_and_guard(remembered)
        seen = looks.run("tunnel", lambda: _desired_and_observed(state, here), None)
        if seen is None:
            seen = looks.run("guard", lambda: _desired_and_observed_guard(state, here), None)
        around = _build_audit_context(
            state,
            here,
            looks,
            seen,
            taken_down=not remembered.settings.up,
            agent=agent,
            health=health,
            files=_SeenFiles(config, stamp, store),
        )
        around = msgspec.structs.replace(around, programs=programs)
    desired, observed = seen or (NOTHING, NOTHING)
    if seen is None:
        looks.skip("guard", "ports", "sysctls", "listeners", "config.yml")
    if "tunnel" in looks.skipped:
        looks.skip("membership service")
    found: list[Finding] = []
    for part, findings in list_audit_parts(desired, observed, around):
        if part not in looks.skipped:
            found += looks.run(part, partial(_collect_findings, findings), ())
    return Report(here.settings.name, here.inventory.revision, (*looks.failures, *found))


def _collect_findings(findings: Callable[[], Iterable[Finding]]) -> tuple[Finding, ...]:
    return tuple(findings())


class PartChecks:
    """Looks at parts of the machine. What any of them raises is a finding, and the part is left out."""

    def __init__(self) -> None:
        self.failures: list[Finding] = []
        self.skipped: set[Part] = set()

    def run(self, part: Part, look: Callable[[], T], otherwise: U) -> T | U:
        """What is seen there, or `otherwise`. With QMESH_TRACEBACK a bug is raised."""
        try:
            return look()
        except Interrupted:
            raise
        except QmeshError as error:
            self.add_failure(part, error.message, error.hint)
        except Exception as error:
            if os.environ.get("QMESH_TRACEBACK"):
                raise
            self.add_failure(part, f"qmesh itself failed: {describe_unexpected_error(error)}", REPORT)
        self.skip(part)
        return otherwise

    def add_failure(self, part: Part, why: str, cure: str) -> None:
        """Say that a part, or something of it, could not be audited."""
        self.failures.append(failed_check_finding(part, why, cure))

    def skip(self, *skipped: Part) -> None:
        """Leave parts out."""
        self.skipped.update(skipped)


def _desired_and_observed(state: State, here: Local) -> tuple[NodeState, NodeState]:
    return desired_and_observed(here, Linux(state, here.settings.interface, []))


def _desired_and_observed_guard(state: State, here: Local) -> tuple[NodeState, NodeState]:
    return desired_and_observed_guard(here, Linux(state, here.settings.interface, []))


class _SeenFiles(NamedTuple):
    """The node's files. stamp: of config.yml, from before it was read."""

    config: ConfigFile | None
    stamp: Stamp | None
    store: KeyStoreFile | None


def _build_audit_context(
    state: State,
    here: Local,
    looks: PartChecks,
    seen: tuple[NodeState, NodeState] | None,
    *,
    taken_down: bool,
    agent: AgentStatus | None,
    health: agent_health.Health | None,
    files: _SeenFiles,
) -> AuditContext:
    machines = here.inventory.machines
    firewalls = looks.run("units that flush", firewall_units.read_firewall_units, ())
    is_asked = not taken_down and not here.settings.removed
    silent = () if taken_down else looks.run("workers", lambda: _find_silent_workers(here, health), ())
    return AuditContext(
        public_key=here.machine.public_key,
        names={machine.public_key: machine.name for machine in machines},
        members=nodeconfig.tunnel_addresses_by_name(here.inventory),
        workers=nodeconfig.list_worker_multiaddrs(here.inventory),
        host=find_node_host(here.settings),
        silent=silent,
        is_control_first=looks.run("units of the node", systemd.has_control_first, None),
        unit_failures=find_unit_failures(silent, here.settings.name),
        node=None
        if taken_down
        else looks.run("node processes", lambda: _look_at_node(state, here, files.stamp, files.config), None),
        settings=nodeconfig.build_desired_settings(here.inventory, here.settings.name)[1:],
        profile=here.inventory.node,
        is_control=here.settings.control,
        key_files=looks.run("keys", lambda: _list_key_files(state, here), ()),
        secret_files=looks.run("keys", lambda: _list_secret_files(state), ()),
        own_name=here.settings.name,
        may_fetch=here.machine.node_files,
        config=files.config,
        key_store=files.store,
        other_keys=looks.run("node keys", lambda: list_other_keys(state, here), ()),
        ephemeral=looks.run("config.yml", ports.read_ephemeral_range, None),
        reserved=looks.run("config.yml", ports.read_reserved_ports, frozenset()),
        can_reserve=ports.can_reserve_ports(),
        listeners=looks.run("listeners", ports.list_listeners, ()),
        ports=looks.run("listeners", lambda: _build_port_context(here), PortContext()),
        taken_down=taken_down,
        removed=here.settings.removed,
        agent=agent,
        unanswered=looks.run("membership service", lambda: _find_control_failure(here), None)
        if is_asked
        else None,
        obstacles=()
        if seen is None
        else looks.run("other firewalls", lambda: _find_obstacles(here, looks, *seen), ()),
        control=here.inventory.control,
        missing_announcements=_list_missing_announcements(here),
        unsupported=list_unsupported_options(here.inventory),
        own_addresses=looks.run(
            "announcements", lambda: tuple(routes.list_global_addresses(here.settings.interface)), ()
        ),
        black_hole=None if seen is None else looks.run("tunnel", lambda: find_black_hole(here, *seen), None),
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
        clock=looks.run("clock", lambda: compare_clock(state, here), None) if is_asked else None,
        saved_rules=looks.run("saved rules", lambda: _find_saved_rules(state, looks, firewalls), ()),
        failed_firewalls=tuple(each.name for each in firewalls if each.state == "failed"),
        change=looks.run("unconfirmed changes", lambda: _find_unconfirmed_change(state), None),
    )


def _build_port_context(here: Local) -> PortContext:
    known, name = here.machine, here.settings.name
    untouched = list_untouched_ports(here.inventory, name, here.settings.listen_port)
    beyond = {port for address, port in ports.list_listeners() if not ip_address(address).is_loopback}
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
    here: Local, looks: PartChecks, desired: NodeState, observed: NodeState
) -> tuple[Obstacle, ...]:
    found, unread = find_firewall_obstacles(here, desired, observed)
    for each in unread:
        looks.add_failure("other firewalls", each, SEE_RULES)
    return found


def _list_secret_files(state: State) -> tuple[SecretFile, ...]:
    paths = (state.preshared_key_file, state.registry_file)
    return tuple(SecretFile(str(path), files.read_mode(path)) for path in paths)


def _read_agent_status(state: State) -> tuple[AgentStatus | None, agent_health.Health | None]:
    """This machine's agent, by its own word, and that; None where none runs, or it says nothing."""
    if not background.is_agent_running(state):
        return None, None
    restart = background.format_restart_command(state)
    try:
        said = agent_health.request_health(state.directory, wait_s=AGENT_ANSWER_S)
    except agent_health.NoAnswer as error:
        if not background.is_agent_running(state):
            return None, None
        return AgentStatus(f"it runs, but does not report its state: {error}", (), restart), None
    troubles = tuple(AgentTrouble(each.part, each.reason, each.hint) for each in said.troubles)
    late = said.looked_s is not None and said.looked_s > LATE_S
    see_log = f"see the agent's log: {describe_agent_log(has_systemd=systemd.is_systemd_running())}"
    restarts = tuple(AgentTrouble(each.part, _describe_restart(each), see_log) for each in said.restarts)
    silent = f"it last looked at this machine {said.looked_s:.0f} s ago" if late else None
    return AgentStatus(silent, troubles, restart, restarts), said


def _describe_restart(restart: agent_health.Restart) -> str:
    ago = max(0, round((time.time() - restart.last) / 60))
    often = "once" if restart.times == 1 else f"{restart.times} times"
    return f"restarted {often} within an hour, last {ago} min ago: {restart.reason}"


def _find_control_failure(here: Local) -> str | None:
    """Why the control node does not answer a question of this machine's; None where it does."""
    if here.settings.control or here.inventory.control == here.settings.name:
        return None
    from qmesh.host.api.client import Client  # noqa: PLC0415 - a control node has no use for it

    hub = here.inventory.control_node
    try:
        client = Client(address=hub.address, port=here.inventory.service_port)
        client.poll_membership(newer_than=here.inventory.revision, connect_s=2.0, read_s=3.0)
    except EnrolmentRefused as error:
        return f"{hub.name} refuses: {error.message}"
    except ControlNodeUnavailable as error:
        return f"{hub.name}, {hub.address} port {here.inventory.service_port}: {error}"
    return None


def _find_retirement(state: State, here: Local) -> str:
    """Since when the key that this machine has now is not the mesh's, as its agent was told; else empty."""
    known = state.key_retirement.read()
    if known is None or known.public_key != here.machine.public_key:
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(known.at))


def _find_silent_workers(here: Local, health: agent_health.Health | None) -> tuple[SilentWorkers, ...]:
    notes = () if health is None else health.notes
    return tuple(
        silent
        for name, found in probe_answers(
            here, unheard=_list_unheard_machines(here, health), notes=notes
        ).items()
        for silent in _group_silent_cores(name, here.inventory.machine(name).address, found)
    )


def _list_unheard_machines(here: Local, health: agent_health.Health | None) -> frozenset[str]:
    """Those of which nothing comes, as the agent says; but for a few that may be about to be heard."""
    if health is None:
        return frozenset()
    links = health.links
    waiting = links.waiting if len(links.waiting) > MOST_AWAITED else ()
    keys = {*(link.public_key for link in links.silent), *links.quiet, *waiting}
    return frozenset(each.name for each in here.inventory.machines if each.public_key in keys)


def _group_silent_cores(
    name: str, address: str, found: Iterable[tuple[Worker, WorkerAnswer]]
) -> Iterator[SilentWorkers]:
    """Those of a machine, by the reason."""
    groups: dict[tuple[SilenceReason, tuple[str, ...]], list[int]] = {}
    is_alive = False
    for worker, answer in found:
        if answer.seconds is None:
            groups.setdefault((answer.why, answer.elsewhere), []).append(worker.core)
        else:
            is_alive = True
    for (why, elsewhere), cores in groups.items():
        are_all = not is_alive and len(groups) == 1
        yield SilentWorkers(name, address, tuple(cores), are_all, why, elsewhere)


def _find_weaknesses(interface: str) -> tuple[Weakness, ...]:
    settings = sysctls.read_interface_settings(except_interfaces=frozenset({"lo", interface}))
    return tuple(find_weaknesses(settings, sysctls.read_forwarding()))


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


def _list_key_files(state: State, here: Local) -> tuple[KeyFile, ...]:
    found = [
        _build_key_file(state.private_key_file, here.machine.public_key, lambda: _read_public_key(state))
    ]
    if here.settings.control:
        wanted = _encode_base64(here.settings.verification_key)
        found.append(_build_key_file(state.signing_key_file, wanted, lambda: _read_signing_public_key(state)))
    return tuple(found)


def _build_key_file(path: Path, wanted: str, public_key: Callable[[], str | None]) -> KeyFile:
    try:
        known = public_key()
    except StateUnreadable:
        known = None
    return KeyFile(str(path), wanted, files.read_mode(path), known)


def _read_public_key(state: State) -> str | None:
    key = state.private_key()
    return None if key is None else derive_public_key(key)


def _read_signing_public_key(state: State) -> str:
    return _encode_base64(state.signing_key().public_key().public_bytes_raw())


def _encode_base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _find_node_programs(directory: ConfigDirectory | None) -> tuple[NodeProgram, ...]:
    return () if directory is None else find_node_programs(directory)


def _look_at_node(state: State, here: Local, stamp: Stamp | None, config: ConfigFile | None) -> NodeReport:
    record, readings = read_record(state), None
    if stamp is not None and config is not None and config.text is not None:
        with contextlib.suppress(BadInput):  # which is a finding of config.yml
            readings = build_readings(here, record, stamp, config.text, config.mode)
    return look_at_node(state, here, record=record, readings=readings, with_other_nodes=True).report
