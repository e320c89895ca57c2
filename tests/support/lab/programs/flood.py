"""Who asks an agent as fast as it can: `flood.py KIND ADDRESS PORT [USER]`, of the number USER, or as root.

Root of a member against the control node's service, or a user of a machine against its metrics. Until
SIGTERM; then it prints how many connections it has begun, and how many were answered. For `redemptions`,
standard input has the invitation that this machine joined with, and its public key.
"""

# ruff: noqa: T201  # a program of the lab, it prints its answer

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from qmesh.host.api.messages import CONFLICTS, FINDINGS, NODE_FILES, NODE_KEYS, PACKETS, REDEMPTIONS
from qmesh.mesh.protocol.aead import NONCE_OCTETS
from qmesh.mesh.protocol.enrolment import build_redemption, derive_invitation_keys, parse_invitation
from qmesh.mesh.protocol.findings_report import FindingsReport, encrypt_report
from qmesh.mesh.protocol.key_digests import KeyDigests, encrypt_digests
from qmesh.mesh.protocol.membership import Update, compute_difference
from qmesh.mesh.protocol.node_files import NodeFilesRequest, encrypt_request
from qmesh.mesh.values import Secret
from tests.support.waiting import pause

STATE = Path("/var/lib/qmesh")
THREADS = 8
MOST_HELD = 1000
METRICS = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)


class Flood:
    """One kind. Each of its threads does the same again and again."""

    def __init__(self, place: tuple[str, int]) -> None:
        self.begun = self.answered = 0
        self._place = place
        self._held: list[socket.socket] = []

    def _connected(self) -> socket.socket:
        self.begun += 1
        return socket.create_connection(self._place, 2)

    def _ask(self, octets: bytes) -> None:
        with self._connected() as connection:
            connection.sendall(octets)
            is_first = True
            while said := connection.recv(1 << 16):
                self.answered += is_first and said.startswith(b"HTTP/1.1 2")
                is_first = False

    def nothing(self) -> None:
        """To compare the others with."""
        pause(0.5)

    def polls(self) -> None:
        """Questions that would wait, given up at once."""
        with self._connected() as connection:
            connection.sendall(asked("newer_than=999999999&wait=60&whole=0"))

    def bodies(self) -> None:
        """Bodies that break off."""
        with self._connected() as connection:
            connection.sendall(posted(b"x" * 9000, 16000))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def connections(self) -> None:
        """A thousand connections that say nothing, as long as they last."""
        if len(self._held) >= MOST_HELD:
            self._held.pop(0).close()
        self._held.append(self._connected())

    def documents(self) -> None:
        """The whole membership, of one revision or another."""
        self._ask(asked(f"newer_than={self.begun % 300}&wait=0&whole={self.begun % 2}"))

    def redemptions(self, body: bytes) -> None:
        """An invitation that was used, redeemed anew."""
        self._ask(posted(body, len(body)))

    def metrics(self) -> None:
        """Metrics, taken whole."""
        self._ask(METRICS)

    def untaken_metrics(self) -> None:
        """Metrics that are not read: a thousand connections."""
        self.connections()
        self._held[-1].sendall(METRICS)

    def half_questions(self) -> None:
        """Questions that do not end, as large as they may be, each begun from another address of loopback."""
        if len(self._held) >= MOST_HELD:
            self._held.pop(0).close()
        self.begun += 1
        source = f"127.{1 + self.begun // 250 % 250}.{self.begun % 250}.1"
        self._held.append(socket.create_connection(self._place, 2, source_address=(source, 0)))
        self._held[-1].sendall(METRICS.removesuffix(b"\r\n") + b"X: " + b"x" * 16000)

    def reports(self) -> None:
        """All that root of a member can say besides, sealed with its key: each time something new."""
        shared = Secret((STATE / "preshared.key").read_text("ascii").strip())
        digests = KeyDigests(secrets.token_bytes(32), None, None)
        report = FindingsReport(revision=1, findings=())
        nonce = secrets.token_bytes(NONCE_OCTETS)
        asks = NodeFilesRequest(name="x", reply_key=secrets.token_bytes(32), key_store="/keys.yml")
        for path, body in (
            (NODE_KEYS, encrypt_digests(digests, shared)),
            (FINDINGS, encrypt_report(report, secrets.token_hex(16), shared, nonce=nonce)),
            (CONFLICTS, build_large_proof()),
            (NODE_FILES, encrypt_request(asks, shared, nonce=nonce)),
            (f"{PACKETS}?octets=4096", bytes(16000)),
        ):
            with contextlib.suppress(OSError):
                self._ask(posted(body, len(body), path))


def asked(query: str) -> bytes:
    return f"GET /v1/membership?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def posted(body: bytes, length: int, path: str = REDEMPTIONS) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + body


def build_large_proof() -> bytes:
    """What unpacks to as much as may be, and is signed by nobody."""
    held = json.loads((STATE / "membership.json").read_bytes())
    revision = json.loads(base64.b64decode(held["payload"]))["revision"]
    part = compute_difference(b"", bytes(1 << 20))
    return msgspec.msgpack.encode(Update(revision, (part,), bytes(64)))


def used() -> bytes:
    """The redemption of the invitation and the key on standard input."""
    text, key = sys.stdin.read().split()
    derived = derive_invitation_keys(parse_invitation(text).secret)
    return msgspec.json.encode(build_redemption(derived, public_key=key, workers=1, endpoint=None))


def go_on(do: Callable[[], None], ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            do()
        except OSError:
            pause()  # refused: a loop that is faster would only use up this machine's processors


def main(kind: str, address: str, port: str, user: str = "0") -> None:
    if int(user):
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))
    flood = Flood((address, int(port)))
    do: Callable[[], None] = getattr(flood, kind)
    if kind == "redemptions":
        body = used()
        do = lambda: flood.redemptions(body)  # noqa: E731 - as the others are
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    for _ in range(THREADS):
        threading.Thread(target=go_on, args=(do, ended), daemon=True).start()
    print("ready", flush=True)
    while not ended.wait(1):
        pass
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({"begun": flood.begun, "answered": flood.answered}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
