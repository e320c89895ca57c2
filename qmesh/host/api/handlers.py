"""What the membership service asks of the agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from qmesh.errors import QmeshError
from qmesh.mesh.audit.members import Silence
from qmesh.mesh.protocol.findings_report import FindingsReport


class SentRedemption(NamedTuple):
    """A redemption as it arrived. sender: the tunnel address that it came from."""

    body: bytes
    sender: str


class MembershipHandler(Protocol):
    """What the service asks of the agent. Memberships are the MessagePack of an Update."""

    def redeem_all(self, sent: Sequence[SentRedemption]) -> list[bytes | QmeshError]:
        """Admit machines, by one durable write; for each the whole membership, or what it is refused with.

        Raises QmeshError where none could be admitted.
        """

    def finish_redemption(self, *, sender: str) -> None:
        """Called once the answer to a redemption was taken, or can't be: the throwaway peer may go."""

    def offer_key(self, body: bytes, *, sender: str) -> None:
        """Know the key to which a member changes, and have WireGuard know it. Raises EnrolmentRefused."""

    def report_handover(self, body: bytes, *, sender: str) -> bytes | None:
        """Note how far the successor is; the handover data, where it lacks that. Raises EnrolmentRefused."""

    def fetch_node_files(self, body: bytes, *, sender: str) -> bytes:
        """The node's files for a member that may have them, encrypted. Raises EnrolmentRefused."""

    def report_keys(self, body: bytes, *, sender: str) -> None:
        """Note that the keys of a member's node are others now. Raises EnrolmentRefused."""

    def record_key_report(self, sealed: bytes, *, sender: str) -> None:
        """Note a member's report of its node's keys, encrypted. Doesn't block."""

    def record_facts(self, sealed: bytes, *, sender: str) -> None:
        """Note a member's report of its machine, encrypted. Doesn't block."""

    def record_question(self, *, sender: str) -> None:
        """Note that a member's agent asks for the membership, which it is refused. Doesn't block."""

    def record_note(self, line: str, *, sender: str) -> None:
        """Keep what a member notes of itself; empty for nothing. Doesn't block."""

    def find_membership_update(
        self, *, newer_than: int, whole: bool, sender: str, digest: str
    ) -> bytes | None:
        """What makes the newest of the one of that revision, or all of it; None when none is newer.

        digest: of the one that the sender holds, where it says so. Where that cannot come before the newest
            here, all of it is the answer.
        Doesn't block. Raises EnrolmentRefused for a stranger.
        """

    def report_conflict(self, body: bytes, *, sender: str) -> None:
        """Note a membership that contradicts this one. Raises EnrolmentRefused for any other."""

    def record_acknowledgement(self, sealed: bytes, *, newer_than: int, sender: str) -> None:
        """Note a member's report, encrypted, that it holds that revision. Doesn't block."""

    def refresh_membership(self) -> None:
        """See whether there is a newer one. Raises QmeshError where that can't be seen."""

    def list_departed(self) -> frozenset[str]:
        """The addresses of machines that were members, and are none in the newest membership."""


class FindingsCollector(Protocol):
    """Who asks members for their findings, each with the answer to its next question for news."""

    def begin(self, deliver: Callable[[str, FindingsReport], None]) -> bool:
        """Ask all members; False where an earlier request has not ended. Raises QmeshError.

        deliver: called from any thread with a machine's name and its report, once for each.
        """

    def end(self) -> None:
        """Ask none any more."""

    def list_silent(self) -> dict[str, Silence]:
        """The machines that have not reported yet, and why."""

    def find_request(self, *, sender: str, can_report: bool) -> str | None:
        """Which request a member that asks for news is to answer; None for none. Doesn't block."""

    def accept_report(self, body: bytes, *, sender: str) -> None:
        """Read a member's report and deliver it. Raises EnrolmentRefused for what was not asked for."""
