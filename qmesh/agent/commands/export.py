"""`export`: what this machine knows and should be, in the words of other tools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from qmesh.agent.local import Here, known_endpoints, linux_for, require_control, require_root
from qmesh.agent.membership import latest
from qmesh.errors import BadInput
from qmesh.host import files
from qmesh.host.linux import Linux
from qmesh.host.network import links, path_mtu
from qmesh.host.state.directory import State
from qmesh.mesh.desired import Place, desired
from qmesh.mesh.exports import ansible, hosts, nft, wg_quick
from qmesh.mesh.inventory import members
from qmesh.mesh.model import Endpoint, Guard, NodeState, Unshown, quoted
from qmesh.mesh.reaching import tunnel_mtu


class Export(Unshown, frozen=True, kw_only=True):
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
        raise BadInput(f"there is no format {quoted(wanted)}", hint=f"choose one of {', '.join(FORMATS)}")
    require_root(f"qmesh export {wanted}")
    return make(state, latest(state))


def write(made: Export, path: Path) -> None:
    """Write it to a new file, 0600. Raises BadInput."""
    files.write_new(path, made.whole.encode())


def _wg_quick(state: State, here: Here) -> Export:
    linux = linux_for(state, here)
    key = linux.private_key(here.machine.public_key)
    name, inventory = here.settings.name, here.inventory
    tunnel = _wanted(here, linux, _endpoints(here, linux)).tunnel
    assert tunnel is not None
    facts = wg_quick.tunnel_file(inventory, name, tunnel, None)
    whole = wg_quick.tunnel_file(inventory, name, tunnel, key)
    return Export(facts=facts, text=wg_quick.render(facts), whole=wg_quick.render(whole))


def _endpoints(here: Here, linux: Linux) -> dict[str, Endpoint]:
    """Where each machine is to be reached that calls for it; no name is looked up."""
    interface = here.settings.interface
    counters = {} if links.read(interface) is None else linux.backend.read(interface).counters
    seen = {key: counts.endpoint for key, counts in counters.items()}
    chosen = {
        machine.name: wg_quick.endpoint_to_write(endpoints, seen.get(machine.public_key))
        for machine, endpoints in known_endpoints(here)
    }
    return {name: endpoint for name, endpoint in chosen.items() if endpoint is not None}


def _nft(state: State, here: Here) -> Export:
    guard = _wanted(here, linux_for(state, here), {}).guard
    assert isinstance(guard, Guard)
    facts = nft.guard_file(guard, here.settings.name, here.inventory.revision)
    return _open(facts, nft.render(facts))


def _wanted(here: Here, linux: Linux, endpoints: dict[str, Endpoint]) -> NodeState:
    """What this machine should be, whatever `down` said; without peers for those who are only invited.

    An invitation ends, and a file would not know it.
    """
    settings = here.settings
    known = path_mtu.mtus(endpoints.values(), probe=False, directory=linux.directory)
    place = Place(
        interface=settings.interface,
        kind=linux.backend.kind,
        listen_port=settings.listen_port,
        endpoints=endpoints,
        mtu=tunnel_mtu(known, most=settings.mtu),
    )
    joined = msgspec.structs.replace(here.inventory, machines=members(here.inventory))
    return desired(joined, settings.name, place, here.preshared)


def _hosts(_: State, here: Here) -> Export:
    facts = hosts.hosts_file(here.inventory, here.settings.name)
    return _open(facts, hosts.render(facts))


def _ansible(_: State, here: Here) -> Export:
    require_control(here, "qmesh export ansible")
    facts = ansible.inventory_tree(here.inventory)
    return _open(facts, ansible.render(facts, here.settings.name))


def _open(facts: Any, text: str) -> Export:
    """One without secrets."""
    return Export(facts=facts, text=text, whole=text)


_MAKERS: Final[dict[str, Callable[[State, Here], Export]]] = {
    "wg-quick": _wg_quick,
    "nft": _nft,
    "hosts": _hosts,
    "ansible": _ansible,
}
FORMATS: Final = tuple(_MAKERS)
