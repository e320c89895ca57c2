"""The node's config.yml on this machine: find it, render it, write it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from qmesh.agent.local import Local
from qmesh.errors import BadInput, QmeshError
from qmesh.host import config_directory
from qmesh.host.config_directory import ConfigDirectory
from qmesh.mesh import nodeconfig
from qmesh.mesh.inventory import Inventory, list_workers
from qmesh.mesh.values import NOT_SHOWN, PROFILES, Profile, SecretStruct

if TYPE_CHECKING:  # `ready` reads a file a core, and has no use for the registry
    from qmesh.agent.local import Local

log = logging.getLogger("qmesh")

FILE_NAME = "config.yml"


class NodeFile(SecretStruct, frozen=True):
    """A node's config.yml. text: None when there is no such file; never to be printed as it is."""

    path: Path
    text: str | None
    mode: int | None


def find_directory(given: Path | None) -> ConfigDirectory | None:
    """The node's config directory: as given, or `.config` here when it holds a config.yml.

    What `.config` is here is decided by whoever made the directory in which somebody happens to be: it is
    taken only where it is root's, or that of the user who typed `sudo`.
    Raises BadInput when a given one is no directory, or is reached by a link that is not root's.
    """
    if given is None:
        return _find_in_working_directory()
    found = config_directory.find(given.absolute())
    if found is not None:
        return found
    raise BadInput(
        f"there is no directory {given}",
        hint=f"name the directory of the node's config.yml; a new one is made with `mkdir -p {given}`",
    )


def _find_in_working_directory() -> ConfigDirectory | None:
    try:
        path = Path.cwd() / ".config"
    except FileNotFoundError:  # somebody deleted the directory that this is
        return None
    try:
        found = config_directory.find(path)
        if found is None or config_directory.read_stamp(found, FILE_NAME) is None:
            return None
    except QmeshError as error:
        log.warning("%s is not used: %s (hint: %s)", path, error.message, error.hint)
        return None
    if is_trusted(found):
        return found
    log.warning(
        "%s is not used, as user %d owns it; if it is the node's, pass it with --config", found, found.owner
    )
    return None


def is_trusted(directory: ConfigDirectory) -> bool:
    """Whether it is root's, or that of the user who typed `sudo`; of who is not root nothing can be had."""
    trusted = {0, os.geteuid()}
    by_sudo = os.environ.get("SUDO_UID", "")
    if by_sudo.isdecimal() and len(by_sudo) < 11:
        trusted.add(int(by_sudo))
    return directory.owner in trusted


def read(directory: ConfigDirectory) -> NodeFile:
    """The config.yml in `directory`. Raises MachineRefused, or BadInput when it is no text."""
    path = directory.path / FILE_NAME
    found = config_directory.read(directory, FILE_NAME)
    if found is None:
        return NodeFile(path, None, None)
    octets, mode = found
    try:
        return NodeFile(path, octets.decode("utf-8"), mode)
    except UnicodeDecodeError as error:
        before = octets[: error.start].decode("utf-8")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise BadInput(
            f"{path}, line {line}, column {column}: this is not UTF-8",
            hint="correct this character, and save the file as UTF-8; nothing was changed",
        ) from None


def read_profile(directory: ConfigDirectory | None) -> Profile | None:
    """The node's profile as its config.yml tells; None when it does not."""
    text = None if directory is None else read(directory).text
    return None if text is None else nodeconfig.detect_profile(text)


def refuse_newer_config(profile: Profile, found: Profile | None) -> None:
    """Raise BadInput where a file is of a newer node, which would ignore this profile's worker list.

    One of an older node is that of a node that is upgraded, as its owner said.
    """
    if (
        found is None
        or nodeconfig.profile_facts(found).list_key == nodeconfig.profile_facts(profile).list_key
    ):
        return
    if PROFILES.index(found) > PROFILES.index(profile):
        raise BadInput(
            f"the mesh is for node {profile}, but this config.yml is of node {found}, which ignores its list",
            hint=f"`qmesh set --node {found}` on the control node; or name the right directory with --config",
        )


def refuse_broken_config(text: str, profile: Profile) -> None:
    """Raise BadInput where the node would not read the mesh's worker list, were it written there."""
    for problem in nodeconfig.lint_config(text, profile=profile):
        if problem.blocks_worker_list:
            where = f"{FILE_NAME}, line {problem.line}, column {problem.column}"
            raise BadInput(f"{where}: {problem.message}", hint=problem.hint)


def build_expected_mesh(here: Local) -> nodeconfig.ExpectedMesh:
    """What a config on this machine is held against."""
    return nodeconfig.ExpectedMesh(
        network=here.inventory.network,
        own=here.machine.address,
        members=tunnel_addresses_by_name(here.inventory),
        workers=list_worker_multiaddrs(here.inventory),
    )


def tunnel_addresses_by_name(inventory: Inventory) -> dict[str, str]:
    """The tunnel addresses of the machines that have cores, by name."""
    return {name: inventory.machine(name).address for name in inventory.cores}


def list_worker_multiaddrs(inventory: Inventory) -> tuple[str, ...]:
    """The worker list of the mesh, in core order."""
    return tuple(worker.multiaddr for worker in list_workers(inventory))


def render(here: Local, text: str | None) -> str:
    """The config.yml of this machine: `text` with the mesh's settings.

    Without a text it is the least one, in which `NOT_SHOWN` stands for each secret: fit to be read,
    and to be written only where `refuse_to_create` has nothing against it.
    Raises BadInput when the text is damaged, or is of a node that would ignore the list.
    """
    profile = here.inventory.node
    wanted = nodeconfig.build_desired_settings(here.inventory, here.settings.name)
    count = sum(len(setting.values) for setting in wanted)
    if count > nodeconfig.MAX_NODES:
        raise BadInput(
            f"config.yml would have {count} values; qmesh reads at most {nodeconfig.MAX_NODES}",
            hint="split this many workers into two meshes",
        )
    if text is None:
        secrets = dict.fromkeys(nodeconfig.profile_facts(profile).secrets, NOT_SHOWN)
        return nodeconfig.build_minimal_config(profile, wanted, secrets=secrets)
    refuse_broken_config(text, profile)
    refuse_newer_config(profile, nodeconfig.detect_profile(text))
    return nodeconfig.edit_settings(text, wanted)


def refuse_to_create(here: Local, directory: ConfigDirectory | None) -> None:
    """Raise BadInput where a new config.yml would be a node without its identity or a worker's secret."""
    profile = here.inventory.node
    secrets = nodeconfig.profile_facts(profile).secrets
    missing = (
        "qmesh does not know where config.yml is"
        if directory is None
        else f"there is no config.yml in {directory}"
    )
    if here.settings.control:
        raise BadInput(
            f"{missing}, and a new one would give the node a new identity",
            hint="pass the directory of the node's own config.yml with --config, or start the node once",
        )
    if secrets:
        control, needed = here.inventory.control, " and ".join(secrets)
        raise BadInput(
            f"{missing}, and a worker of node {profile} needs {needed}",
            hint=f"run `qmesh render-config --for {here.settings.name} -o config.yml` on {control};"
            f" copy it to DIR here{_key_store_hint(profile)}, then run"
            " `qmesh render-config --write --config DIR`",
        )


def _key_store_hint(profile: Profile) -> str:
    return ", and the node's keys.yml beside it" if nodeconfig.profile_facts(profile).key_store else ""


def render_for(here: Local, name: str, own_text: str | None) -> str:
    """The least config.yml for another machine, with the secrets that its profile needs from ours.

    Raises BadInput when the machine is unknown, or our own file lacks a secret.
    """
    wanted = nodeconfig.build_desired_settings(here.inventory, name)
    profile = here.inventory.node
    secrets = {}
    for path in nodeconfig.profile_facts(profile).secrets:
        value = None if own_text is None else nodeconfig.read_secret(own_text, path)
        if value is None:
            raise BadInput(
                f"a worker of node {profile} needs {path}, and this machine's config.yml has none",
                hint="run this on the control node, and pass the node's config directory with --config",
            )
        secrets[path] = value
    return nodeconfig.build_minimal_config(profile, wanted, secrets=secrets)


def write(directory: ConfigDirectory, old: str | None, new: str) -> tuple[Path, bool]:
    """Put a rendered config.yml in place of `old`; the file that was written, and whether it changed.

    Raises BadInput where another one is there by now.
    """
    if new == old:
        return directory.path / FILE_NAME, False
    before = None if old is None else old.encode("utf-8")
    return config_directory.write(directory, FILE_NAME, new.encode("utf-8"), instead_of=before)


def choose_profile(given: Profile | None, directory: ConfigDirectory | None) -> Profile:
    """The profile asked for, or that of the node's config.yml, or 2.0. Raises BadInput."""
    found = read_profile(directory)
    profile = given or found or "2.0"
    refuse_newer_config(profile, found)
    return profile
