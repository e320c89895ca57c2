"""The membership service's address in tests, and an agent that remembers what it was asked."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from qmesh.errors import QmeshError
from qmesh.host.api.handlers import SentRedemption

HERE = "127.0.0.1"
PORT = 51820


class Agent:
    """An agent that remembers what it was asked."""

    def __init__(
        self,
        *,
        redeem: Callable[[bytes], bytes] = lambda _: b'{"members": 1}',
        membership: Callable[[int], bytes | None] = lambda _: b'{"members": 2}',
    ) -> None:
        self.asked: list[tuple[object, ...]] = []
        self._redeem = redeem
        self._membership = membership
        self.leaving: frozenset[str] = frozenset()
        self.refreshed = 0

    def redeem_all(self, sent: Sequence[SentRedemption]) -> list[bytes | QmeshError]:
        self.asked += [("redeem", *each) for each in sent]
        return [self._answer_redemption(each.body) for each in sent]

    def _answer_redemption(self, body: bytes) -> bytes | QmeshError:
        try:
            return self._redeem(body)
        except QmeshError as error:
            return error

    def finish_redemption(self, *, sender: str) -> None:
        self.asked.append(("redeemed", sender))

    def find_membership_update(
        self,
        *,
        newer_than: int,
        whole: bool,
        sender: str,
        digest: str,  # noqa: ARG002 - the protocol's
    ) -> bytes | None:
        self.asked.append(("membership", newer_than, sender, *(["whole"] if whole else [])))
        return self._membership(newer_than)

    def record_acknowledgement(self, sealed: bytes, *, newer_than: int, sender: str) -> None:
        self.asked.append(("acknowledge", sealed, newer_than, sender))

    def offer_key(self, body: bytes, *, sender: str) -> None:
        self.asked.append(("offer_key", body, sender))
        self._redeem(body)

    def report_handover(self, body: bytes, *, sender: str) -> bytes | None:
        self.asked.append(("succeed", body, sender))
        return self._redeem(body) or None

    def fetch_node_files(self, body: bytes, *, sender: str) -> bytes:
        self.asked.append(("node files", body, sender))
        return self._redeem(body)

    def report_keys(self, body: bytes, *, sender: str) -> None:
        self.asked.append(("report keys", body, sender))
        self._redeem(body)

    def report_conflict(self, body: bytes, *, sender: str) -> None:
        self.asked.append(("conflict", body, sender))

    def record_key_report(self, sealed: bytes, *, sender: str) -> None:
        self.asked.append(("key report", sealed, sender))

    def record_facts(self, sealed: bytes, *, sender: str) -> None:
        self.asked.append(("facts", sealed, sender))

    def record_question(self, *, sender: str) -> None:
        self.asked.append(("question", sender))

    def record_note(self, line: str, *, sender: str) -> None:
        if line:
            self.asked.append(("note", line, sender))

    def refresh_membership(self) -> None:
        self.refreshed += 1

    def list_departed(self) -> frozenset[str]:
        return self.leaving


def told_by() -> socket.socket:
    """A socket by which nobody tells anything."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("")
    listening.listen()
    return listening
