"""A machine's config as the mesh wants it: inventory, the machine's name and what there is in, config out."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from itertools import zip_longest

from qmesh.errors import BadInput
from qmesh.mesh.inventory import WILDCARD, Inventory, list_workers
from qmesh.mesh.nodeconfig.composer import MAX_NODES
from qmesh.mesh.nodeconfig.document import BOM, ParsedConfig
from qmesh.mesh.nodeconfig.edit.config import edit_config, read_settings_as_node
from qmesh.mesh.nodeconfig.edit.settings import Setting
from qmesh.mesh.nodeconfig.lint.config import lint_config
from qmesh.mesh.nodeconfig.lint.problems import ExpectedMesh
from qmesh.mesh.nodeconfig.minimal import build_minimal_config
from qmesh.mesh.nodeconfig.parse import parse_config
from qmesh.mesh.nodeconfig.profiles import MASTER_PROXY, ProfileFacts, detect_profile, profile_facts
from qmesh.mesh.nodeconfig.redaction import read_secret
from qmesh.mesh.reachability.announcements import (
    is_known_entry,
    is_unknown_entry,
    list_announced_p2p,
    list_announced_streams,
    list_p2p_entries,
)
from qmesh.mesh.values import GRPC_PORT, NOT_SHOWN, PROFILES, STREAM_PORT, Profile


def build_desired_settings(inventory: Inventory, name: str) -> tuple[Setting, ...]:
    """The settings of machine `name`, the worker list first. Raises BadInput for an unknown name.

    Before 2.1 they are the same on every machine. From 2.1 on the control process listens where the
    workers of the other machines dial it through the tunnel, so files differ by machine.
    """
    return (*build_worker_settings(inventory, name), *_build_announcements(inventory))


def build_worker_settings(inventory: Inventory, name: str) -> tuple[Setting, ...]:
    """As `build_desired_settings`, what the workers of machine `name` read: all but what is announced.

    The network is told by the control process, which alone reads those lists.
    """
    inventory.machine(name)
    known = profile_facts(inventory.node)
    workers = Setting(known.list_key, list_worker_multiaddrs(inventory))
    return (workers, *_build_2_1_settings(inventory, name, known), *_build_rust_settings(inventory, known))


def _build_2_1_settings(inventory: Inventory, name: str, known: ProfileFacts) -> Iterator[Setting]:
    if known.p2p_key is None or known.stream_key is None:
        return
    yield Setting(known.p2p_key, tuple(list_p2p_entries(inventory)))
    yield Setting(MASTER_PROXY, "true" if inventory.master_proxy else "false")
    address = WILDCARD if name == inventory.control else inventory.control_node.address
    yield Setting(known.stream_key, f"/ip{6 if ':' in address else 4}/{address}/tcp/{STREAM_PORT}")


def _build_announcements(inventory: Inventory) -> Iterator[Setting]:
    known = profile_facts(inventory.node)
    if known.announced_stream_key is None or known.announced_p2p_key is None:
        return
    yield Setting(known.announced_stream_key, tuple(list_announced_streams(inventory)))
    yield Setting(known.announced_p2p_key, tuple(list_announced_p2p(inventory)))


def keep_announced_entries(
    wanted: Iterable[Setting], config: str | ParsedConfig, profile: Profile
) -> tuple[Setting, ...]:
    """The settings, with the config's own entry for each core whose address the mesh does not know.

    Only one that the network can reach, at the same port: what its owner wrote works as long as no address
    is given.
    Raises BadInput when the text does not load.
    """
    announced = profile_facts(profile).announce_keys
    found = []
    for setting in wanted:
        if setting.key in announced and any(map(is_unknown_entry, setting.values)):
            (held,) = read_settings_as_node(config, [(setting.key, True)], profile)
            found.append(Setting(setting.key, tuple(_keep_known(setting.values, held or ()))))
        else:
            found.append(setting)
    return tuple(found)


def _keep_known(wanted: Iterable[str], held: Iterable[str]) -> Iterator[str]:
    for entry, there in zip_longest(wanted, held):
        if entry is not None:
            yield there if there is not None and is_known_entry(entry, there) else entry


def _build_rust_settings(inventory: Inventory, known: ProfileFacts) -> Iterator[Setting]:
    """What the node of Go knows by itself: an absent port is 0 to this one, and no address is every one."""
    for key, port in (
        (known.base_port_key, inventory.base_port),
        (known.p2p_base_port_key, inventory.p2p_base_port),
    ):
        if key is not None:
            yield Setting(key, str(port))
    if known.grpc_key is not None:
        yield Setting(known.grpc_key, f"/ip4/127.0.0.1/tcp/{GRPC_PORT}")


def render_config(inventory: Inventory, name: str, config: str | ParsedConfig | None) -> ParsedConfig:
    """The config.yml of machine `name`: what there is with the mesh's settings.

    Without one it is the least one, in which `NOT_SHOWN` stands for each secret: fit to be read,
    and to be written only where `refuse_new_config` has nothing against it.
    Raises BadInput when it is damaged, or is of a node that would ignore the list.
    """
    profile = inventory.node
    wanted = build_desired_settings(inventory, name)
    count = sum(len(setting.values) for setting in wanted)
    if count > MAX_NODES:
        raise BadInput(
            f"config.yml would have {count} values; qmesh reads at most {MAX_NODES}",
            hint="split this many workers into two meshes",
        )
    if config is None:
        secrets = dict.fromkeys(profile_facts(profile).secrets, NOT_SHOWN)
        return build_minimal_config(profile, wanted, secrets=secrets)
    config = parse_config(config)
    refuse_broken_config(config, profile)
    refuse_newer_config(profile, detect_profile(config))
    if profile == "2.1-rust":  # to which a byte order mark is a character; places in the tree are without it
        config = ParsedConfig(config.text.removeprefix(BOM), config.root)
    return edit_config(config, keep_announced_entries(wanted, config, profile))


def render_config_for(
    inventory: Inventory, name: str, own: str | ParsedConfig | None, *, key_store: str | None = None
) -> ParsedConfig:
    """The least config.yml for another machine, with the secrets that its profile needs from ours.

    key_store: where that machine will have keys.yml, where it needs one and that is known.
    Raises BadInput when the machine is unknown, or our own file lacks a secret.
    """
    wanted = build_desired_settings(inventory, name)
    profile = inventory.node
    needed, secrets = profile_facts(profile).secrets, {}
    config = None if own is None or not needed else parse_config(own)
    for path in needed:
        value = None if config is None else read_secret(config, path)
        if value is None:
            raise BadInput(
                f"a worker of node {profile} needs {path}, and this machine's config.yml has none",
                hint="run this on the control node, and pass the node's config directory with --config",
            )
        secrets[path] = value
    return build_minimal_config(
        profile, wanted, secrets=secrets, key_store=key_store if profile_facts(profile).key_store else None
    )


def refuse_broken_config(config: str | ParsedConfig, profile: Profile) -> None:
    """Raise BadInput where the node would not read the mesh's worker list, were it written there."""
    for problem in lint_config(config, profile=profile):
        if problem.blocks_worker_list:
            where = f"config.yml, line {problem.line}, column {problem.column}"
            raise BadInput(f"{where}: {problem.message}", hint=problem.hint)


def refuse_newer_config(profile: Profile, found: Profile | None) -> None:
    """Raise BadInput where a file is of a newer node, which would ignore this profile's worker list.

    One of an older node is that of a node that is upgraded, as its owner said.
    """
    if found is None or profile_facts(found).list_key == profile_facts(profile).list_key:
        return
    if PROFILES.index(found) > PROFILES.index(profile):
        raise BadInput(
            f"the mesh is for node {profile}, but this config.yml is of node {found}, which ignores its list",
            hint=f"run `qmesh set --node {found}` on the control node; or pass the right directory with"
            " --config",
        )


def refuse_new_config(inventory: Inventory, name: str, missing: str, *, directory: str | None = None) -> None:
    """Raise BadInput where a new config.yml would be a node without its identity or a worker's secret.

    missing: what there is not, in words. directory: where it would be; None where that is not known.
    """
    control, known = inventory.control, profile_facts(inventory.node)
    if name == control:
        raise BadInput(
            f"{missing}, and a new one would give the node a new identity",
            hint="pass the directory of the node's own config.yml with --config, or start the node once",
        )
    if known.secrets:
        keys = " and the node's keys.yml" if known.key_store else ""
        where = "" if directory is None else f" --config {shlex.quote(directory)}"
        raise BadInput(
            f"{missing}, and a worker of node {known.profile} needs {', '.join(known.secrets)}{keys}",
            hint=f"run `qmesh set {name} --node-files on` on {control}, then"
            f" `qmesh node-files --write{where}` here",
        )


def build_expected_mesh(inventory: Inventory, name: str) -> ExpectedMesh:
    """What a config on machine `name` is held against."""
    return ExpectedMesh(
        network=inventory.network,
        own=inventory.machine(name).address,
        members=tunnel_addresses_by_name(inventory),
        workers=list_worker_multiaddrs(inventory),
    )


def tunnel_addresses_by_name(inventory: Inventory) -> dict[str, str]:
    """The tunnel addresses of the machines that have cores, by name."""
    return {name: inventory.machine(name).address for name in inventory.cores}


def list_worker_multiaddrs(inventory: Inventory) -> tuple[str, ...]:
    """The worker list of the mesh, in core order."""
    return tuple(worker.multiaddr for worker in list_workers(inventory))
