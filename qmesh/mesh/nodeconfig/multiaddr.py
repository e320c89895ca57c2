"""The one kind of multiaddr that a data worker's entry may be: an IP address and a TCP port.

Source: multiformats/multiaddr.
"""

from __future__ import annotations

import re

from qmesh.errors import BadInput
from qmesh.mesh.values import format_ip_address, parse_ip_address, quote_text, validate_port

_LISTEN = re.compile(
    r"/ip4/(?P<v4>[0-9.]{7,15})/tcp/(?P<port4>0|[1-9][0-9]{0,4})"
    r"|/ip6/(?P<v6>[0-9a-fA-F:.]{2,45})/tcp/(?P<port6>0|[1-9][0-9]{0,4})"
)


def parse_multiaddr(entry: str) -> tuple[str, int]:
    """The canonical IP address and the TCP port of `/ip4/A/tcp/P` or `/ip6/A/tcp/P`.

    Raises BadInput for every other multiaddr, and for ports that are not 1 to 65535.
    """
    parts = _LISTEN.fullmatch(entry)
    if parts is None:
        raise _multiaddr_error(entry)
    address = parse_ip_address(parts["v4"] or parts["v6"])
    if address is None or address.version != (4 if parts["v4"] else 6):
        raise _multiaddr_error(entry)
    port = int(parts["port4"] or parts["port6"])
    return format_ip_address(address), validate_port(port, "the worker's TCP port")


def _multiaddr_error(entry: str) -> BadInput:
    return BadInput(
        f"{quote_text(entry)} is not a data worker's multiaddr",
        hint="write it as /ip4/10.77.0.2/tcp/40000 or /ip6/fd00::2/tcp/40000",
    )
