"""`check`: look at this machine and its surroundings, and audit them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import msgspec

from qmesh.agent import nodefile
from qmesh.agent.converge import wanted_and_observed
from qmesh.agent.firewalls import found_obstacles
from qmesh.agent.here import Here, load, require_root, risen
from qmesh.agent.reaching import found_black_hole
from qmesh.agent.undoing import put_back_when_due
from qmesh.agent.workers import watch_workers
from qmesh.errors import BadInput, StateUnreadable
from qmesh.host import files, nftables, ports, services, surroundings, sysctls
from qmesh.host.linux import Linux
from qmesh.host.state import State
from qmesh.mesh import networks, nodeconfig
from qmesh.mesh.audit import (
    BlackHole,
    Change,
    ConfigFile,
    Finding,
    Flusher,
    KeyFile,
    SecretFile,
    SilentWorkers,
    Surroundings,
    audit,
)
from qmesh.mesh.enrolment import public_key_of
from qmesh.mesh.foreign.obstacles import Obstacle
from qmesh.mesh.guard import HELD
from qmesh.mesh.sysctls import Weakness, weaknesses
from qmesh.mesh.units import AFTER_FLUSH, qmesh_units


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
    """Audit this machine. Raises MachineRefused where it could not look."""
    require_root("qmesh check")
    with state.lock():
        put_back_when_due(state)
        remembered = load(state)
        here = risen(remembered)
        linux = Linux(state, here.settings.interface, [])
        desired, observed = wanted_and_observed(here, linux)
        around = _surroundings(
            state,
            here,
            taken_down=not remembered.settings.up,
            obstacles=found_obstacles(here, desired, observed),
            black_hole=found_black_hole(here, observed),
        )
    return Report(here.settings.name, here.inventory.revision, audit(desired, observed, around))


def _surroundings(
    state: State,
    here: Here,
    *,
    taken_down: bool,
    obstacles: tuple[Obstacle, ...],
    black_hole: BlackHole | None,
) -> Surroundings:
    occupied = map(ip_network, surroundings.occupied_networks(here.settings.interface))
    machines = here.inventory.machines
    return Surroundings(
        public_key=here.machine.public_key,
        names={machine.public_key: machine.name for machine in machines},
        members=nodefile.addresses(here.inventory),
        workers=nodefile.multiaddrs(here.inventory),
        silent=() if taken_down else _silent(here),
        settings=nodeconfig.wanted_settings(here.inventory, here.settings.name)[1:],
        profile=here.inventory.node,
        is_control=here.settings.control,
        key_files=_key_files(state, here),
        secret_files=tuple(
            SecretFile(str(path), files.mode_of(path))
            for path in (state.preshared_key_file, state.registry_file)
        ),
        config=_config_file(here.settings.config_directory),
        ephemeral=ports.ephemeral(),
        reserved=ports.reserved(),
        listeners=ports.listeners(),
        taken_down=taken_down,
        removed=here.settings.removed,
        agent_runs=services.agent_runs(state),
        obstacles=obstacles,
        black_hole=black_hole,
        collision=networks.overlap(here.inventory.network, occupied),
        weaknesses=_weaknesses(here.settings.interface),
        flusher=_flusher(state),
        held=nftables.read_table(HELD) is not None,
        change=_change(state),
    )


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
    if not services.flushes():
        return None
    units = qmesh_units(services.paths(state, config_directory="/", program=services.DEFAULT_PROGRAM))
    return Flusher(services.FLUSHER, services.are_installed({AFTER_FLUSH: units[AFTER_FLUSH]}))


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


def _config_file(directory: str | None) -> ConfigFile | None:
    if directory is None:
        return None
    path = Path(directory) / nodefile.FILE_NAME
    try:
        found = nodefile.read(Path(directory))
    except (BadInput, StateUnreadable) as error:
        return ConfigFile(str(path), None, None, unreadable=error.message)
    return ConfigFile(str(path), found.text, found.mode)
