"""The client of the membership service, for members and for machines that join.

HTTP/1.1 by h11; each request has a connection of its own.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import socket
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

import h11
import msgspec

from qmesh.errors import EnrolmentRefused
from qmesh.host.api.messages import (
    ASKED_FINDINGS,
    CAN_REPORT,
    CONFLICTS,
    FINDINGS,
    HEALTH,
    HOLDS,
    KEY_DIGESTS,
    KEYS,
    MACHINE_FACTS,
    MAX_ANSWER,
    MEMBERSHIP,
    NODE_FILES,
    NODE_KEYS,
    NOTE,
    REDEMPTIONS,
    SPEAKS,
    SUCCESSION,
    ControlNodeUnavailable,
    quote_refusal,
)
from qmesh.host.system import heartbeat
from qmesh.mesh.decode import SAME_VERSION
from qmesh.mesh.protocol.enrolment import Redemption
from qmesh.mesh.protocol.member_note import MemberNote, encode_note
from qmesh.mesh.protocol.versions import ProtocolsApart, decode_protocol, encode_protocol, is_understood

WHOLE_S: Final = 30.0
"""Seconds that an answer has to arrive whole, after those for its beginning: 9 Mbit/s for the largest."""
_MOST_INFORMATIONAL: Final = 8
"""Informational answers, such as `100 Continue`, that may come before the final one."""
_ITS_WORDS: Final = (
    "the text in quotes is the control node's: follow its hint, or run `qmesh status` and `qmesh check` there"
)

_BEAT_S: Final = 1.0
_PIECE: Final = 64 * 1024

_SOON_NOTICED: Final = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 6),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
"""TCP keepalive: a control node that disappears while this machine waits is noticed within some 20 seconds.
One that is there answers every 6 seconds, so that no other probe is needed."""


class Answer(NamedTuple):
    """What a request was answered with. headers: by name, in lower case, as they came."""

    status: int
    body: bytes
    headers: Mapping[bytes, bytes]


_NOTHING: Final = MemberNote()


class Client:
    """Asks the control node's membership service. Timeouts in seconds.

    read_s: until the answer begins, and between two pieces of it; all of it has `WHOLE_S` more.
    can_report: whether this machine would report its findings; `asked_findings` then says if it should.
    note: what it notes of itself when it asks for the membership. facts: what it tells of itself, encrypted,
        the first time that it asks for that; empty for nothing.
    """

    def __init__(
        self,
        *,
        address: str,
        port: int,
        can_report: bool = False,
        note: MemberNote = _NOTHING,
        facts: bytes = b"",
    ) -> None:
        self.asked_findings = ""
        """Which request for this machine's findings came with the last answer; empty for none."""
        self._can_report = can_report
        self._note = encode_note(note)
        self._facts = facts
        self._place = address, port
        self._host = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    def redeem(self, message: Redemption, *, connect_s: float, read_s: float) -> bytes:
        """Redeem an invitation. Raises ControlNodeUnavailable, or EnrolmentRefused."""
        return self._fetch_response(
            REDEMPTIONS, msgspec.json.encode(message), connect_s=connect_s, read_s=read_s
        )

    def offer_key(self, body: bytes, *, connect_s: float, read_s: float) -> None:
        """Offer a key, encrypted; the control node knows it when this returns. Raises as `redeem`."""
        self._fetch_response(KEYS, body, connect_s=connect_s, read_s=read_s)

    def report_handover(self, body: bytes, *, connect_s: float, read_s: float) -> bytes | None:
        """Report this successor's progress; the handover data where it lacks that. Raises as `offer_key`."""
        return self._fetch_response(SUCCESSION, body, connect_s=connect_s, read_s=read_s) or None

    def fetch_node_files(self, body: bytes, *, connect_s: float, read_s: float) -> bytes:
        """Fetch the node's files: request and answer are encrypted. Raises as `offer_key`."""
        return self._fetch_response(NODE_FILES, body, connect_s=connect_s, read_s=read_s)

    def report_keys(self, body: bytes, *, connect_s: float, read_s: float) -> None:
        """Report digests of the node's keys, encrypted, where these are others now. Raises as `offer_key`."""
        self._fetch_response(NODE_KEYS, body, connect_s=connect_s, read_s=read_s)

    def report_findings(self, body: bytes, *, connect_s: float, read_s: float) -> None:
        """Report the findings that the control node asked for, encrypted. Raises as `offer_key`."""
        self._fetch_response(FINDINGS, body, connect_s=connect_s, read_s=read_s)

    def report_conflict(self, body: bytes, *, connect_s: float, read_s: float) -> None:
        """Show a membership that contradicts the control node's. Raises as `redeem`."""
        self._fetch_response(CONFLICTS, body, connect_s=connect_s, read_s=read_s)

    def poll_membership(
        self,
        *,
        newer_than: int,
        connect_s: float,
        read_s: float,
        wait_s: int = 0,
        whole: bool = False,
        holds: bytes = b"",
        key_report: bytes = b"",
        digest: str = "",
    ) -> bytes | None:
        """An Update to the newest membership; None when it is no newer. Raises as `redeem`.

        Where the control node's is older, or contradicts the one that is held, all of it.

        newer_than: the revision of the one that is held.
        wait_s: seconds to wait for a newer one to come; read_s is then added to them.
        whole: whether all of it is wanted, not a difference.
        holds: this machine's report that it holds that revision, encrypted; empty for no report.
        key_report: its report of its node's keys, as `holds`.
        digest: of the membership that is held, as of `read_membership_content`; empty for none.
        """
        path = f"{MEMBERSHIP}?newer_than={newer_than}&wait={wait_s}&whole={int(whole)}"
        path += f"&content={digest}" if digest else ""
        facts, self._facts = self._facts, b""
        reports = {HOLDS: holds, KEY_DIGESTS: key_report, MACHINE_FACTS: facts}
        said = [(name, base64.b64encode(sealed).decode()) for name, sealed in reports.items() if sealed]
        said += [(CAN_REPORT, "findings")] if self._can_report else []
        said += [(NOTE, self._note)] if self._note else []
        return (
            self._fetch_response(path, None, connect_s=connect_s, read_s=read_s, wait_s=wait_s, said=said)
            or None
        )

    def read_clock(self, *, connect_s: float, read_s: float) -> float | None:
        """The control node's time, Unix seconds, to a second; None where its answer has none.

        Raises as `redeem`. It asks for what no member is told, so that this costs the control node nothing.
        """
        answer = self._request(HEALTH, None, connect_s=connect_s, read_s=read_s)
        return _parse_date(answer.headers.get(b"date", b""))

    def _fetch_response(
        self,
        path: str,
        body: bytes | None,
        *,
        connect_s: float,
        read_s: float,
        wait_s: float = 0.0,
        said: list[tuple[str, str]] | None = None,
    ) -> bytes:
        """The body of the answer. Raises as `redeem`, for a refusal too; ProtocolsApart."""
        answer = self._request(path, body, connect_s=connect_s, read_s=read_s, wait_s=wait_s, said=said)
        self.asked_findings = answer.headers.get(ASKED_FINDINGS.encode(), b"")[:64].decode("ascii", "replace")
        spoken = decode_protocol(answer.headers.get(SPEAKS.encode(), b""))
        if not is_understood(spoken):  # whatever it says else
            raise ProtocolsApart("the control node", spoken, own_name="this machine")
        if answer.status in {200, 204}:
            return answer.body
        if answer.status >= 500:  # its own trouble, which it may get over
            words = quote_refusal(answer.body) or "its answer is not understood"
            raise ControlNodeUnavailable(f"the control node has an error of its own: {words}")
        raise _build_refusal(answer.body)

    def _request(
        self,
        path: str,
        body: bytes | None,
        *,
        connect_s: float,
        read_s: float,
        wait_s: float = 0.0,
        said: list[tuple[str, str]] | None = None,
    ) -> Answer:
        """What a POST of the body is answered with; a GET where there is none."""
        try:
            with heartbeat.allow_wait(connect_s):
                connection = socket.create_connection(self._place, connect_s)
        except OSError:
            raise ControlNodeUnavailable("no connection", was_reached=False) from None
        with connection:
            for option in _SOON_NOTICED:
                connection.setsockopt(*option)
            method = "GET" if body is None else "POST"
            return send_request(
                connection, method, path, host=self._host, body=body, said=said, wait_s=wait_s, read_s=read_s
            )


def _parse_date(text: bytes) -> float | None:
    """The time of a header Date; None for what is none. Source: RFC 9110, 6.6.1."""
    with contextlib.suppress(ValueError, OverflowError, TypeError, IndexError):
        return email.utils.parsedate_to_datetime(text[:40].decode("ascii")).timestamp()
    return None


def send_request(
    connection: socket.socket,
    method: str,
    path: str,
    *,
    host: str,
    read_s: float,
    wait_s: float = 0.0,
    body: bytes | None = None,
    said: list[tuple[str, str]] | None = None,
) -> Answer:
    """Ask by a connection.

    said: more headers. read_s, wait_s: see `Client`.
    Raises ControlNodeUnavailable where no whole answer comes in time, EnrolmentRefused for one that is too
    large.
    """
    http = h11.Connection(h11.CLIENT)
    asked = encode_request(http, method, path, host=host, body=body, said=said)
    try:
        connection.settimeout(read_s)
        connection.sendall(asked)
        return _receive_response(connection, http, wait_s + read_s, read_s)
    except TimeoutError:
        raise ControlNodeUnavailable("it does not answer in time") from None
    except (OSError, h11.RemoteProtocolError):
        raise ControlNodeUnavailable("the connection ended without an answer") from None


def encode_request(
    http: h11.Connection,
    method: str,
    path: str,
    *,
    host: str,
    body: bytes | None,
    said: list[tuple[str, str]] | None = None,
) -> bytes:
    """What `send_request` sends."""
    headers = [("Host", host), ("Connection", "close"), (SPEAKS, encode_protocol()), *(said or ())]
    if body is not None:
        headers.append(("Content-Length", str(len(body))))
    asked = http.send(h11.Request(method=method, target=path, headers=headers)) or b""
    asked += http.send(h11.Data(data=body or b"")) or b""
    return asked + (http.send(h11.EndOfMessage()) or b"")


def _receive_response(
    connection: socket.socket, http: h11.Connection, first_s: float, read_s: float
) -> Answer:
    """An answer. first_s: seconds until its beginning. Raises as `send_request`, and OSError."""
    until = time.monotonic() + first_s
    whole_until = until + WHOLE_S
    status, informational, body = 0, 0, bytearray()
    headers: Mapping[bytes, bytes] = {}
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(_receive_chunk(connection, min(until, whole_until)))
            until = max(until, time.monotonic() + read_s)
        elif isinstance(event, h11.InformationalResponse):
            informational += 1
            if informational > _MOST_INFORMATIONAL:
                raise ControlNodeUnavailable("its answer is not understood")
        elif isinstance(event, h11.Response):
            status, until = event.status_code, time.monotonic() + read_s
            headers = dict(event.headers)
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_ANSWER:
                raise EnrolmentRefused("the control node's answer is too large", hint=SAME_VERSION)
        elif isinstance(event, h11.EndOfMessage):
            return Answer(status, bytes(body), headers)
        else:
            raise ControlNodeUnavailable("its answer is not understood")


def _receive_chunk(connection: socket.socket, until: float) -> bytes:
    """What comes next, at that time of the monotonic clock at most; empty at the end. Raises OSError."""
    while True:
        heartbeat.beat()  # this waits, and does not hang
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(min(_BEAT_S, left_s))
        with contextlib.suppress(TimeoutError):
            return connection.recv(_PIECE)


def _build_refusal(body: bytes) -> EnrolmentRefused:
    words = quote_refusal(body)
    if words is None:
        return EnrolmentRefused("the control node's answer is not understood", hint=SAME_VERSION)
    return EnrolmentRefused(f"the control node answered: {words}", hint=_ITS_WORDS)
