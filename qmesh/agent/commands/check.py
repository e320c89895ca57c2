"""`check`: look at this machine and its surroundings, and audit them."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from qmesh.agent import node_config
from qmesh.agent.control_endpoint import found_black_hole
from qmesh.agent.converge import guard_wanted_and_observed, wanted_and_observed
from qmesh.agent.foreign_firewalls import found_obstacles
from qmesh.agent.local import Here, load, require_root, risen
from qmesh.agent.rollback import put_back_when_due
from qmesh.agent.worker_status import watch_workers
from qmesh.errors import EnrolmentRefused, Interrupted, QmeshError, StateUnreadable, bug_at
from qmesh.host import files
from qmesh.host.api.messages import Silent
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.firewall import nftables
from qmesh.host.linux import Linux
from qmesh.host.network import ports, routes, sysctls
from qmesh.host.state.directory import State
from qmesh.host.system import agent_health, systemd
from qmesh.mesh import networks, nodeconfig
from qmesh.mesh.audit import (
    Agent,
    AgentTrouble,
    Change,
    ConfigFile,
    Finding,
    Flusher,
    KeyFile,
    Part,
    SecretFile,
    SilentWorkers,
    Surroundings,
    check_failed,
    parts,
)
from qmesh.mesh.foreign.obstacles import Obstacle
from qmesh.mesh.guard import HELD
from qmesh.mesh.model import NodeState
from qmesh.mesh.protocol.enrolment import public_key_of
from qmesh.mesh.sysctls import Weakness, weaknesses
from qmesh.mesh.units import AFTER_FLUSH, qmesh_units

T = TypeVar("T")
U = TypeVar("U")

AGENT_ANSWER_S = 3.0
NOTHING: Final = NodeState(guard=None, tunnel=None, reserved_ports=())
REPORT: Final = "report it with what `QMESH_TRACEBACK=1 qmesh check` shows"
SEE_RULES: Final = (
    "`nft list ruleset` shows it: is it needed? it can't be told whether it is in the mesh's way"
)
SEE_LOG = "see the agent's log: `journalctl -u qmesh`, or agent.log in the state directory"
LATE_S = 30.0
"""Seconds since an agent's last whole look that cannot be explained by what it waits for."""


class Report(msgspec.Struct, frozen=True):
    """What `check` answers."""

    machine: str
    revision: int
    findings: tuple[Finding, ...]

    @property
    def is_fine(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)


def check(state: State) -> Report:
    """Audit this machine, part by part: one that can't be audited is a finding, and the others are told.

    Raises QmeshError where it is not known what the machine should be.
    """
    require_root("qmesh check")
    looks = Looks()
    # Before it has to wait for this command, which must not wait for a user's disk.
    agent = looks.at("agent", lambda: _agent(state), None)
    config = looks.at("config.yml", lambda: _config_file(state.settings().node), None)
    with state.lock():
        looks.at("unconfirmed changes", lambda: put_back_when_due(state), otherwise=False)
        remembered = load(state)
        here = risen(remembered)
        seen = looks.at("tunnel", lambda: _wanted_and_observed(state, here), None)
        if seen is None:
            seen = looks.at("guard", lambda: _without_tunnel(state, here), None)
        around = _surroundings(
            state, here, looks, seen, taken_down=not remembered.settings.up, agent=agent, config=config
        )
    desired, observed = seen or (NOTHING, NOTHING)
    if seen is None:
        looks.skip("guard", "ports", "sysctls", "listeners", "config.yml")
    if "tunnel" in looks.skipped:
        looks.skip("membership service")
    found: list[Finding] = []
    for part, findings in parts(desired, observed, around):
        if part not in looks.skipped:
            found += looks.at(part, partial(_all, findings), ())
    return Report(here.settings.name, here.inventory.revision, (*looks.failures, *found))


def _all(findings: Callable[[], Iterable[Finding]]) -> tuple[Finding, ...]:
    return tuple(findings())


class Looks:
    """Looks at parts of the machine. What any of them raises is a finding, and the part is left out."""

    def __init__(self) -> None:
        self.failures: list[Finding] = []
        self.skipped: set[Part] = set()

    def at(self, part: Part, look: Callable[[], T], otherwise: U) -> T | U:
        """What is seen there, or `otherwise`. With QMESH_TRACEBACK a bug is raised."""
        try:
            return look()
        except Interrupted:
            raise
        except QmeshError as error:
            self.fail(part, error.message, error.hint)
        except Exception as error:
            if os.environ.get("QMESH_TRACEBACK"):
                raise
            self.fail(part, f"qmesh itself failed: {bug_at(error)}", REPORT)
        self.skip(part)
        return otherwise

    def fail(self, part: Part, why: str, cure: str) -> None:
        """Say that a part, or something of it, could not be audited."""
        self.failures.append(check_failed(part, why, cure))

    def skip(self, *skipped: Part) -> None:
        """Leave parts out."""
        self.skipped.update(skipped)


def _wanted_and_observed(state: State, here: Here) -> tuple[NodeState, NodeState]:
    return wanted_and_observed(here, Linux(state, here.settings.interface, []))


def _without_tunnel(state: State, here: Here) -> tuple[NodeState, NodeState]:
    return guard_wanted_and_observed(here, Linux(state, here.settings.interface, []))


def _surroundings(
    state: State,
    here: Here,
    looks: Looks,
    seen: tuple[NodeState, NodeState] | None,
    *,
    taken_down: bool,
    agent: Agent | None,
    config: ConfigFile | None,
) -> Surroundings:
    machines = here.inventory.machines
    is_asked = not taken_down and not here.settings.removed
    return Surroundings(
        public_key=here.machine.public_key,
        names={machine.public_key: machine.name for machine in machines},
        members=node_config.addresses(here.inventory),
        workers=node_config.multiaddrs(here.inventory),
        silent=() if taken_down else looks.at("workers", lambda: _silent(here), ()),
        settings=nodeconfig.wanted_settings(here.inventory, here.settings.name)[1:],
        profile=here.inventory.node,
        is_control=here.settings.control,
        key_files=looks.at("keys", lambda: _key_files(state, here), ()),
        secret_files=looks.at("keys", lambda: _secret_files(state), ()),
        config=config,
        ephemeral=looks.at("config.yml", ports.ephemeral, None),
        reserved=looks.at("config.yml", ports.reserved, frozenset()),
        listeners=looks.at("listeners", ports.listeners, ()),
        taken_down=taken_down,
        removed=here.settings.removed,
        agent=agent,
        unanswered=looks.at("membership service", lambda: _unanswered(here), None) if is_asked else None,
        obstacles=()
        if seen is None
        else looks.at("other firewalls", lambda: _obstacles(here, looks, *seen), ()),
        black_hole=None
        if seen is None
        else looks.at("tunnel", lambda: found_black_hole(here, seen[1]), None),
        collision=looks.at("tunnel", lambda: _collision(here), None),
        weaknesses=looks.at("sysctls", lambda: _weaknesses(here.settings.interface), ()),
        flusher=looks.at("units that flush", lambda: _flusher(state), None),
        held=looks.at("units that flush", lambda: nftables.read_table(HELD) is not None, otherwise=False),
        change=looks.at("unconfirmed changes", lambda: _change(state), None),
    )


def _obstacles(here: Here, looks: Looks, desired: NodeState, observed: NodeState) -> tuple[Obstacle, ...]:
    found, unread = found_obstacles(here, desired, observed)
    for each in unread:
        looks.fail("other firewalls", each, SEE_RULES)
    return found


def _collision(here: Here) -> str | None:
    occupied = map(ip_network, routes.occupied_networks(here.settings.interface))
    return networks.overlap(here.inventory.network, occupied)


def _secret_files(state: State) -> tuple[SecretFile, ...]:
    paths = (state.preshared_key_file, state.registry_file)
    return tuple(SecretFile(str(path), files.mode_of(path)) for path in paths)


def _agent(state: State) -> Agent | None:
    """This machine's agent, by its own word; None where none runs."""
    if not systemd.agent_runs(state):
        return None
    restart = systemd.restart_agent_command(state)
    try:
        said = agent_health.ask(state.directory, wait_s=AGENT_ANSWER_S)
    except agent_health.NoAnswer as error:
        if not systemd.agent_runs(state):
            return None
        return Agent(f"it runs and does not say how it is: {error}", (), restart)
    troubles = tuple(AgentTrouble(each.part, each.reason, each.hint) for each in said.troubles)
    late = said.looked_s is not None and said.looked_s > LATE_S
    restarts = tuple(AgentTrouble(each.part, _restarted(each), SEE_LOG) for each in said.restarts)
    return Agent(f"its last look is {said.looked_s:.0f} s ago" if late else None, troubles, restart, restarts)


def _restarted(restart: agent_health.Restart) -> str:
    ago = max(0, round((time.time() - restart.last) / 60))
    often = "once" if restart.times == 1 else f"{restart.times} times"
    return f"begun anew {often} within an hour, last {ago} min ago: {restart.reason}"


def _unanswered(here: Here) -> str | None:
    """Why the control node does not answer a question of this machine's; None where it does."""
    if here.settings.control or here.inventory.control == here.settings.name:
        return None
    from qmesh.host.api.client import Client  # noqa: PLC0415 - a control node has no use for it

    hub = here.inventory.control_node
    try:
        client = Client(address=hub.address, port=here.inventory.service_port)
        client.membership(newer_than=here.inventory.revision, connect_s=2.0, read_s=3.0)
    except EnrolmentRefused as error:
        return f"{hub.name} says no: {error.message}"
    except Silent as error:
        return f"{hub.name}, {hub.address} port {here.inventory.service_port}: {error}"
    return None


def _silent(here: Here) -> tuple[SilentWorkers, ...]:
    return tuple(
        SilentWorkers(
            name, here.inventory.machine(name).address, tuple(w.core for w in each.silent), each.alive == 0
        )
        for name, each in watch_workers(here).items()
        if each.silent
    )


def _weaknesses(interface: str) -> tuple[Weakness, ...]:
    settings = sysctls.per_interface(except_interfaces=frozenset({"lo", interface}))
    return tuple(weaknesses(settings, sysctls.forwarding()))


def _flusher(state: State) -> Flusher | None:
    if not systemd.flushes():
        return None
    units = qmesh_units(systemd.paths(state, config_directory="/", program=systemd.DEFAULT_PROGRAM))
    return Flusher(systemd.FLUSHER, systemd.are_installed({AFTER_FLUSH: units[AFTER_FLUSH]}))


def _change(state: State) -> Change | None:
    undoing = state.undoing()
    if undoing is None:
        return None
    return "undone" if undoing.undone else "unconfirmed"


def _key_files(state: State, here: Here) -> tuple[KeyFile, ...]:
    found = [_key_file(state.private_key_file, here.machine.public_key, lambda: _public_key(state))]
    if here.settings.control:
        wanted = _text(here.settings.verification_key)
        found.append(_key_file(state.signing_key_file, wanted, lambda: _signing_public_key(state)))
    return tuple(found)


def _key_file(path: Path, wanted: str, public_key: Callable[[], str | None]) -> KeyFile:
    try:
        known = public_key()
    except StateUnreadable:
        known = None
    return KeyFile(str(path), wanted, files.mode_of(path), known)


def _public_key(state: State) -> str | None:
    key = state.private_key()
    return None if key is None else public_key_of(key)


def _signing_public_key(state: State) -> str:
    return _text(state.signing_key().public_key().public_bytes_raw())


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _config_file(directory: ConfigDirectory | None) -> ConfigFile | None:
    if directory is None:
        return None
    path = directory.path / node_config.FILE_NAME
    try:
        found = node_config.read(directory)
    except QmeshError as error:
        return ConfigFile(str(path), None, None, unreadable=error.message, cure=error.hint)
    return ConfigFile(str(path), found.text, found.mode)
