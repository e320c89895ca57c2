"""A member's end, and that of one who is about to be a member."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

import httpx
import msgspec

from qmesh.errors import EnrolmentRefused
from qmesh.host.channel.messages import KEYS, MAX_ANSWER, MEMBERSHIP, REDEMPTIONS, SUCCESSION, Refusal, Silent
from qmesh.mesh.enrolment import KeyOffer, Redemption

_SAME_VERSION: Final = "use the same version of qmesh on both machines"

_SOON_NOTICED: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 6),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
"""A control node that is gone while it is waited for is noticed within some 20 seconds; and one that is
there is heard every 6, so that nobody has to dial it to see that."""


class Client:
    """Asks the control node's membership service. Timeouts in seconds."""

    def __init__(self, *, address: str, port: int) -> None:
        host = f"[{address}]" if ":" in address else address
        self._http = httpx.Client(
            base_url=f"http://{host}:{port}",
            # There is no TLS in the tunnel; to load every authority's certificate takes 30 ms.
            transport=httpx.HTTPTransport(verify=False, socket_options=_SOON_NOTICED),
            trust_env=False,
            follow_redirects=False,
        )

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def redeem(self, message: Redemption, *, connect_s: float, read_s: float) -> bytes:
        """Redeem an invitation. Raises Silent, or EnrolmentRefused."""
        body = msgspec.json.encode(message)
        timeout = httpx.Timeout(read_s, connect=connect_s)
        return self._answer(lambda: self._http.stream("POST", REDEMPTIONS, content=body, timeout=timeout))

    def offer_key(self, public_key: str, *, connect_s: float, read_s: float) -> None:
        """Offer a key to change to; it is known when this returns. Raises Silent, or EnrolmentRefused."""
        body = msgspec.json.encode(KeyOffer(public_key))
        timeout = httpx.Timeout(read_s, connect=connect_s)
        self._answer(lambda: self._http.stream("POST", KEYS, content=body, timeout=timeout))

    def succeed(self, body: bytes, *, connect_s: float, read_s: float) -> bytes | None:
        """Say how far this successor is; the estate, where it lacks that. Sealed; raises as `offer_key`."""
        timeout = httpx.Timeout(read_s, connect=connect_s)
        return (
            self._answer(lambda: self._http.stream("POST", SUCCESSION, content=body, timeout=timeout)) or None
        )

    def membership(
        self, *, newer_than: int, connect_s: float, read_s: float, wait_s: int = 0, whole: bool = False
    ) -> bytes | None:
        """An Update to the newest membership; None when it is no newer. Raises Silent, or EnrolmentRefused.

        newer_than: the revision of the one that is held.
        wait_s: seconds to wait for a newer one to come; read_s is then added to them.
        whole: whether all of it is wanted, not a difference.
        """
        timeout = httpx.Timeout(wait_s + read_s, connect=connect_s)
        parameters = {"newer_than": newer_than, "wait": wait_s, "whole": int(whole)}
        return (
            self._answer(lambda: self._http.stream("GET", MEMBERSHIP, params=parameters, timeout=timeout))
            or None
        )

    def _answer(self, ask: Callable[[], AbstractContextManager[httpx.Response]]) -> bytes:
        try:
            with ask() as response:
                body = _bounded(response)
                status = response.status_code
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise Silent("nobody answers", was_reached=False) from None
        except httpx.HTTPError:
            raise Silent("nobody answers") from None
        if status in {200, 204}:
            return body
        refusal = _refusal(body)
        if status >= 500:  # its own trouble, which it may get over
            raise Silent(f"the control node has trouble of its own: {refusal.message}")
        raise refusal


def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) > MAX_ANSWER:
            raise EnrolmentRefused(
                "the control node's answer is too large", hint="use the same qmesh on both"
            )
    return bytes(body)


def _refusal(body: bytes) -> EnrolmentRefused:
    try:
        said = msgspec.json.decode(body, type=Refusal)
    except (ValueError, RecursionError):  # also for text that is no UTF-8, and for a thousand brackets
        said = Refusal("the control node's answer is not understood", _SAME_VERSION)
    return EnrolmentRefused(_line(said.error), hint=_line(said.hint))


def _line(text: str) -> str:
    """Words from another machine, as they can be printed: one line, no control characters."""
    return "".join(character if character.isprintable() else " " for character in text[:300])
