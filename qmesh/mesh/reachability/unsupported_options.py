"""Options of a mesh with which the node's program would do no work, while everything looks right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.inventory import Inventory


class UnsupportedOption(msgspec.Struct, frozen=True):
    """An option as it is typed, what the program does with it, and what to do."""

    option: str
    reason: str
    hint: str


def list_unsupported_options(inventory: Inventory) -> tuple[UnsupportedOption, ...]:
    """Those of a mesh that its node's program does not support; a mesh of before may have some."""
    return tuple(_find_unsupported_options(inventory, {}, is_new=False))


def _find_unsupported_options(
    inventory: Inventory, changed: Mapping[str, object], *, is_new: bool
) -> Iterator[UnsupportedOption]:
    node, stream, master_proxy = (
        changed.get(name, getattr(inventory, name)) for name in ("node", "stream", "master_proxy")
    )
    if node != "2.1-rust":
        return
    if stream == "public":
        yield UnsupportedOption(
            "--stream public",
            "its worker ports serve the control process alone, and anyone who reaches one stops the worker",
            "run `qmesh set --stream tunnel`",
        )
    if master_proxy:
        yield UnsupportedOption(
            "--master-proxy",
            "its workers speak plaintext to the control process, which takes only TLS: nothing that they"
            " publish arrives",
            "run `qmesh set --no-master-proxy`",
        )
    if ":" in inventory.network:
        yield UnsupportedOption(
            f"--network {inventory.network}",
            "its control process listens for workers on IPv4 alone: those of other machines never connect",
            "leave out --network, or pass one of IPv4, such as 10.77.0.0/20"
            if is_new
            else "make the mesh again: `qmesh uninstall --delete-state` on each machine, then `qmesh init`",
        )


def refuse_unsupported_options(inventory: Inventory, changed: Mapping[str, object] | None = None) -> None:
    """Raise BadInput where a mesh has an option that its node's program does not support.

    changed: fields of the mesh that it would have then, by name; None for a mesh that is about to be made.
    """
    for each in _find_unsupported_options(inventory, changed or {}, is_new=changed is None):
        raise BadInput(f"node 2.1-rust does not support {each.option}: {each.reason}", hint=each.hint)
