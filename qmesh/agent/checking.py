"""`check`: look at this machine and its surroundings, and audit them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qmesh.agent import nodefile
from qmesh.agent.converge import wanted_and_observed
from qmesh.agent.here import Here, load, require_root, risen
from qmesh.errors import BadInput, StateUnreadable
from qmesh.host import files, ports, services
from qmesh.host.linux import Linux
from qmesh.host.state import State
from qmesh.mesh.audit import ConfigFile, Finding, KeyFile, SecretFile, Surroundings, audit
from qmesh.mesh.enrolment import public_key_of


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
        remembered = load(state)
        here = risen(remembered)
        linux = Linux(state, here.settings.interface, [])
        desired, observed = wanted_and_observed(here, linux)
        around = _surroundings(state, here, taken_down=not remembered.settings.up)
    return Report(here.settings.name, here.inventory.revision, audit(desired, observed, around))


def _surroundings(state: State, here: Here, *, taken_down: bool) -> Surroundings:
    machines = here.inventory.machines
    return Surroundings(
        public_key=here.machine.public_key,
        names={machine.public_key: machine.name for machine in machines},
        workers=nodefile.multiaddrs(here.inventory),
        profile=here.inventory.node,
        is_control=here.settings.control,
        key_file=_key_file(state),
        secret_files=_secret_files(state),
        config=_config_file(here.settings.config_directory),
        listeners=ports.listeners(),
        taken_down=taken_down,
        agent_runs=services.agent_runs(state),
    )


def _key_file(state: State) -> KeyFile:
    path = state.private_key_file
    try:
        key = state.private_key()
    except StateUnreadable:
        key = None
    return KeyFile(str(path), files.mode_of(path), None if key is None else public_key_of(key))


def _secret_files(state: State) -> tuple[SecretFile, ...]:
    paths = (state.signing_key_file, state.preshared_key_file, state.registry_file)
    found = ((path, files.mode_of(path)) for path in paths)
    return tuple(SecretFile(str(path), mode) for path, mode in found if mode is not None)


def _config_file(directory: str | None) -> ConfigFile | None:
    if directory is None:
        return None
    path = Path(directory) / nodefile.FILE_NAME
    try:
        found = nodefile.read(Path(directory))
    except (BadInput, StateUnreadable) as error:
        return ConfigFile(str(path), None, None, unreadable=error.message)
    return ConfigFile(str(path), found.text, found.mode)
