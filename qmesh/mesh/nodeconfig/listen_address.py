"""Where one core's data worker is to listen."""

from __future__ import annotations

import ipaddress

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig.document import ParsedConfig, parse_config
from qmesh.mesh.nodeconfig.multiaddr import parse_multiaddr
from qmesh.mesh.nodeconfig.profiles import detect_profile, profile_facts
from qmesh.mesh.nodeconfig.worker_list import read_workers

_RENDER = "run `qmesh render-config --write`, which writes the mesh's list"


def find_listen_address(core: int, config: str | ParsedConfig) -> tuple[str, int]:
    """The address and TCP port of a core's entry in a config's worker list, as its own keys tell its profile.

    core: from 1 on. Raises BadInput when the text does not load, when it has no such entry, and when the
    entry is none at which the control process of another machine reaches a worker.
    """
    config = parse_config(config)
    profile = detect_profile(config) or "2.0"  # the list of 1.4 is the same
    workers = read_workers(config, profile)
    if not workers:
        raise BadInput(f"config.yml has no workers below {profile_facts(profile).list_key}", hint=_RENDER)
    if core > len(workers):
        raise BadInput(
            f"core {core} is not in the worker list, which ends with core {len(workers)}",
            hint=f"`qmesh status` shows this machine's cores; if {core} is one of them, {_RENDER}",
        )
    address, port = parse_multiaddr(workers[core - 1])
    if reason := _explain_unfit(ipaddress.ip_address(address)):
        raise BadInput(f"core {core} would listen on {address}, which is {reason}", hint=_RENDER)
    return address, port


def _explain_unfit(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
    if address.is_unspecified:
        return "every address of this machine"
    if address.is_loopback:
        return "reachable only from this machine itself"
    if address.is_multicast:
        return "not the address of one machine"
    return None
