"""What a machine's config is to say: the mesh's inventory and the machine's name in, settings out."""

from __future__ import annotations

from collections.abc import Iterator

from qmesh.mesh.inventory import Inventory, list_p2p_listeners, list_workers
from qmesh.mesh.nodeconfig.edit import Setting
from qmesh.mesh.nodeconfig.key_location import Key
from qmesh.mesh.nodeconfig.profiles import ProfileFacts, profile_facts
from qmesh.mesh.values import GRPC_PORT, STREAM_PORT

_MASTER_PROXY = Key("engine", "enableMasterProxy")


def build_desired_settings(inventory: Inventory, name: str) -> tuple[Setting, ...]:
    """The settings of machine `name`, the worker list first. Raises BadInput for an unknown name.

    Before 2.1 they are the same on every machine. From 2.1 on the control process listens where the
    workers of the other machines dial it through the tunnel, so files differ by machine.
    """
    inventory.machine(name)
    known = profile_facts(inventory.node)
    workers = Setting(known.list_key, tuple(worker.multiaddr for worker in list_workers(inventory)))
    return (workers, *_build_2_1_settings(inventory, name, known), *_build_rust_settings(inventory, known))


def _build_2_1_settings(inventory: Inventory, name: str, known: ProfileFacts) -> Iterator[Setting]:
    if known.p2p_key is None or known.stream_key is None:
        return
    yield Setting(known.p2p_key, tuple(each.multiaddr for each in list_p2p_listeners(inventory)))
    yield Setting(_MASTER_PROXY, "true" if inventory.master_proxy else "false")
    address = "0.0.0.0" if name == inventory.control else inventory.control_node.address  # noqa: S104
    yield Setting(known.stream_key, f"/ip{6 if ':' in address else 4}/{address}/tcp/{STREAM_PORT}")


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
