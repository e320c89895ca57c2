"""What a changed config asks of a machine's processes: two texts in, cores out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.model import PROFILES, CoreNumber
from qmesh.mesh.nodeconfig import listen_address, settings_in, wanted_settings, workers_in


class Due(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What has to be started anew, or stopped, before a config counts that was written already.

    restart, stop: cores of this machine, ascending. control: whether its control process has to.
    """

    restart: tuple[CoreNumber, ...] = ()
    stop: tuple[CoreNumber, ...] = ()
    control: bool = False

    def __bool__(self) -> bool:
        return bool(self.restart or self.stop or self.control)

    def then(self, later: Due) -> Due:
        """Both, where the later one knows better."""
        return Due(
            restart=tuple(sorted({*self.restart, *later.restart}.difference(later.stop))),
            stop=tuple(sorted({*self.stop, *later.stop}.difference(later.restart))),
            control=self.control or later.control,
        )


def is_in_hand(text: str, inventory: Inventory) -> bool:
    """Whether a config's worker list is one that qmesh wrote: all of it in the tunnel, or at endpoints.

    What its owner wrote is the owner's, until `render-config --write` was said once.
    Raises BadInput when the text does not load.
    """
    network = ipaddress.ip_network(inventory.network)
    endpoints = {each.host for machine in inventory.machines for each in machine.endpoints}
    # A node that was upgraded has the list under its older key still.
    lists = (workers_in(text, profile) or () for profile in (inventory.node, *PROFILES))
    entries = next(filter(None, lists), ())
    try:
        addresses = [listen_address(entry)[0] for entry in entries]
    except BadInput:
        return False
    public = endpoints if inventory.stream == "public" else ()
    return bool(addresses) and all(
        ipaddress.ip_address(address) in network or address in public for address in addresses
    )


def due(old: str, new: str, inventory: Inventory, name: str) -> Due:
    """What machine `name` has to do when its config's text was `old` and is `new`, the mesh's.

    A worker reads its own entries and what stands alone; the control process reads all of it.
    """
    keys = [(setting.key, setting.is_list) for setting in wanted_settings(inventory, name)]
    before, after = settings_in(old, keys), settings_in(new, keys)
    own = inventory.numbers(name)
    return Due(
        restart=tuple(core for core in own if _read(before, core) != _read(after, core)),
        stop=tuple(core for core in _at(before[0], inventory, name) if core not in own),
        control=name == inventory.control and before != after,
    )


def _read(values: Iterable[object], core: int) -> list[object]:
    return [value[core - 1 : core] if isinstance(value, tuple) else value for value in values]


def _at(entries: object, inventory: Inventory, name: str) -> list[int]:
    """The cores that a list has at a machine's addresses."""
    machine = inventory.machine(name)
    addresses = {machine.address, *(each.host for each in machine.endpoints)}
    listed = entries if isinstance(entries, tuple) else ()
    return [core for core, entry in enumerate(listed, 1) if _address(entry) in addresses]


def _address(entry: str) -> str | None:
    try:
        return listen_address(entry)[0]
    except BadInput:
        return None
