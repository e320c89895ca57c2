"""What a changed config asks of a machine's processes: two texts in, cores out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.inventory import Inventory, list_workers
from qmesh.mesh.nodeconfig import (
    ParsedConfig,
    Setting,
    build_desired_settings,
    build_worker_settings,
    parse_config,
    parse_multiaddr,
    profile_facts,
    read_settings,
    read_workers,
)
from qmesh.mesh.systemd.due_restarts import DueRestarts
from qmesh.mesh.systemd.instructions import (
    NodeHost,
    describe_control_action,
    describe_workers_action,
    format_core_ranges,
)
from qmesh.mesh.values import CONTROL_FIRST, PROFILES

MOST_NAMED: Final = 5
"""Machines that a text names."""


def is_managed_by_qmesh(config: str | ParsedConfig, inventory: Inventory) -> bool:
    """Whether a config's worker list is one that qmesh wrote: all of it in the tunnel, or at endpoints.

    What its owner wrote is the owner's, until `render-config --write` was said once.
    Raises BadInput when the text does not load.
    """
    config = parse_config(config)
    network = ipaddress.ip_network(inventory.network)
    endpoints = {each.host for machine in inventory.machines for each in machine.endpoints}
    # A node that was upgraded has the list under its older key still.
    lists = (read_workers(config, profile) or () for profile in (inventory.node, *PROFILES))
    entries = next(filter(None, lists), ())
    try:
        addresses = [parse_multiaddr(entry)[0] for entry in entries]
    except BadInput:
        return False
    public = endpoints if inventory.stream == "public" else ()
    return bool(addresses) and all(
        ipaddress.ip_address(address) in network or address in public for address in addresses
    )


def find_due_restarts(
    old: str | ParsedConfig, new: str | ParsedConfig, inventory: Inventory, name: str
) -> DueRestarts:
    """What machine `name` has to do when its config was `old` and is `new`, the mesh's.

    A worker reads its own entries and what stands alone; the control process reads all of it, and alone what
    is announced.
    """
    keys = [(setting.key, setting.is_list) for setting in build_desired_settings(inventory, name)]
    before, after = read_settings(old, keys), read_settings(new, keys)
    own, count = inventory.core_numbers(name), len(build_worker_settings(inventory, name))
    return DueRestarts(
        restart=tuple(
            core
            for core in own
            if _values_for_core(before[:count], core) != _values_for_core(after[:count], core)
        ),
        stop=tuple(core for core in _cores_at_machine(before[0], inventory, name) if core not in own),
        control=name == inventory.control and before != after,
    )


def explain_restarts(old: ParsedConfig | None, new: ParsedConfig, inventory: Inventory, name: str) -> str:
    """What has to be restarted, and why, for the config of machine `name` to count in place of an old one.

    The machines whose workers read something else are named, as far as this machine's config tells.
    """
    own = inventory.core_numbers(name)
    changed = dict.fromkeys(own, "") if old is None else _explain_changes(old, new, inventory, name)
    workers = ["this machine's workers"] if set(own) & changed.keys() else []
    others = [other for other in inventory.cores if other != name]
    named = [other for other in others if set(inventory.core_numbers(other)) & changed.keys()]
    if named:
        more = f" and {len(named) - MOST_NAMED} more machines" if len(named) > MOST_NAMED else ""
        workers.append(f"the workers of {', '.join(named[:MOST_NAMED])}{more}")
    control = "the control process" + ("" if name == inventory.control else f" on {inventory.control}")
    if not workers:
        return (
            f"no worker reads anything else than before; now restart {control}: it reads config.yml only when"
            " it starts"
        )
    todo = [control, *workers] if inventory.node in CONTROL_FIRST else [*workers, control]
    why = "".join(f" ({reason})" for reason in dict.fromkeys(changed.values()) if reason)
    return f"now restart {', then '.join(todo)}{why}: they read config.yml only when they start"


def _explain_changes(old: ParsedConfig, new: ParsedConfig, inventory: Inventory, name: str) -> dict[int, str]:
    """The cores whose workers read something else in a new config, and why.

    Of other machines that is only known where the old list was one of the mesh.
    """
    settings = build_worker_settings(inventory, name)
    keys = [(setting.key, setting.is_list) for setting in settings]
    before, after = read_settings(old, keys), read_settings(new, keys)
    own = inventory.core_numbers(name)
    cores = (
        [worker.core for worker in list_workers(inventory)] if is_managed_by_qmesh(old, inventory) else own
    )
    stream = profile_facts(inventory.node).stream_key
    found: dict[int, str] = {}
    for key, was, now in zip((key for key, _ in keys), before, after, strict=True):
        if key == stream and was is not None and was != now:
            reason, mine = f"they connect to {inventory.control}, {inventory.control_node.address}", cores
        else:
            # What stands alone differs by machine: of others' nothing is known.
            reason, mine = "", cores if isinstance(now, tuple) else own
        for core in mine:
            if _values_for_core([was], core) != _values_for_core([now], core):
                found[core] = found.get(core) or reason
    return found


def _values_for_core(values: Iterable[object], core: int) -> list[object]:
    return [value[core - 1 : core] if isinstance(value, tuple) else value for value in values]


def _cores_at_machine(entries: object, inventory: Inventory, name: str) -> list[int]:
    """The cores that a list has at a machine's addresses."""
    machine = inventory.machine(name)
    addresses = {machine.address, *(each.host for each in machine.endpoints)}
    listed = entries if isinstance(entries, tuple) else ()
    return [core for core, entry in enumerate(listed, 1) if _parse_entry_address(entry) in addresses]


def _parse_entry_address(entry: str) -> str | None:
    try:
        return parse_multiaddr(entry)[0]
    except BadInput:
        return None


def describe_due_restarts(due: DueRestarts, inventory: Inventory, name: str, host: NodeHost) -> Iterator[str]:
    """What to do on a machine, in this order, where nobody allowed its agent to."""
    if due.stop:
        stop = describe_workers_action("stop", due.stop, host)
        yield f"core {format_core_ranges(due.stop)}: another machine's now: {stop}"
    todo = []
    if due.restart:
        are_all = due.restart == tuple(inventory.core_numbers(name))
        todo.append(describe_workers_action("restart", due.restart, host, are_all=are_all))
    if due.control:
        todo.append(describe_control_action("restart", host))
    if inventory.node in CONTROL_FIRST:
        todo.reverse()
    yield from (f"{when}: {each}" for each, when in zip(todo, ("now", "then"), strict=False))


def workers_to_restart(before: Inventory, after: Inventory, name: str) -> tuple[int, ...]:
    """The cores of a machine that are new, or that listen or dial elsewhere than before."""
    old, new = _settings_by_core(before, name), _settings_by_core(after, name)
    return tuple(core for core, reads in new.items() if old.get(core) != reads)


def _settings_by_core(inventory: Inventory, name: str) -> Mapping[int, object]:
    """What each worker of a machine reads of its config, by core."""
    lists: list[Setting] = []
    single: list[Setting] = []
    for setting in build_worker_settings(inventory, name):
        (lists if setting.is_list else single).append(setting)
    return {
        core: (single, [(each.key, each.value[core - 1]) for each in lists])
        for core in inventory.core_numbers(name)
    }
