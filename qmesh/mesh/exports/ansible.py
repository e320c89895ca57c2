"""The mesh as an inventory for Ansible, in YAML. Source: ansible.builtin.yaml, an inventory plugin.

Groups have an underscore in their names, as no machine's name has: Ansible keeps both in one namespace.
Ansible goes where `ssh NAME` goes, as the guard lets no SSH through the tunnel, and an endpoint may be that
of a router with several machines behind it.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

from qmesh.mesh.exports.text import is_plain, render_header, tunnel_host_name
from qmesh.mesh.inventory import Inventory, list_members, worker_ports
from qmesh.mesh.machine import Machine
from qmesh.mesh.values import validate_machine_name

MACHINES: Final = "qmesh_machines"
CONTROL: Final = "qmesh_control"
WORKERS: Final = "qmesh_workers"

_ANSIBLES_OWN: Final = frozenset({"all", "localhost", "ungrouped"})


def host_name(name: str) -> str:
    """A machine's name as Ansible knows it: with `.qmesh` where its own means something to Ansible."""
    return tunnel_host_name(name) if name in _ANSIBLES_OWN else validate_machine_name(name)


def inventory_tree(inventory: Inventory) -> dict[str, Any]:
    """All that Ansible is told, as it is told it: of members, not of machines that are invited only."""
    control = {host_name(inventory.control): _host_variables(inventory, inventory.control_node)}
    others = (machine for machine in list_members(inventory) if machine.name != inventory.control)
    workers = {host_name(machine.name): _host_variables(inventory, machine) for machine in others}
    return {
        MACHINES: {
            "children": {CONTROL: {"hosts": control}, WORKERS: {"hosts": workers}},
            "vars": _mesh_variables(inventory),
        }
    }


def _mesh_variables(inventory: Inventory) -> dict[str, Any]:
    return {
        "qmesh_mesh": inventory.mesh,
        "qmesh_revision": inventory.revision,
        "qmesh_network": inventory.network,
        "qmesh_node": inventory.node,
        "qmesh_control_name": inventory.control,
        "qmesh_control_address": inventory.control_node.address,
        "qmesh_service_port": inventory.service_port,
        "qmesh_base_port": inventory.base_port,
    }


def _host_variables(inventory: Inventory, machine: Machine) -> dict[str, Any]:
    """The machine's variables. qmesh_cores: `first` is null, and there are no ports, while it is paused."""
    cores = inventory.cores.get(machine.name)
    return {
        **({} if host_name(machine.name) == machine.name else {"ansible_host": machine.name}),
        "qmesh_name": machine.name,
        "qmesh_address": machine.address,
        "qmesh_role": "control" if machine.name == inventory.control else "worker",
        "qmesh_state": machine.state,
        "qmesh_cores": {"first": None if cores is None else cores.first, "count": machine.workers},
        "qmesh_ports": list(worker_ports(inventory, machine.name)),
        "qmesh_guarded_ports": [{"port": each.port, "from": each.source} for each in machine.guarded_ports],
        "qmesh_left_open": list(machine.left_open),
        "qmesh_endpoint": str(machine.endpoints[0]) if machine.endpoints else None,
        "qmesh_public_key": machine.public_key,
    }


class _Literal(str):
    """Text in which Ansible is to look for no template."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Lists on one line, no anchors, and Ansible's tag for text that is no template."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)
_Dumper.add_representer(
    _Literal, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text), style="'")
)


def render_inventory(tree: dict[str, Any], name: str) -> str:
    """The inventory's text, as the machine `name` made it."""
    top = render_header(
        "ansible",
        name,
        tree[MACHINES]["vars"]["qmesh_revision"],
        "Ansible connects as `ssh NAME` does, outside the tunnel: the guard lets no SSH through it.",
    )
    return top + yaml.dump(_mark_literals(tree), Dumper=_Dumper, sort_keys=False, width=2**31)


def _mark_literals(value: Any) -> Any:
    """The same with each text marked that might be a template: none that is plain is one."""
    if isinstance(value, dict):
        return {key: _mark_literals(each) for key, each in value.items()}
    return _Literal(value) if isinstance(value, str) and not is_plain(value) else value
