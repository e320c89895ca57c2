"""The node's files and programs on this machine, as `check` audits them and `status` has their errors."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from qmesh.agent.local import Local, with_tunnel_and_guard
from qmesh.agent.node import node_config, node_directory
from qmesh.agent.node.identity_files import locate_file
from qmesh.agent.node.node_host import find_node_host
from qmesh.agent.node.node_program import find_node_programs
from qmesh.errors import BadInput, MachineRefused, QmeshError
from qmesh.host import config_directory
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.network import ports
from qmesh.host.typed_commands import build_command
from qmesh.mesh import nodeconfig
from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.audit.parts import list_node_findings
from qmesh.mesh.audit.surroundings import (
    NEW_CONFIG,
    AuditContext,
    ConfigFile,
    FileObstacle,
    KeyStoreFile,
    SecretFile,
)
from qmesh.mesh.desired import Facts
from qmesh.mesh.node_keys.key_store import KEY_STORE, find_key_store
from qmesh.mesh.node_processes.reading_record import Stamp


def read_config_file(directory: ConfigDirectory | None) -> tuple[Stamp | None, ConfigFile | None]:
    """The file, and its stamp from before it was read. None where its place is not known."""
    if directory is None:
        return None, None
    path = directory.path / node_directory.FILE_NAME
    try:
        stamp = config_directory.read_stamp(directory, node_directory.FILE_NAME)
        found = node_config.read_in_any_encoding(directory)
    except QmeshError as error:
        return None, ConfigFile(str(path), None, None, unreadable=error.message, cure=error.hint)
    config = ConfigFile(
        str(path),
        found.text,
        found.mode,
        closing=_find_closing_command(directory, node_directory.FILE_NAME),
        is_utf16=found.is_utf16,
        obstacle=_find_obstacle(directory, node_directory.FILE_NAME),
    )
    if found.text is None:
        return stamp, config
    with contextlib.suppress(BadInput):  # which is a finding
        config = msgspec.structs.replace(config, scanned=config.scan())
    return stamp, msgspec.structs.replace(config, keys=_look_at_keys_file(directory, config))


def _find_obstacle(directory: ConfigDirectory, name: str) -> FileObstacle | None:
    """What keeps a file from being replaced; what cannot be looked at is a finding of its own."""
    try:
        found = config_directory.find_write_obstacle(directory, name)
    except QmeshError:
        return None
    if found is None:
        return None
    is_fixed = found.kind == "immutable" and found.path.name == name
    return FileObstacle(
        path=str(found.path),
        reason=found.reason,
        cure=found.hint,
        fill=_build_filling_command(found.path) if found.kind == "mount" else "",
        forbids_change=is_fixed or found.kind == "read-only",
    )


def _find_closing_command(directory: ConfigDirectory, name: str) -> str:
    """Empty where it cannot be looked at, which is a finding of its own."""
    try:
        return config_directory.build_closing_command(directory, name)
    except QmeshError:
        return ""


def _build_filling_command(path: Path) -> str:
    return build_command(f"cat {NEW_CONFIG} > {{}}", path, needs_root=True)


def _look_at_keys_file(directory: ConfigDirectory, config: ConfigFile) -> SecretFile | None:
    """The mode of keys.yml; None where it can't be found, which is for others to say."""
    try:
        path = Path(find_key_store(config.parse(), str(directory.path)))
        there = directory if path.parent == directory.path else config_directory.find(path.parent)
        if there is None:
            return None
        mode = config_directory.read_mode(there, path.name)
        return SecretFile(str(path), mode, _find_closing_command(there, path.name))
    except QmeshError:
        return None


def read_key_store_file(directory: ConfigDirectory | None, config: ConfigFile | None) -> KeyStoreFile | None:
    """The keys.yml to which config.yml leads; None where that tells no place."""
    if directory is None or config is None or config.text is None:
        return None
    try:
        path = Path(find_key_store(config.parse(), str(directory.path)))
    except BadInput:  # which is a finding of config.yml
        return None
    try:
        there = locate_file(directory, path)
        found = config_directory.read(there, path.name)
        beside = config_directory.read_stamp(directory, KEY_STORE)
    except QmeshError as error:
        return KeyStoreFile(
            path=str(path),
            octets=None,
            is_beside_config=False,
            unreadable=error.message,
            cure=error.hint,
        )
    return KeyStoreFile(
        path=str(path),
        octets=None if found is None else found.octets,
        is_beside_config=beside is not None,
        obstacle=_find_obstacle(there, path.name),
    )


def list_node_errors(here: Local) -> tuple[Finding, ...]:
    """What `check` calls an error in this machine's config.yml, keys.yml and programs of the node."""
    settings, mesh = here.settings, here.inventory
    directory = settings.node_directory
    if directory is None or settings.removed:
        return ()
    try:
        ephemeral, reserved = ports.read_ephemeral_range(), ports.read_reserved_ports()
    except MachineRefused:
        ephemeral, reserved = None, frozenset[int]()
    _, config = read_config_file(directory)
    around = AuditContext(
        public_key=here.machine.public_key,
        names={machine.public_key: machine.name for machine in mesh.machines},
        members=nodeconfig.tunnel_addresses_by_name(mesh),
        workers=nodeconfig.list_worker_multiaddrs(mesh),
        settings=nodeconfig.build_desired_settings(mesh, settings.name)[1:],
        profile=mesh.node,
        is_control=settings.control,
        own_name=settings.name,
        control=mesh.control,
        may_fetch=here.machine.node_files,
        host=find_node_host(settings),
        config=config,
        key_store=read_key_store_file(directory, config),
        programs=find_node_programs(directory),
        ephemeral=ephemeral,
        reserved=reserved,
        key_files=(),
        secret_files=(),
        listeners=(),
    )
    # Of the state that is desired only the tunnel's address and the ports count, which need no look.
    desired = with_tunnel_and_guard(here).build_desired_state(Facts(kind="tun"))
    return tuple(each for each in list_node_findings(desired, around) if each.severity == "error")
