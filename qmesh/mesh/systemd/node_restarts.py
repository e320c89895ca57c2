"""What a changed config asks of a machine's processes: two texts in, cores out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.nodeconfig import (
    ParsedConfig,
    build_desired_settings,
    build_worker_settings,
    list_worker_multiaddrs,
    parse_config,
    parse_multiaddr,
    read_settings,
    read_workers,
)
from qmesh.mesh.values import CONTROL_FIRST, PROFILES, CoreNumber


class DueRestarts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What has to be restarted, or stopped, before a config that was written takes effect.

    restart, stop: cores of this machine, ascending. control: whether its control process has to.
    """

    restart: tuple[CoreNumber, ...] = ()
    stop: tuple[CoreNumber, ...] = ()
    control: bool = False

    def __bool__(self) -> bool:
        return bool(self.restart or self.stop or self.control)

    def merge(self, later: DueRestarts) -> DueRestarts:
        """Both, where the later one knows better."""
        return DueRestarts(
            restart=tuple(sorted({*self.restart, *later.restart}.difference(later.stop))),
            stop=tuple(sorted({*self.stop, *later.stop}.difference(later.restart))),
            control=self.control or later.control,
        )


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


def explain_restarts(old: ParsedConfig | None, inventory: Inventory, name: str) -> str:
    """What has to be started anew on machine `name` for the mesh's list to count in place of an old one."""
    before = () if old is None else read_workers(old, inventory.node) or ()
    after, numbers = list_worker_multiaddrs(inventory), inventory.core_numbers(name)
    moved = any(before[core - 1 : core] != after[core - 1 : core] for core in numbers)
    control = "the control process" + ("" if name == inventory.control else f" on {inventory.control}")
    if moved:
        todo = ["this machine's workers", control]
        if inventory.node in CONTROL_FIRST:
            todo.reverse()
        return f"now restart {', then '.join(todo)}: they read the list only when they start"
    return (
        f"no worker of this machine has moved; now restart {control}: it reads the list only when it starts"
    )


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
