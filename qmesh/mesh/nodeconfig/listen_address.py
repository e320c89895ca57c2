"""Where one core's data worker is to listen; and where the node serves its owner, and would serve anyone."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig.document import Mapping, Node, ParsedConfig, Scalar, resolve_alias
from qmesh.mesh.nodeconfig.multiaddr import parse_multiaddr
from qmesh.mesh.nodeconfig.parse import parse_config
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


_OWNERS_INTERFACES: Final = (
    "listenGrpcMultiaddr", "listenGRPCMultiaddr", "listenRESTMultiaddr", "listenRestMultiaddr",
)  # fmt: skip
_TCP_PORT = re.compile(r"/tcp/([0-9]{1,5})(?![0-9])")
_ONE_ADDRESS = re.compile(r"/ip4/(?!0\.0\.0\.0/)[0-9.]+/tcp/[0-9]+")
_EVERY_ADDRESS = re.compile(r"/ip(?:4/0\.0\.0\.0|6/[0:]+)/tcp/")
_HOST_PORT = re.compile(r"(?:0\.0\.0\.0|\[[0:]+\]|\*|):([0-9]{1,5})")


def list_wide_ports(config: str | ParsedConfig) -> tuple[int, ...]:
    """The TCP ports at which a config lets the node serve its owner on every address, ascending.

    The Rust node takes every address that it does not understand (`/ip6/...`, `/dns4/...`) for one of every
    address, so all but one of IPv4 counts; of several values for one key, all. What `statsMultiaddr` names is
    mostly dialled: there only every address of this machine counts.
    Raises BadInput when the text does not load.
    """
    root = parse_config(config).root
    return tuple(sorted({port for port in _find_wide_ports(root) if 0 < port < 65536}))


def _find_wide_ports(root: Node | None) -> Iterator[int]:
    for value in _list_texts(root, *_OWNERS_INTERFACES):
        if not _ONE_ADDRESS.fullmatch(value):
            yield from map(int, _TCP_PORT.findall(value))
    for section in _list_values(root, "engine"):
        for value in _list_texts(section, "statsMultiaddr"):
            if _EVERY_ADDRESS.match(value):
                yield from map(int, _TCP_PORT.findall(value))
    for section in _list_values(root, "explorer"):
        if any(value.lower() == "true" for value in _list_texts(section, "enabled")):
            for value in _list_texts(section, "listenAddr"):
                if listens := _HOST_PORT.fullmatch(value):
                    yield int(listens[1])


def _list_texts(mapping: Node | None, *names: str) -> list[str]:
    return [value.value for value in _list_values(mapping, *names) if isinstance(value, Scalar)]


def _list_values(mapping: Node | None, *names: str) -> list[Node]:
    pairs = mapping.pairs if isinstance(mapping, Mapping) else ()
    return [resolve_alias(value) for key, value in pairs if key.value in names]
