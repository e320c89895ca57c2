"""The control node's end: members are asked for their findings, and these are read.

Members serve no port: each waits at the membership service for news, and that it should check itself is one.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from qmesh.errors import EnrolmentRefused
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.mesh.audit.members import Silence
from qmesh.mesh.inventory import list_members
from qmesh.mesh.protocol.findings_report import FindingsReport, decrypt_report
from qmesh.mesh.values import Secret

_AGAIN_S: Final = 5.0
"""Seconds after which a member that has not answered is asked again, when it asks for news."""


class Collector:
    """Implements `qmesh.host.api.handlers.FindingsCollector` from the registry: one request at a time.

    own: this machine's name.
    """

    def __init__(self, state: State, *, own: str) -> None:
        self._state = state
        self._own = own
        self._lock = threading.Lock()
        self._current: _Request | None = None

    def begin(self, deliver: Callable[[str, FindingsReport], None]) -> bool:
        """Ask all members; False where an earlier request has not ended."""
        with Registry(self._state.registry_file) as registry:
            members = list_members(registry.inventory())
            names = {each.address: each.name for each in members if each.name != self._own}
            shared = registry.find_preshared_keys(names)
        with self._lock:
            if self._current is not None:
                return False
            self._current = _Request(names, shared, deliver=deliver)
        return True

    def end(self) -> None:
        """Ask none any more."""
        self._current = None

    def list_silent(self) -> dict[str, Silence]:
        """The machines that have not reported yet, and why."""
        current = self._current
        return {} if current is None else current.list_silent()

    def find_request(self, *, sender: str, can_report: bool) -> str | None:
        """Which request that member is to answer; None for none."""
        current = self._current
        return None if current is None else current.find_request(sender, can_report=can_report)

    def accept_report(self, body: bytes, *, sender: str) -> None:
        """Deliver the findings of a member that was asked for them. Raises EnrolmentRefused."""
        current = self._current
        if current is None:
            raise _build_unasked_error()
        current.accept_report(body, sender)


class _Request:
    """One request to all members. From any thread.

    members: names by tunnel address. shared: preshared keys by tunnel address.
    deliver: called with a machine's name and its report, once for each; it waits for nothing.
    """

    def __init__(
        self,
        members: Mapping[str, str],
        shared: Mapping[str, Secret],
        *,
        deliver: Callable[[str, FindingsReport], None],
    ) -> None:
        self._request = secrets.token_hex(16)
        self._shared = dict(shared)
        self._deliver = deliver
        self._lock = threading.Lock()
        self._open = dict(members)
        self._asked: dict[str, float] = {}
        self._older: set[str] = set()

    def find_request(self, sender: str, *, can_report: bool) -> str | None:
        """What a member that asks for news is to answer; None where it is not asked, or was just now.

        can_report: whether its qmesh knows that question.
        """
        with self._lock:
            if sender not in self._open:
                return None
            if not can_report:
                self._older.add(sender)
                return None
            self._older.discard(sender)
            now = time.monotonic()
            if now - self._asked.get(sender, -_AGAIN_S) < _AGAIN_S:
                return None
            self._asked[sender] = now
            return self._request

    def accept_report(self, body: bytes, sender: str) -> None:
        """Read a member's report and deliver it. Raises EnrolmentRefused for what was not asked for."""
        with self._lock:
            name, shared = self._open.get(sender), self._shared.get(sender)
        if name is None or shared is None:
            raise _build_unasked_error()
        report = decrypt_report(body, self._request, shared)
        with self._lock:
            if self._open.pop(sender, None) is None:
                raise _build_unasked_error()
            self._deliver(name, report)  # no look between the two takes it for one that has said all

    def list_silent(self) -> dict[str, Silence]:
        """The machines without a report so far, and why."""
        with self._lock:
            return {name: self._explain_silence(address) for address, name in self._open.items()}

    def _explain_silence(self, address: str) -> Silence:
        if address in self._asked:
            return "silent"
        return "older" if address in self._older else "away"


def _build_unasked_error() -> EnrolmentRefused:
    """For findings that the control node did not ask for."""
    return EnrolmentRefused(
        "the control node has not asked this machine for its findings",
        hint="run `qmesh check --all` on the control node",
    )
