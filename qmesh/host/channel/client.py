"""A member's end, and that of one who is about to be a member."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterable
from typing import Any, Final

import httpcore
import msgspec

from qmesh.errors import EnrolmentRefused
from qmesh.host import pulse
from qmesh.host.channel.messages import (
    KEYS,
    MAX_ANSWER,
    MEMBERSHIP,
    REDEMPTIONS,
    SUCCESSION,
    Silent,
    words_of,
)
from qmesh.mesh.enrolment import Redemption

_SAME_VERSION: Final = "use the same version of qmesh on both machines"
_ITS_WORDS: Final = "that is what it says; `qmesh status` and `qmesh check` there tell how it is"

_BEAT_S: Final = 1.0

_SOON_NOTICED: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 6),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
"""A control node that is gone while it is waited for is noticed within some 20 seconds; and one that is
there is heard every 6, so that nobody has to dial it to see that."""


class _Beating(httpcore.NetworkBackend):
    """Connections whose reader shows while it waits that it does not hang."""

    def __init__(self) -> None:
        self._connecting = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        pulse.beat()
        stream = self._connecting.connect_tcp(host, port, timeout, local_address, socket_options)
        return _BeatingStream(stream)


class _BeatingStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        until = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            pulse.beat()
            left_s = until - time.monotonic()
            try:
                return self._stream.read(max_bytes, min(_BEAT_S, max(0.001, left_s)))
            except httpcore.ReadTimeout:
                if left_s <= _BEAT_S:
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class Client:
    """Asks the control node's membership service. Timeouts in seconds."""

    def __init__(self, *, address: str, port: int) -> None:
        place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        self._url = f"http://{place}"
        self._headers: dict[bytes | str, bytes | str] = {"Host": place}
        self._connections = httpcore.ConnectionPool(socket_options=_SOON_NOTICED, network_backend=_Beating())

    def close(self) -> None:
        """Close its connections."""
        self._connections.close()

    def redeem(self, message: Redemption, *, connect_s: float, read_s: float) -> bytes:
        """Redeem an invitation. Raises Silent, or EnrolmentRefused."""
        return self._answer(REDEMPTIONS, msgspec.json.encode(message), connect_s=connect_s, read_s=read_s)

    def offer_key(self, body: bytes, *, connect_s: float, read_s: float) -> None:
        """Offer a key, sealed; it is known when this returns. Raises Silent, or EnrolmentRefused."""
        self._answer(KEYS, body, connect_s=connect_s, read_s=read_s)

    def succeed(self, body: bytes, *, connect_s: float, read_s: float) -> bytes | None:
        """Say how far this successor is; the estate, where it lacks that. Sealed; raises as `offer_key`."""
        return self._answer(SUCCESSION, body, connect_s=connect_s, read_s=read_s) or None

    def membership(
        self, *, newer_than: int, connect_s: float, read_s: float, wait_s: int = 0, whole: bool = False
    ) -> bytes | None:
        """An Update to the newest membership; None when it is no newer. Raises Silent, or EnrolmentRefused.

        newer_than: the revision of the one that is held.
        wait_s: seconds to wait for a newer one to come; read_s is then added to them.
        whole: whether all of it is wanted, not a difference.
        """
        path = f"{MEMBERSHIP}?newer_than={newer_than}&wait={wait_s}&whole={int(whole)}"
        return self._answer(path, None, connect_s=connect_s, read_s=wait_s + read_s) or None

    def _answer(self, path: str, body: bytes | None, *, connect_s: float, read_s: float) -> bytes:
        """What a POST of the body is answered with; a GET where there is none."""
        method = "GET" if body is None else "POST"
        timeouts = {"connect": connect_s, "read": read_s, "write": read_s, "pool": connect_s}
        try:
            with self._connections.stream(
                method,
                self._url + path,
                headers=self._headers,
                content=body,
                extensions={"timeout": timeouts},
            ) as response:
                answer, status = _bounded(response), response.status
        except (httpcore.ConnectError, httpcore.ConnectTimeout):
            raise Silent("nobody answers", was_reached=False) from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError):
            raise Silent("nobody answers") from None
        if status in {200, 204}:
            return answer
        if status >= 500:  # its own trouble, which it may get over
            words = words_of(answer) or "its answer is not understood"
            raise Silent(f"the control node has trouble of its own: {words}")
        raise _refusal(answer)


def _bounded(response: httpcore.Response) -> bytes:
    body = bytearray()
    for part in response.iter_stream():
        body += part
        if len(body) > MAX_ANSWER:
            raise EnrolmentRefused(
                "the control node's answer is too large", hint="use the same qmesh on both"
            )
    return bytes(body)


def _refusal(body: bytes) -> EnrolmentRefused:
    words = words_of(body)
    if words is None:
        return EnrolmentRefused("the control node's answer is not understood", hint=_SAME_VERSION)
    return EnrolmentRefused(f"the control node answered: {words}", hint=_ITS_WORDS)
