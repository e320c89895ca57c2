"""Many machines that redeem at once, without a tunnel each: they only ask the membership service.

On the control node, `crowd.py serve` answers at 127.0.0.1 from the registry of that machine, as its agent
does in the tunnel. `crowd.py ask` reads invitations, a line each, from standard input, waits for /run/go,
and has each redeemed from its own tunnel address, which is on `lo`. It prints a JSON list of pairs: seconds,
and the status of the answer.
"""

# ruff: noqa: T201  # programs of the lab, they print their answers

from __future__ import annotations

import base64
import http.client
import json
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qmesh.agent.daemon.loop_events import LookRequests
from qmesh.agent.daemon.membership_api import ControlNode
from qmesh.host.api.server import Service
from qmesh.host.state.directory import State
from qmesh.mesh.protocol.enrolment import Invitation, build_redemption, parse_invitation
from tests.support.waiting import pause

PORT = 51821
GO = Path("/run/go")


def serve() -> None:
    """Answer, until this is killed."""
    node = ControlNode(State(Path("/var/lib/qmesh")), changed=lambda: None, turns=LookRequests(lambda: None))
    told = socket.socket(socket.AF_UNIX)
    told.bind("")  # nobody tells it anything
    told.listen()
    Service(node, address="127.0.0.1", port=PORT, interface="lo", told=told).start()
    print("ready", flush=True)
    signal.pause()


def redeem(invitation: Invitation, found: list[tuple[float, int]]) -> None:
    """Redeem, with a key of one's own."""
    key = base64.b64encode(X25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    message = build_redemption(invitation.derived_keys, public_key=key, workers=1, endpoint=None)
    while not GO.exists():
        pause()
    begun = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", PORT, 120, source_address=(invitation.address, 0))
    connection.request("POST", "/v1/redemptions", msgspec.json.encode(message))
    answer = connection.getresponse()
    answer.read()
    found.append((time.monotonic() - begun, answer.status))


def ask() -> None:
    """Redeem them all at once."""
    found: list[tuple[float, int]] = []
    invitations = [parse_invitation(line) for line in sys.stdin.read().split()]
    threads = [threading.Thread(target=redeem, args=(each, found)) for each in invitations]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    for thread in threads:
        thread.join()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    {"serve": serve, "ask": ask}[sys.argv[1]]()
