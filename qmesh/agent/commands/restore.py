"""`restore`: make this machine the control node that a backup is of.

That a restore is under way is remembered first, that it is done last, and the settings, which make this
machine part of the mesh, come after the keys and the registry: cut off at any instant, the same command
again begins anew or goes on.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from qmesh.agent import detours
from qmesh.agent.agent_start import ensure_agent
from qmesh.agent.backup_contents import BackupContents, open_backup
from qmesh.agent.bring_up import bring_up
from qmesh.agent.leftovers import handle_leftovers, make_state_directory
from qmesh.agent.local import JoinResult, Local, join_result, load_local
from qmesh.agent.node import node_config, node_directory
from qmesh.agent.preconditions import check_user, find_differences, lock_checked, refuse_occupied
from qmesh.errors import BadInput, QmeshError
from qmesh.host import config_directory, wireguard
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.firewall import nftables
from qmesh.host.registry import RegistryImage
from qmesh.host.registry.image import write_registry
from qmesh.host.state.directory import State
from qmesh.host.state.documents import RestoreProgress, Settings
from qmesh.host.system.sudo_user import find_invoking_user
from qmesh.mesh import nodeconfig
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Cores
from qmesh.mesh.protocol.backup_file import build_restored_inventory, is_encrypted
from qmesh.mesh.routes.detours import TunnelPlace
from qmesh.mesh.values import REVISION_JUMP, Endpoint, Secret

log = logging.getLogger("qmesh")

_MOST_JUMP = 1_000 * REVISION_JUMP


class RestoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `restore` was asked for. jump: by how much the revision grows; take_over: as of `join`."""

    endpoints: tuple[str, ...]
    config: Path | None
    jump: int = REVISION_JUMP
    take_over: bool = False


class BackupSummary(msgspec.Struct, frozen=True):
    """What a backup is of, before anything is written.

    mesh, name, public_key: the mesh's identifier, and the control node's name and WireGuard key.
    taken_at: Unix time in seconds; age_s: seconds since then, by this clock; less than 0 where it is to come.
    machines: all of the mesh, by name.
    """

    mesh: str
    name: str
    public_key: str
    revision: int
    taken_at: int
    age_s: int
    encrypted: bool
    machines: tuple[str, ...]


class RestoredMachine(msgspec.Struct, frozen=True):
    """A machine of the restored mesh. endpoint: where this one can call it; None where it has to call."""

    name: str
    state: str
    address: str
    cores: Cores | None
    endpoint: Endpoint | None


class RestoreResult(JoinResult, frozen=True):
    """What `restore` answers: where this machine stands, and what of the mesh is restored.

    taken_at: when the backup was made, Unix time in seconds; age_s: how long that is ago, by this clock.
    endpoints: where invitations say that the control node is; empty for its own addresses.
    withdrawn: the machines whose invitations were open then.
    """

    revision: int
    taken_at: int
    age_s: int
    endpoints: tuple[Endpoint, ...]
    machines: tuple[RestoredMachine, ...]
    withdrawn: tuple[str, ...]


def restore(
    state: State,
    octets: bytes,
    passphrase: bytes | None,
    wish: RestoreOptions,
    *,
    apply: bool,
    agree: Callable[[BackupSummary], None] = lambda _: None,
) -> RestoreResult:
    """Be the control node of a backup; or go on with a restore of it that was cut off.

    passphrase: None for a plain one, and only for that.
    agree: is told what is to be restored, before anything is written; it may raise BadInput.
    Raises BadInput before anything is written, or MachineRefused with everything put back.
    """
    check_user("restore")
    found = open_backup(octets, passphrase)
    agree(_summarize_backup(found, encrypted=is_encrypted(octets)))
    wanted = _build_restored_mesh(found, wish)
    directory = node_directory.find_directory(wish.config)
    nodeconfig.refuse_newer_config(wanted.node, node_config.read_profile(directory))
    restoring = RestoreProgress(hashlib.sha256(octets).hexdigest())
    nftables.require_nftables()
    if apply:
        wireguard.detect_tunnel_kind()
    with make_state_directory(state), lock_checked(state, "restore"):
        if state.find_settings() is None:
            handle_leftovers(state, take_over=wish.take_over)
            _refuse_collisions(state, found)
            _restore_state(state, found, wish, restoring, directory, apply=apply)
        else:
            _refuse_other_backup(state, restoring)
            _refuse_other_options(load_local(state), _parse_endpoints(found, wish), directory)
            log.info("this backup was restored here already: going on with that; the mesh stays as it is now")
            if apply:
                bring_up(state, load_local(state))
        here = load_local(state)
    if apply:
        ensure_agent(state)
    state.restore_progress.write(msgspec.structs.replace(restoring, done=True))
    return _build_result(found, here.inventory, join_result(here))


def _summarize_backup(found: BackupContents, *, encrypted: bool) -> BackupSummary:
    mesh, taken_at = found.inventory, found.backup.taken_at
    return BackupSummary(
        mesh=mesh.mesh,
        name=mesh.control,
        public_key=mesh.control_node.public_key,
        revision=mesh.revision,
        taken_at=taken_at,
        age_s=int(time.time()) - taken_at,
        encrypted=encrypted,
        machines=tuple(machine.name for machine in mesh.machines),
    )


def _build_restored_mesh(found: BackupContents, wish: RestoreOptions) -> Inventory:
    """The mesh as it is to be. Raises BadInput."""
    if not REVISION_JUMP <= wish.jump <= _MOST_JUMP:
        raise BadInput(
            f"--jump cannot be {wish.jump}",
            hint=f"pass --jump with a number from {REVISION_JUMP} to {_MOST_JUMP}",
        )
    return build_restored_inventory(found.inventory, _parse_endpoints(found, wish), jump=wish.jump)


def _parse_endpoints(found: BackupContents, wish: RestoreOptions) -> tuple[Endpoint, ...]:
    port = found.settings.listen_port
    return tuple(Endpoint.parse(text, default_port=port) for text in wish.endpoints)


def _refuse_collisions(state: State, found: BackupContents) -> None:
    interface, listen_port = found.settings.interface, found.settings.listen_port
    mesh = found.inventory
    detours.refuse_collisions(
        TunnelPlace(interface, mesh.network, mesh.control_node.address),
        {each.name: each.address for each in mesh.machines if each.name != mesh.control},
        hint="or restore on another machine",
    )
    refuse_occupied(
        state,
        interface,
        listen_port,
        rename="rename the existing interface; the restored tunnel needs its name",
        move="stop that program; the members dial this port",
    )


def _refuse_other_backup(state: State, restoring: RestoreProgress) -> None:
    begun = state.restore_progress.read()
    if begun is None or begun.digest != restoring.digest:
        settings = state.settings()
        raise BadInput(
            f"this machine is already {settings.name} of mesh {settings.mesh}",
            hint="restore on another machine, or first discard this one's state:"
            " `qmesh uninstall --delete-state`",
        )


def _refuse_other_options(
    here: Local, endpoints: tuple[Endpoint, ...], directory: ConfigDirectory | None
) -> None:
    differs = find_differences(
        ("--endpoint", endpoints or None, here.machine.endpoints),
        ("--config", directory and str(directory), here.settings.config_directory),
    )
    if differs:
        raise BadInput(
            f"this backup was restored here already, with another {differs}",
            hint=f"leave it out; change it later with `qmesh set {here.settings.name} --endpoint HOST:PORT`"
            " or `qmesh render-config --write --config DIR`",
        )


def _restore_state(
    state: State,
    found: BackupContents,
    wish: RestoreOptions,
    restoring: RestoreProgress,
    directory: ConfigDirectory | None,
    *,
    apply: bool,
) -> None:
    """Write the state, the settings last; on failure this machine is in no mesh."""
    try:
        state.restore_progress.write(restoring)
        state.membership_conflict.remove()
        state.keys.save_private_key(Secret(found.backup.private_key))
        state.keys.save_signing_key(found.backup.signing_key)
        state.retired_keys.write(found.retired)
        write_registry(state.registry_file, _build_registry(found, wish))
        state.save_settings(_build_settings(found.settings, directory))
        if apply:
            bring_up(state, load_local(state), revert=True)
    except BaseException:
        state.remove_mesh_state(keep_private_key=False)
        raise


def _build_registry(found: BackupContents, wish: RestoreOptions) -> bytes:
    """The registry as it is to be, with the event that tells of the restore."""
    endpoints, now = _parse_endpoints(found, wish), int(time.time())
    with RegistryImage(found.backup.registry, user=find_invoking_user()) as image:
        image.withdraw_all_invitations(command="restore", now=now)
        image.change_mesh(
            lambda mesh: build_restored_inventory(mesh, endpoints, jump=wish.jump),
            command="restore",
            what="restored",
            machine=found.inventory.control,
            now=now,
        )
        return image.serialize()


def _build_settings(settings: Settings, directory: ConfigDirectory | None) -> Settings:
    if directory is None and settings.node_directory is not None:
        directory = _find_saved_directory(settings.node_directory)
    bare = msgspec.structs.replace(
        settings, config_directory=None, config_owner=None, up=False, guarded=False
    )
    return bare if directory is None else bare.with_node_directory(directory)


def _find_saved_directory(known: ConfigDirectory) -> ConfigDirectory | None:
    """The directory that the backup names, where it is here too, and the same user's."""
    why = "there is no such directory here"
    try:
        found = config_directory.find(known.path)
    except QmeshError as error:
        found, why = None, error.message
    if found is not None:
        if known.owner == found.owner or (known.owner is None and node_directory.is_trusted(found)):
            return found
        why = f"user {found.owner} owns it here"
    log.warning("%s: %s; run `qmesh render-config --write --config DIR` later", known, why)
    return None


def _build_result(found: BackupContents, mesh: Inventory, control: JoinResult) -> RestoreResult:
    taken_at, now = found.backup.taken_at, int(time.time())
    if now < taken_at:
        log.warning("this machine's clock is wrong: the backup was made later than this clock shows")
        log.warning("set the clock right: members refuse a control node whose clock went back")
    announced, ends = mesh.control_node.announce, mesh.control_node.endpoints
    if announced is not None and announced not in {each.host for each in ends}:
        log.warning(
            "%s is announced to the node's network at %s, as before; if that is not this machine's address,"
            " run `qmesh set %s --announce ADDRESS`",
            mesh.control,
            announced,
            mesh.control,
        )
    return RestoreResult(
        **msgspec.structs.asdict(control),
        revision=mesh.revision,
        taken_at=taken_at,
        age_s=max(0, now - taken_at),
        endpoints=mesh.control_node.endpoints,
        machines=tuple(
            RestoredMachine(
                machine.name,
                machine.state,
                machine.address,
                mesh.cores.get(machine.name),
                machine.endpoints[0] if machine.endpoints else None,
            )
            for machine in mesh.machines
            if machine.name != mesh.control
        ),
        withdrawn=found.backup.withdrawn,
    )
