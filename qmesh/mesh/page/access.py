"""Which requests the page answers, and at which port.

What keeps other users of the machine out is the URL's token, or the socket's mode. This keeps out what other
sites' pages ask by the same browser: a socket that `ssh -L` forwards to a laptop's port has no token.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.values import CONTROL_PORTS, NODE_PORTS, PUBLIC_PORTS, SSH_PORT
from qmesh.mesh.view.cluster_view import ClusterView

DEFAULT_PORT: Final = 9587
_HOST: Final = re.compile(rb"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?")
"""Wherever `ssh -L` leads to the page from, it is loopback. A name that DNS leads there is none of these."""
METHODS: Final = ("GET", "HEAD")


def refuse_request(peer: str, method: str, headers: Mapping[bytes, bytes]) -> int:
    """The HTTP status to refuse a request with; 0 where it is fine.

    peer: the address that calls, empty at a Unix socket. headers: by name in lower case.
    403: another machine asks, as may be where the kernel routes packets for loopback (route_localnet); or
    another site's page does. 421: it names a host that is not loopback. 405: it is neither GET nor HEAD.
    A link on another site may lead here: that shows the page to the user, and nothing to the site.
    """
    if peer and not ipaddress.ip_address(peer).is_loopback:
        return 403
    host = headers.get(b"host", b"").lower()
    if _HOST.fullmatch(host) is None:
        return 421
    origin = headers.get(b"origin")
    if origin is not None and origin.lower() != b"http://" + host:
        return 403
    if headers.get(b"sec-fetch-site", b"none") not in {b"none", b"same-origin"} and not (
        headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
    ):
        return 403
    return 0 if method in METHODS else 405


def find_file_name(path: str, token: str) -> str | None:
    """What a path asks for: `events`, the name of a file, or nothing for the page; None without the token.

    token: the first part of each path; empty where none is needed.
    """
    if not path.startswith("/"):
        return None
    if not token:
        return path[1:]
    first, slash, rest = path[1:].partition("/")
    return rest if hmac.compare_digest(first.encode(), token.encode()) and slash else None


def refuse_page_port(view: ClusterView, port: int) -> None:
    """Raise BadInput where a port of this machine is the node's, or SSH's: what needs it could not start."""
    here = next(machine for machine in view.machines if machine.name == view.name)
    node = view.node
    taken = {
        **dict.fromkeys((*PUBLIC_PORTS[node], *CONTROL_PORTS[node], *NODE_PORTS[node]), "the node's own"),
        **{worker.port: "a worker's" for worker in here.workers},
        SSH_PORT: "SSH's",
    }
    if port in taken:
        raise BadInput(
            f"the page cannot be served at port {port}: it is {taken[port]}",
            hint=f"choose another port, such as {DEFAULT_PORT}",
        )
