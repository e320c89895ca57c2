"""`export`: what this machine knows and should be, in the words of other tools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from qmesh.agent.facts import gather_ports, list_peers
from qmesh.agent.local import Local, linux_for
from qmesh.agent.membership import load_latest
from qmesh.agent.preconditions import check_local, check_user
from qmesh.errors import BadInput
from qmesh.host.linux import Linux
from qmesh.host.network import links, path_mtu
from qmesh.host.output_file import write_new_output
from qmesh.host.state.directory import State
from qmesh.mesh.desired import Facts
from qmesh.mesh.exports import ansible, hosts, nft, wg_quick
from qmesh.mesh.inventory import list_members
from qmesh.mesh.state import Guard, NodeState
from qmesh.mesh.values import Endpoint, SecretStruct, quote_text


class Export(SecretStruct, frozen=True, kw_only=True):
    """One format's file.

    facts: what `--json` answers. text: what is printed. Neither has a secret in it.
    whole: what is written, secrets and all.
    """

    facts: Any
    text: str
    whole: str


def export(state: State, wanted: str) -> Export:
    """This machine, or its mesh, in a format. Raises BadInput for one that is not known."""
    make = _MAKERS.get(wanted)
    if make is None:
        raise BadInput(f"there is no format {quote_text(wanted)}", hint=f"choose one of {', '.join(FORMATS)}")
    command = f"export {wanted}"
    check_user(command)
    here = load_latest(state)
    check_local(here, command)
    return make(state, here)


def write_export(made: Export, path: Path) -> None:
    """Write it to a new file, 0600. Raises BadInput."""
    write_new_output(path, made.whole.encode())


def _export_wg_quick(state: State, here: Local) -> Export:
    linux = linux_for(state, here.settings)
    key = linux.private_key(here.machine.public_key)
    name, inventory = here.settings.name, here.inventory
    tunnel = _build_export_state(here, linux, _choose_endpoints(here, linux)).tunnel
    assert tunnel is not None
    facts = wg_quick.tunnel_file(inventory, name, tunnel, None)
    whole = wg_quick.tunnel_file(inventory, name, tunnel, key)
    return Export(
        facts=facts, text=wg_quick.render_tunnel_file(facts), whole=wg_quick.render_tunnel_file(whole)
    )


def _choose_endpoints(here: Local, linux: Linux) -> dict[str, Endpoint]:
    """Where each machine is to be reached that calls for it; no name is looked up."""
    interface = here.settings.interface
    counters = {} if links.read(interface) is None else linux.backend.read(interface).counters
    seen = {key: counts.endpoint for key, counts in counters.items()}
    chosen = {
        machine.name: wg_quick.choose_endpoint(endpoints, seen.get(machine.public_key))
        for machine, endpoints in list_peers(here)
    }
    return {name: endpoint for name, endpoint in chosen.items() if endpoint is not None}


def _export_nft(state: State, here: Local) -> Export:
    guard = _build_export_state(here, linux_for(state, here.settings), {}).guard
    assert isinstance(guard, Guard)
    facts = nft.guard_file(guard, here.settings.name, here.inventory.revision)
    return _export_without_secrets(facts, nft.render_guard_file(facts))


def _build_export_state(here: Local, linux: Linux, endpoints: dict[str, Endpoint]) -> NodeState:
    """What this machine should be, whatever `down` said; without peers for those who are only invited.

    An invitation ends, and a file would not know it.
    """
    facts = Facts(
        kind=linux.backend.kind,
        ports=msgspec.structs.replace(gather_ports(here, linux), listened=frozenset()),
        endpoints=endpoints,
        path_mtus=path_mtu.find_path_mtus(endpoints.values(), probe=False, directory=linux.directory),
    )
    settings = msgspec.structs.replace(here.settings, up=True, guarded=True)
    joined = msgspec.structs.replace(here.inventory, machines=list_members(here.inventory))
    return msgspec.structs.replace(here, settings=settings, inventory=joined).build_desired_state(facts)


def _export_hosts(_: State, here: Local) -> Export:
    facts = hosts.hosts_file(here.inventory, here.settings.name)
    return _export_without_secrets(facts, hosts.render_hosts_file(facts))


def _export_ansible(_: State, here: Local) -> Export:
    facts = ansible.inventory_tree(here.inventory)
    return _export_without_secrets(facts, ansible.render_inventory(facts, here.settings.name))


def _export_without_secrets(facts: Any, text: str) -> Export:
    """One without secrets."""
    return Export(facts=facts, text=text, whole=text)


_MAKERS: Final[dict[str, Callable[[State, Local], Export]]] = {
    "wg-quick": _export_wg_quick,
    "nft": _export_nft,
    "hosts": _export_hosts,
    "ansible": _export_ansible,
}
FORMATS: Final = tuple(_MAKERS)
