"""What a service tells the process that started it. Source: sd_notify(3)."""

from __future__ import annotations

import _socket
import os

from qmesh.host.lean.bare_socket import BareSocket


def notify(message: str) -> None:
    """Tell it how this service is: `READY=1`, `STOPPING=1`. Where nobody wants to know, nothing is told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with BareSocket(_socket.AF_UNIX, _socket.SOCK_DGRAM) as out:
        try:
            out.sendto(message.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError:
            pass
